"""A JSON object with a line for every image, written and read image by image: memory holds one, not thousands."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from oddlattice.storage.atomic import whole_file
from oddlattice.storage.json_text import json_text
from oddlattice.storage.rows import Row

_JSON = json.JSONDecoder()


def write_by_image(rows: Iterable[tuple[str, Row]], path: str | Path) -> None:
    """Write what is known of each image, as it comes; ASCII, the same bytes for the same values."""
    with whole_file(path) as part, part.open("w", encoding="ascii") as file:
        before = "{\n"
        for image_id, row in rows:
            file.write(f"{before}{json_text(image_id)}: {json_text(row)}")
            before = ",\n"
        file.write("{\n}\n" if before == "{\n" else "\n}\n")


class ByImage:
    """What `write_by_image` wrote, read when it is asked for.

    Parameters
    ----------
    path : path

    Raises
    ------
    ValueError
        If a line holds anything but one image.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lines: dict[str, tuple[int, int]] = {}  # image_id: where its line begins, and how many bytes it has
        start = 0
        with self._path.open("rb") as file:
            for line in file:
                if line.strip() not in (b"{", b"}", b"{}"):
                    self._lines[self._begun(line)[0]] = start, len(line)
                start += len(line)

    def _begun(self, line: bytes) -> tuple[str, str]:
        """The image that a line is about, and the rest of the line."""
        text = line.decode("ascii", errors="replace")
        try:
            image_id, end = _JSON.raw_decode(text)
        except ValueError:
            image_id, end = None, 0
        if not isinstance(image_id, str) or not text.startswith(": {", end):
            raise ValueError(f"{self._path}: found {text[:40]!r}; needed a line for every image")
        return image_id, text[end + 2 :]

    def get(self, image_id: str) -> Row:
        """What is known of an image; empty where there is nothing."""
        if image_id not in self._lines:
            return {}
        start, length = self._lines[image_id]
        with self._path.open("rb") as file:
            file.seek(start)
            found: Row = _JSON.raw_decode(self._begun(file.read(length))[1])[0]
        return found

    def items(self) -> Iterator[tuple[str, Row]]:
        """Every image and what is known of it, in the order of the file."""
        return ((image_id, self.get(image_id)) for image_id in self._lines)
