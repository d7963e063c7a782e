"""HDF5, the container of several formats: what is checked before a reader follows what it says."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oddlattice.process.sandbox import Refused
from oddlattice.read.claims import check_claim, check_length

MAGIC = b"\x89HDF\r\n\x1a\n"
_LARGEST_TREE = 100_000
_DEEPEST_TREE = 64


def starts(head: bytes) -> bool:
    """Whether a file that starts with `head` is HDF5, which allows a user block in front."""
    return any(head[place : place + 8] == MAGIC for place in (0, 512, 1024, 2048))


def check(path: Path) -> None:
    """Refuse an HDF5 file that points outside itself, runs in circles or claims far more than it holds.

    RosettaSciIO follows external links, external storage and virtual datasets: a crafted file would put another
    file's bytes into an image.

    Raises
    ------
    Refused
        With the object's name and what is wrong with it.
    """
    import h5py

    size = os.path.getsize(path)
    with h5py.File(path, "r") as file:
        for where, dataset in _datasets(file):
            _check_dataset(where, dataset, size)


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield all datasets with their names; external links are looked at, never followed."""
    import h5py

    seen = 0
    soft: list[tuple[Any, str, str]] = []
    waiting: list[tuple[str, Any, frozenset[int]]] = [("", file, frozenset())]
    while waiting:
        where, group, above = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in above:
            raise Refused(f"is built in a circle: group {_shown(where)} contains itself")
        if len(above) >= _DEEPEST_TREE:
            raise Refused(f"nests groups deeper than {_DEEPEST_TREE} levels")
        for name in group:
            seen += 1
            if seen > _LARGEST_TREE:
                raise Refused(f"holds more than {_LARGEST_TREE} objects; an image file has some hundred")
            inside = f"{where}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise Refused(f"refers to another file ({_shown(inside)} is an external link); refused for safety")
            if isinstance(link, h5py.SoftLink):
                soft.append((group, name, inside))
                continue
            found = group[name]
            if isinstance(found, h5py.Dataset):
                yield inside, found
            elif isinstance(found, h5py.Group):
                waiting.append((inside, found, above | {address}))
    for group, name, inside in soft:  # only now that no link leads out of the file
        _check_soft_link(file, group, name, inside)


def _check_soft_link(file: Any, group: Any, name: str, inside: str) -> None:
    """A soft link may lead to a dataset of this file, not to a group around itself, nor to other links without end."""
    import h5py

    try:
        target = group[name]
    except (KeyError, RuntimeError) as error:
        if "too many links" in str(error):
            raise Refused(f"has a link in a circle ({_shown(inside)}); refused for safety") from None
        return  # leads nowhere: does no harm
    if isinstance(target, h5py.Group):
        goal = h5py.h5o.get_info(target.id).addr
        parts = inside.split("/")[1:-1]
        around = [file, *(file["/".join(parts[: n + 1])] for n in range(len(parts)))]
        if goal in (h5py.h5o.get_info(g.id).addr for g in around):
            raise Refused(f"has a link in a circle ({_shown(inside)}); refused for safety")


def _check_dataset(where: str, dataset: Any, file_bytes: int) -> None:
    shown = _shown(where)
    if dataset.is_virtual:
        raise Refused(f"refers to other files ({shown} is a virtual dataset); refused for safety")
    if dataset.external:
        raise Refused(f"refers to another file ({shown} has external storage); refused for safety")
    if dataset.shape is None:
        return
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.chunks is None:
        check_length(claimed, file_bytes, shown)
    check_claim(claimed, dataset.id.get_storage_size(), shown)


def _shown(where: str) -> str:
    printable = where.encode("ascii", "backslashreplace").decode()
    return printable if len(printable) <= 80 else printable[:77] + "..."
