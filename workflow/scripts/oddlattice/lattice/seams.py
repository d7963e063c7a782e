"""Grains up to their seams: the cells that a seam cuts, and the light of other grains' columns in them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from oddlattice.crystal import column_distance
from oddlattice.lattice.columns import ColumnShape, peak_at
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.resample import inside_cells
from oddlattice.lattice.shapes import fit_shapes
from oddlattice.lattice.spoilt import SURROUNDED, Seen
from oddlattice.numerics.arrays import Array, Bools, Float
from oddlattice.numerics.distances import distance_px

FROM_SEAM = 0.9  # of the distance between columns: nearer a seam, a column is not tested
CUT_CELLS = 3  # so many cells beyond those without a blank pixel may hold such columns
REACH_WIDTHS = 3.5  # of a column's tail: so far its light is reckoned with
LARGEST_REACH = 2.0  # distances between columns


@dataclass(frozen=True)
class Side:
    """A grain of an image of several.

    Attributes
    ----------
    found : Registration
        Of the grain alone, on a crystal.
    away_px : ndarray of shape (rows, cols)
        Distance of each pixel from those that are not the grain's; of the others, minus that from the grain.
    """

    found: Registration
    away_px: Array

    @classmethod
    def of(cls, found: Registration, region: Bools) -> "Side":
        """That of a grain with these pixels (rows, cols)."""
        return cls(found, distance_px(region) - distance_px(~region))

    @property
    def places(self) -> Array:
        """Places of the columns in the cell; shape (n, 2)."""
        crystal = self.found.crystal
        return np.array([(column.u, column.v) for column in crystal.columns] if crystal is not None else [(0.5, 0.5)])

    @property
    def column_distance_px(self) -> float:
        """Distance between its nearest columns."""
        return column_distance(self.found.frame.vectors_px, self.places)

    @property
    def coordinates(self) -> Coordinates:
        """From cells, counted from the first of the registration's, to the image."""
        return Coordinates(self.found.nodes_px, self.found.row_shift_px, self.found.transposed)

    def to_seam(self, uv: Array) -> Array:
        """Distance of lattice coordinates (..., 2) from the seam [px]."""
        at = np.moveaxis(self.coordinates.seen_px(uv), -1, 0)
        return np.asarray(ndimage.map_coordinates(self.away_px, at, order=1, mode="nearest"))

    @property
    def pixels_uv(self) -> Array:
        """Lattice coordinates of the pixels of the tiles; shape (U n_u, V n_v, 2)."""
        sides = zip(self.found.mask.shape, self.found.px_per_cell, strict=True)
        return np.stack(np.meshgrid(*((np.arange(n * k) + 0.5) / k for n, k in sides), indexing="ij"), -1)


def up_to_seams(sides: Mapping[int, Side], seen: Seen) -> dict[int, Registration]:
    """Registrations of grains with the cells that seams cut, of which columns lie far enough from them to be tested.

    Parameters
    ----------
    seen : Seen
        Where in the whole image a crystal is seen.
    """
    margin_px = FROM_SEAM * max((side.column_distance_px for side in sides.values()), default=0.0)
    found = {number: _with_cut_cells(side, seen, margin_px) for number, side in sides.items()}
    return {
        number: replace(one, foreign=_foreign_light(sides[number], [sides[k] for k in sides if k != number]))
        for number, one in found.items()
    }


def _with_cut_cells(side: Side, seen: Seen, margin_px: float) -> Registration:
    """The registration with the cells in which there is a column more than a margin from the seam."""
    found = side.found
    corners = np.moveaxis(np.indices(found.mask.shape), 0, -1)
    held = side.to_seam(corners[..., None, :] + side.places).max(-1) > margin_px
    candidates = held & ~found.inside & seen.cells(found.nodes_px) & ~found.frame.cut_cells(found.nodes_px)
    candidates &= inside_cells(found.nodes_px, found.frame.shape, float(np.abs(found.row_shift_px).max()))
    square = np.ones((3, 3), dtype=bool)
    cut = candidates & ndimage.binary_dilation(found.mask, square, CUT_CELLS, mask=found.mask | candidates)
    nodes = np.moveaxis(np.indices(found.depth_px.shape), 0, -1).astype(np.float64)
    # what stands beyond the seam is seen, as the columns of another grain
    to_seam = side.to_seam(nodes) - margin_px + SURROUNDED * float(np.hypot(*found.frame.vectors_px.T).min())
    from_cuts = found.frame.from_cuts_px(np.moveaxis(found.nodes_px, 0, -1))
    depth_px = np.minimum(np.minimum(seen.depth_px(found.nodes_px), from_cuts), to_seam)
    return replace(found, mask=found.mask | cut, inside=found.inside | cut, depth_px=depth_px)


def _foreign_light(side: Side, others: list[Side]) -> Float:
    """What columns of other grains add to the pixels of the tiles; see `Record.foreign`."""
    uv = side.pixels_uv
    away = side.to_seam(uv)
    light = np.where(away > 0, 0.0, np.nan).astype(np.float32)
    for other in others:
        columns = _columns_near_seam(other)
        near = np.argwhere((away > 0) & (away < columns.reach_px))
        if not len(near) or not len(columns.places_px):
            continue
        pixels = side.coordinates.seen_px(uv[tuple(near.T)])
        counts = columns.light_at(pixels)
        cells = near // np.array(side.found.px_per_cell)
        light[tuple(near.T)] += (counts / side.found.local_mean[tuple(cells.T)]).astype(np.float32)
    return light


@dataclass(frozen=True)
class _Columns:
    """Columns of a grain near its seams: places (n, 2) [px], their shapes, their heights (n,) over 1 [counts]."""

    places_px: Array
    number: Array
    mean_counts: Array
    shapes: list[ColumnShape]
    vectors_px: Array
    reach_px: float

    def light_at(self, pixels_px: Array) -> Array:
        """Counts that they add at pixels (p, 2)."""
        total = np.zeros(len(pixels_px))
        inverse = np.linalg.inv(self.vectors_px)
        pairs = cKDTree(pixels_px).sparse_distance_matrix(cKDTree(self.places_px), self.reach_px, output_type="ndarray")
        apart = (pixels_px[pairs["i"]] - self.places_px[pairs["j"]]) @ inverse
        for k, shape in enumerate(self.shapes):
            own = self.number[pairs["j"]] == k
            height = peak_at(shape, *apart[own].T) * self.mean_counts[pairs["j"][own]]
            np.add.at(total, pairs["i"][own], height)
        return total


def _columns_near_seam(side: Side) -> _Columns:
    found = side.found
    with np.errstate(over="ignore", invalid="ignore"):  # of steps of the fit that are not taken
        shapes = fit_shapes(found.mean_cell.cell(found.px_per_cell), found.crystal.columns) if found.crystal else []
    vectors, inverse = found.frame.vectors_px, np.linalg.inv(found.frame.vectors_px)
    widths = [1.0]
    for shape in shapes:
        uu, cross, vv = shape.precision
        precision = inverse @ np.array([[uu, cross], [cross, vv]]) @ inverse.T
        widths.append(max(shape.tail_width, 1.0) / float(np.sqrt(np.linalg.eigvalsh(precision).min())))
    reach = min(REACH_WIDTHS * max(widths), LARGEST_REACH * side.column_distance_px)
    cells = np.moveaxis(np.indices(found.mask.shape), 0, -1).reshape(-1, 2)
    at, numbers = [np.empty((0, 2), dtype=int)], [np.empty(0, dtype=int)]
    for k, shape in enumerate(shapes):
        away = side.to_seam(cells + np.array([shape.u, shape.v]))
        kept = (away > 0) & (away < reach)
        at.append(cells[kept])
        numbers.append(np.full(int(kept.sum()), k))
    cell, number = np.concatenate(at), np.concatenate(numbers)
    in_cell = np.array([(shape.u, shape.v) for shape in shapes]).reshape(-1, 2)
    places = side.coordinates.seen_px(cell + in_cell[number])
    return _Columns(places, number, found.local_mean[tuple(cell.T)], shapes, vectors, reach)
