"""Small zarr stores in one file each: what is kept of ten million images shall not be a thousand million files."""

import zipfile
from pathlib import Path

import zarr
from zarr.storage import ZipStore

from oddlattice.storage.atomic import whole_file

ENDING = ".zarr.zip"
_BEGIN = (1980, 1, 1, 0, 0, 0)  # time of every member: the same content, the same bytes


def pack_store(store: Path, packed: Path, without: str = "") -> None:
    """Put a store into one file, whole or not at all; its arrays and groups called `without` and hidden files stay out.

    Members are not compressed: the chunks are.
    """
    with whole_file(packed) as part, zipfile.ZipFile(part, "w") as archive:
        for path in sorted(store.rglob("*")):
            inside = path.relative_to(store)
            if path.is_file() and not any(name == without or name[0] == "." for name in inside.parts):
                archive.writestr(zipfile.ZipInfo(inside.as_posix(), _BEGIN), path.read_bytes())


def unpack_group(path: Path, name: str, into: Path) -> None:
    """Write one group of a packed store into the folder of another store."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(into, [inside for inside in archive.namelist() if inside.startswith(f"{name}/")])


def open_store(path: Path) -> zarr.Group:
    """A store, packed or not, for reading."""
    return zarr.open_group(ZipStore(path, mode="r") if path.suffix == ".zip" else path, mode="r")
