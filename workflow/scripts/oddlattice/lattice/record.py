"""The registration record of a grain: what is kept of it, and the tiles that are cut from an image with it.

Tiles, and what is made of them, are caches: from image and record they are made again, bit by bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec

from oddlattice.crystal import PX_PER_CELL, PxPerCell
from oddlattice.lattice.columns import as_cells
from oddlattice.lattice.resample import cut_cells
from oddlattice.lattice.subareas import CHUNK_CELLS, in_px
from oddlattice.numerics.arrays import Array, Float
from oddlattice.storage import blocks
from oddlattice.storage.groups import attributes_of, values_of
from oddlattice.storage.windows import Scaled, Transposed

BAND_CELLS = 4 * CHUNK_CELLS  # cells along u and v cut at once, to bound memory
KEPT_PX = 1 << 24  # pixels of tiles that are few enough to be kept
CODEC = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")

Band = tuple[tuple[slice, slice], Float]  # a window of cells (u, v) and its tiles


@dataclass(frozen=True)
class Record:
    """All that is needed to cut a grain's tiles from its image.

    Attributes
    ----------
    nodes_px : ndarray of shape (2, U + 1, V + 1)
        (row, col) of the cells' corners [px], line shifts not included.
    line_shift_px : ndarray of shape (rows,)
        Of each line of the scan; of shape (cols,) where the scan is `transposed`.
    local_mean : ndarray of shape (U, V)
        Pedestal included [counts].
    mask : ndarray of shape (U, V), bool
        Cells analysed.
    inside : ndarray of shape (U, V), bool
        Cells that lie in the image.
    pedestal : float
        Added to the image before dividing [counts].
    transposed : bool
        Whether the lines of the scan are the image's columns.
    px_per_cell : tuple of int
        (n_u, n_v).
    first : tuple of int
        Lattice coordinates of the corner of cell (0, 0) of the arrays, counted from the frame's origin.
    sign : int
        -1 where columns are dark on bright ground: tiles are turned over about their mean, so that columns are bright.
    depth_px : ndarray of shape (U + 1, V + 1)
        Distance of the cells' corners from what is not in the image, or blank.
    line_gain : ndarray, of the shape of `line_shift_px`
        Factor of each line of the scan, by which the image is divided first: the steps of the current.
    foreign : ndarray of shape (U n_u, V n_v), float32
        What columns of other grains add to the pixels of the tiles, which is taken off; nan where a pixel is another
        grain's: in an analysed cell it is taken from the nearest cell that has none of these, elsewhere it is 0. Empty
        where there is no other grain.
    """

    nodes_px: Array
    line_shift_px: Array
    local_mean: Array
    mask: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]
    pedestal: float = 0.0
    transposed: bool = False
    px_per_cell: PxPerCell = PX_PER_CELL
    first: tuple[int, int] = (0, 0)
    sign: int = 1
    depth_px: Array = field(default_factory=lambda: np.empty((0, 0)))
    line_gain: Array = field(default_factory=lambda: np.empty(0))
    foreign: Float = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _kept: list[tuple[Any, list[Band]]] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, group: zarr.Group) -> Self:
        """The record as `write` left it in a grain's group."""
        said = attributes_of(group)
        return cls(
            nodes_px=values_of(group, "nodes_px"),
            line_shift_px=values_of(group, "line_shift_px"),
            local_mean=values_of(group, "local_mean"),
            mask=values_of(group, "mask").astype(bool),
            inside=values_of(group, "inside").astype(bool),
            pedestal=float(said["pedestal_counts"]),
            transposed=bool(said["scan_transposed"]),
            px_per_cell=tuple(said["px_per_cell"]),
            first=tuple(said["first_cell"]),
            sign=int(said.get("contrast_sign", 1)),
            depth_px=values_of(group, "depth_px"),
            line_gain=values_of(group, "line_gain"),
            foreign=values_of(group, "foreign") if "foreign" in group else np.empty((0, 0), np.float32),
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """What the record says beside its arrays."""
        return {
            "pedestal_counts": self.pedestal,
            "scan_transposed": self.transposed,
            "px_per_cell": list(self.px_per_cell),
            "first_cell": list(self.first),
            "contrast_sign": self.sign,
        }

    def write(self, group: zarr.Group) -> None:
        """Write the arrays of the record, exactly; `attributes` go with them."""
        arrays: dict[str, tuple[npt.NDArray[Any], tuple[str, ...]]] = {
            "mask": (self.mask.astype(np.uint8), ("u", "v")),
            "inside": (self.inside.astype(np.uint8), ("u", "v")),
            "nodes_px": (np.ascontiguousarray(self.nodes_px, np.float64), ("axis", "u", "v")),
            "line_shift_px": (self.line_shift_px.astype(np.float64), ("col" if self.transposed else "row",)),
            "local_mean": (self.local_mean.astype(np.float64), ("u", "v")),
            "line_gain": (self.line_gain.astype(np.float64), ("col" if self.transposed else "row",)),
            "depth_px": (self.depth_px.astype(np.float64), ("u", "v")),
        }
        if self.foreign.size:
            arrays["foreign"] = self.foreign, ("u", "v")
        for name, (values, dims) in arrays.items():
            array = group.create_array(
                name,
                shape=values.shape,
                chunks=values.shape,
                dtype=values.dtype,
                compressors=[CODEC],
                dimension_names=dims,
            )
            blocks.write(array, (), values)

    def bands(self, image: Any, *, keep: bool = False) -> Iterator[Band]:
        """All tiles of an image, band of cells by band of cells.

        With `keep` they are kept where they are few, and given again where the same image is asked for.
        """
        if self._kept and self._kept[0][0] is image:
            yield from self._kept[0][1]
            return
        cells_u, cells_v = self.mask.shape
        few, done = self.mask.size * self.px_per_cell[0] * self.px_per_cell[1] <= KEPT_PX, list[Band]()
        for u in range(0, cells_u, BAND_CELLS):
            for v in range(0, cells_v, BAND_CELLS):
                cells = slice(u, min(u + BAND_CELLS, cells_u)), slice(v, min(v + BAND_CELLS, cells_v))
                band = cells, self.cut(image, cells)
                done += [band] if keep and few else []
                yield band
        if done:
            self._kept[:] = [(image, done)]

    def cut(self, image: Any, cells: tuple[slice, slice]) -> Float:
        """Cut a window of cells, indices into `mask`, from an image; see `resample.cut_cells`."""
        seen: Any = Transposed(image) if self.transposed else image
        if (self.line_gain != 1).any():
            seen = Scaled(seen, self.line_gain)
        tile = self._cut(seen, cells)
        if self.foreign.size:
            self._mend_cut_cells(seen, cells, tile)
        return tile if self.sign > 0 else turned_over(tile)

    def _cut(self, seen: Any, cells: tuple[slice, slice]) -> Float:
        nodes_px = self.nodes_px[::-1] if self.transposed else self.nodes_px
        shifts, mean = self.line_shift_px, self.local_mean
        return cut_cells(seen, nodes_px, shifts, mean, cells, self.pedestal, self.px_per_cell)

    def _mend_cut_cells(self, seen: Any, cells: tuple[slice, slice], tile: Float) -> None:
        """Take what is other grains' out of a tile, in place."""
        light = self.foreign[in_px(cells, self.px_per_cell)]
        beyond = np.isnan(light)
        tile[:] = np.where(beyond, 0, tile - light)
        into, foreign = as_cells(tile, self.px_per_cell), as_cells(beyond, self.px_per_cell)
        for u, v in np.argwhere(self.mask[cells] & foreign.any(axis=(2, 3))):
            i, j = (int(source[cells[0].start + u, cells[1].start + v]) for source in self._sources)
            whole = self._cut(seen, (slice(i, i + 1), slice(j, j + 1)))
            into[u, v][foreign[u, v]] = whole[foreign[u, v]]

    @cached_property
    def _sources(self) -> npt.NDArray[np.int64]:
        """The analysed cell in which nothing is foreign that is nearest to each cell; shape (2, U, V)."""
        whole = self.mask & (as_cells(self.foreign, self.px_per_cell) == 0).all(axis=(2, 3))
        return np.asarray(ndimage.distance_transform_edt(~whole, return_distances=False, return_indices=True))


def turned_over(values: Float) -> Float:
    """Values of mean 1 the other way round; 0 stays 0: there nothing is known."""
    return np.asarray(np.where(values == 0, 0, 2 - values), dtype=np.float32)


def write_tiles(image: Any, record: Record, group: zarr.Group) -> None:
    """Cut all tiles of a grain from its image into its group."""
    (cells_u, cells_v), (n_u, n_v) = record.mask.shape, record.px_per_cell
    tiles = group.create_array(
        "tiles",
        shape=(cells_u * n_u, cells_v * n_v),
        chunks=(CHUNK_CELLS * n_u, CHUNK_CELLS * n_v),
        dtype="float32",
        compressors=[CODEC],
        dimension_names=("u", "v"),
        fill_value=0,
    )
    for cells, tile in record.bands(image):
        blocks.write(tiles, in_px(cells, record.px_per_cell), tile)
