"""Images and maps as OME-Zarr 0.5: multiscale groups, written block by block with one owner per chunk."""

import json
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import Blosc, blosc
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.storage import LocalStore, MemoryStore

from oddlattice.numerics.arrays import AnyArray

PixelNm = tuple[float, float]

CHUNK_PX = 1024
#: The pyramid ends with the first level whose larger side is at most this.
SMALLEST_LEVEL_PX = 512
_AXES = ("y", "x")  # rows, columns: by these names validators and viewers know them
_CLEVEL = 5
_CACHED_ROWS = 16  # so many rows at a time stay in the processor's cache

# Threads inside blosc put the blocks of a chunk in the order in which they finish: other bytes every time.
blosc.use_threads = False


def stored_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The dtype in which pixels of `dtype` are kept: integers as they are, bool as uint8, the rest as float32."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.dtype("uint8")
    return dtype.newbyteorder("=") if dtype.kind in "iu" else np.dtype("float32")


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes (rows, cols) of all levels: halved, an odd last row or column dropped, until at most 512 px."""
    shapes = [shape]
    while max(shapes[-1]) > SMALLEST_LEVEL_PX and min(shapes[-1]) > 1:
        rows, cols = shapes[-1]
        shapes.append((rows // 2, cols // 2))
    return shapes


def halve(values: AnyArray) -> AnyArray:
    """Mean over 2x2 pixels.

    Parameters
    ----------
    values : ndarray of shape (rows, cols)
        Integers or float32; an odd last row or column is dropped.

    Returns
    -------
    ndarray of shape (rows // 2, cols // 2)
        Of the same dtype; integers are rounded half up.
    """
    rows, cols = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    wide = _sum_dtype(values.dtype)
    mean = np.empty((rows // 2, cols // 2), values.dtype)
    for start in range(0, rows, _CACHED_ROWS):
        block = values[start : min(start + _CACHED_ROWS, rows), :cols]
        pairs = np.add(block[::2], block[1::2], dtype=wide)
        total = pairs[:, ::2] + pairs[:, 1::2]
        if values.dtype.kind == "f":
            total *= wide.type(0.25)
        elif wide.kind == "i":
            total += 2
            total >>= 2
        else:
            total = np.floor(total * 0.25 + 0.5)
        mean[start // 2 : start // 2 + len(total)] = total
    return mean


def _sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype that holds the sum of four values."""
    if dtype.kind == "f":
        return np.dtype("float32")
    return np.dtype({1: "int32", 2: "int32", 4: "int64"}.get(dtype.itemsize, "float64"))


def metadata(name: str, levels: int, pixel_nm: PixelNm | None) -> dict[str, Any]:
    """The attribute "ome" of an image with `levels` levels; pixel size (row, col) [nm], None where unknown.

    Pixel centres of level k lie at (2^k - 1) / 2 px of level 0, hence the translations.
    """
    axes: list[dict[str, str]] = [{"name": axis, "type": "space"} for axis in _AXES]
    if pixel_nm is not None:
        axes = [axis | {"unit": "nanometer"} for axis in axes]
    pixel = pixel_nm or (1.0, 1.0)
    datasets = []
    for level in range(levels):
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": [p * 2**level for p in pixel]}]
        if level:
            steps.append({"type": "translation", "translation": [p * (2**level - 1) / 2 for p in pixel]})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    multiscale = {"name": name, "type": "mean of 2x2 pixels", "axes": axes, "datasets": datasets}
    return {"version": "0.5", "multiscales": [multiscale]}


class _Level:
    """One array of a pyramid: takes rows in order, writes every full band of chunks, hands the halved band on."""

    def __init__(self, image: Path, level: int, shapes: list[tuple[int, int]], dtype: np.dtype[Any]) -> None:
        self.shape = shapes[level]
        self.chunk = (min(CHUNK_PX, self.shape[0]), min(CHUNK_PX, self.shape[1]))
        self.folder = image / str(level) / "c"
        self.folder.mkdir(parents=True)
        (image / str(level) / "zarr.json").write_bytes(_array_json(self.shape, self.chunk, dtype))
        self.band = np.zeros((self.chunk[0], self.shape[1]), dtype)
        self.filled = 0
        self.written = 0
        self.under_way: list[Future[None]] = []
        self.next = _Level(image, level + 1, shapes, dtype) if level + 1 < len(shapes) else None

    def push(self, rows: AnyArray, pool: ThreadPoolExecutor | None) -> None:
        while len(rows):
            taken = min(len(rows), len(self.band) - self.filled)
            if taken == len(self.band):  # a whole band: written as it is
                self._flush(np.asarray(rows[:taken], self.band.dtype), pool)
                rows = rows[taken:]
                continue
            self.band[self.filled : self.filled + taken] = rows[:taken]
            self.filled += taken
            rows = rows[taken:]
            if self.filled == len(self.band) or self.written + self.filled == self.shape[0]:
                self.band[self.filled :] = 0
                n_rows, self.filled = self.filled, 0
                self._flush(self.band, pool, n_rows)
                self.band = np.zeros_like(self.band) if pool else self.band  # the one before is still being written

    def _flush(self, band: AnyArray, pool: ThreadPoolExecutor | None, n_rows: int | None = None) -> None:
        n_rows = len(band) if n_rows is None else n_rows
        folder = self.folder / str(self.written // self.chunk[0])
        folder.mkdir()
        cols = range(0, self.shape[1], self.chunk[1])
        jobs = [(band, start, self.chunk[1], folder / str(start // self.chunk[1])) for start in cols]
        self.wait()
        if pool:
            self.under_way = [pool.submit(_write_chunk, *job) for job in jobs]
        else:
            for job in jobs:
                _write_chunk(*job)
        self.written += n_rows
        if self.next is not None:
            self.next.push(halve(band[:n_rows]), pool)

    def wait(self) -> None:
        """Until the band before is written: memory holds two of them."""
        for chunk in self.under_way:
            chunk.result()

    def close(self) -> None:
        level: _Level | None = self
        while level is not None:
            level.wait()
            assert level.written == level.shape[0], f"{level.written} of {level.shape[0]} rows written"
            level = level.next


@lru_cache
def _array_json(shape: tuple[int, int], chunk: tuple[int, int], dtype: np.dtype[Any]) -> bytes:
    """zarr.json of an array, as zarr has it; asked for once for all frames of a stack, for it takes zarr 2 ms."""
    array = zarr.create_array(
        MemoryStore(),
        shape=shape,
        dtype=dtype,
        chunks=chunk,
        compressors=[BloscCodec(cname="lz4", clevel=_CLEVEL, shuffle="bitshuffle", typesize=dtype.itemsize)],
        fill_value=0,
        dimension_names=_AXES,
    )
    return _json(array.metadata)


def _json(described: Any) -> bytes:
    """zarr.json of a group or an array by their metadata."""
    return bytes(described.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes())


def _write_chunk(band: AnyArray, start: int, width: int, path: Path) -> None:
    # Encoded here and not by `array[...] = band`: the same bytes, three times faster.
    block = np.ascontiguousarray(band[:, start : start + width])
    if block.shape[1] < width:
        block = np.pad(block, ((0, 0), (0, width - block.shape[1])))
    code = Blosc(cname="lz4", clevel=_CLEVEL, shuffle=Blosc.BITSHUFFLE)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(code.encode(block))


class Bands:
    """An image that is written as its bands of rows come; for use in a `with` statement.

    Memory holds one band of chunks per level, two with several threads. Parameters as `write_bands`.
    """

    def __init__(
        self,
        group: zarr.Group | Path,
        shape: tuple[int, int],
        dtype: npt.DTypeLike,
        pixel_nm: PixelNm | None,
        *,
        name: str = "",
        threads: int = 1,
    ) -> None:
        self._group, self._shapes = group, level_shapes(shape)
        self._metadata = metadata(name, len(self._shapes), pixel_nm)
        self._top = _Level(_folder_of(group), 0, self._shapes, stored_dtype(dtype))
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def push(self, band: AnyArray) -> None:
        """Take the next rows, shape (n, cols), any number of them."""
        self._top.push(band, self._pool)

    def __enter__(self) -> "Bands":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if kind is None:
            self._top.close()
            if isinstance(self._group, Path):
                add_attribute(self._group, "ome", self._metadata)
            else:
                self._group.attrs["ome"] = self._metadata


def _folder_of(group: zarr.Group | Path) -> Path:
    if isinstance(group, Path):
        return group
    if not isinstance(group.store, LocalStore):
        raise TypeError(f"{group.store}: images are written to local folders only")
    return Path(group.store.root) / group.path


def add_attribute(folder: Path, name: str, value: object) -> None:
    """Add an attribute to the zarr group that is a folder, or make it one: the bytes of zarr, twenty times faster."""
    path = folder / "zarr.json"
    before = json.loads(path.read_bytes())["attributes"] if path.exists() else {}
    path.write_bytes(_json(GroupMetadata(attributes=before | {name: value}, zarr_format=3)))


def make_collection(store: Path, depth: int) -> None:
    """Make a store a collection of its images, which viewers open as a whole.

    Source: OME-Zarr 0.5, "bioformats2raw.layout": the group OME lists the paths of the images, by name here, and
    METADATA.ome.xml, which some viewers go by, describes them.

    Parameters
    ----------
    store : Path
        Folder of a zarr group.
    depth : int
        How many folders below it the multiscale images are: 1 for images, 2 for their maps.
    """
    images = sorted(str(path.parent.relative_to(store)) for path in store.glob("*/" * depth + "zarr.json"))
    (store / "OME").mkdir()
    add_attribute(store / "OME", "ome", {"version": "0.5", "series": images})
    add_attribute(store, "ome", {"version": "0.5", "bioformats2raw.layout": 3})
    root = ElementTree.Element("OME", xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06")
    for image in images:
        described = ElementTree.SubElement(root, "Image", ID=f"Image:{image}", Name=image)
        pixels = ElementTree.SubElement(described, "Pixels", _pixels(store / image) | {"ID": f"Pixels:{image}"})
        ElementTree.SubElement(pixels, "MetadataOnly")
    text = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    (store / "OME/METADATA.ome.xml").write_bytes(text)


def _pixels(image: Path) -> dict[str, str]:
    """What OME-XML says of the pixels of a multiscale image: type, numbers of pixels, size of one."""
    array = json.loads((image / "0/zarr.json").read_bytes())
    (multiscale,) = json.loads((image / "zarr.json").read_bytes())["attributes"]["ome"]["multiscales"]
    kinds = {"float32": "float", "int64": "double", "uint64": "double"}  # OME-XML has no integers of 64 bits
    found = {"DimensionOrder": "XYZCT", "Type": kinds.get(array["data_type"], array["data_type"])}
    found |= {f"Size{axis}": "1" for axis in "ZCT"}
    scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
    for axis, size, step, said in zip("YX", array["shape"], scale, multiscale["axes"], strict=True):
        found[f"Size{axis}"] = str(size)
        if "unit" in said:
            found |= {f"PhysicalSize{axis}": str(step), f"PhysicalSize{axis}Unit": "nm"}
    return found


def write_bands(
    group: zarr.Group | Path,
    bands: Iterable[AnyArray],
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    pixel_nm: PixelNm | None,
    *,
    name: str = "",
    threads: int = 1,
) -> None:
    """Write an image that comes as consecutive bands of rows; see `Bands` for what memory holds.

    Parameters
    ----------
    group : zarr.Group or Path
        Empty group on local disk, or the folder that is to be one; becomes the multiscale image.
    bands : iterable of ndarray of shape (n, cols)
        From top to bottom, any number of rows each.
    shape : tuple of int
        Rows and columns of the whole image [px].
    dtype : dtype
        Of the pixels; see `stored_dtype`.
    pixel_nm : tuple of float or None
        Pixel size (row, col) [nm].
    name : str
        Name shown by viewers.
    threads : int
        Chunks compressed at the same time; the bytes do not depend on it.
    """
    with Bands(group, shape, dtype, pixel_nm, name=name, threads=threads) as image:
        for band in bands:
            image.push(band)


def computed(block: Any) -> AnyArray:
    """A numpy or dask block as a numpy array, computed in this thread."""
    if not hasattr(block, "compute"):
        return np.asarray(block)
    from dask.local import get_sync  # given by name ("synchronous") dask imports dask.distributed first, for 0.3 s

    return np.asarray(block.compute(scheduler=get_sync))


def bands_of(array: Any, rows: int = CHUNK_PX) -> Iterable[AnyArray]:
    """Bands of `rows` rows of a 2-D numpy or dask array, one in memory at a time."""
    for start in range(0, array.shape[0], rows):
        band = array[start : start + rows]
        yield computed(band)


def write_image(group: zarr.Group, array: Any, pixel_nm: PixelNm | None, *, name: str = "", threads: int = 1) -> None:
    """Write a numpy or dask array of shape (rows, cols) as a multiscale image; see `write_bands`."""
    write_bands(group, bands_of(array), array.shape, array.dtype, pixel_nm, name=name, threads=threads)
