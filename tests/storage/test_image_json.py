"""What is known of each image, a line each: written as it comes, read when it is asked for."""

import json
from pathlib import Path

import pytest

from oddlattice.storage.image_json import ByImage, write_by_image

ROWS = {"a-1": {"sites": [{"site": "Sr", "n": 3}], "z": 1.5}, 'b-2 "<é>': {}, "c": {"failed": "line\nbreak"}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "statistics.json"
    write_by_image(iter(ROWS.items()), path)
    assert json.loads(path.read_text(encoding="ascii")) == ROWS
    assert len(path.read_text().splitlines()) == len(ROWS) + 2
    found = ByImage(path)
    assert [found.get(image_id) for image_id in reversed(ROWS)] == list(reversed(ROWS.values()))
    assert dict(found.items()) == ROWS
    assert found.get("nowhere") == {}


def test_no_image_at_all(tmp_path: Path) -> None:
    path = tmp_path / "statistics.json"
    write_by_image([], path)
    assert json.loads(path.read_text()) == {} == dict(ByImage(path).items())


def test_rows_are_written_as_they_come_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "statistics.json"
    ended = []

    def rows():  # type: ignore[no-untyped-def]
        yield "a", {"n": 1}
        ended.append(path.exists())
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_by_image(rows(), path)
    assert ended == [False] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ['{"a": {"n": 1}, "b": {}}', "[\n1\n]", '{\n "a" {}\n}', '{\n"a": 3\n}'])
def test_another_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "statistics.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"statistics.json: found .*; needed a line for every image"):
        ByImage(path)
