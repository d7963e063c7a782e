"""Pictures cut from the lattice frame, in the image's own shape: a crop about each defect, and the median cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.lattice.columns import px_of
from oddlattice.numerics.arrays import Array
from oddlattice.report import numbers as n
from oddlattice.report import pictures
from oddlattice.report.image_facts import pixel_size_nm
from oddlattice.report.images import GrainFrame, Image
from oddlattice.report.layers import map_limit
from oddlattice.storage.groups import FIRST_GRAIN
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import every

CROP_PX = 60  # side of a defect's crop
CELL_VIEW_PX = 168  # side of a picture of the median cell
MIDDLE = np.array([0.5, 0.5])  # of a cell
CROPS_PER_SHEET = 50
CROP_PERCENTILES, LEAST_LIMIT = (0.5, 99.5), 0.05  # of a crop's difference: what its colours reach, and reach at least


def write_crops(image: Image, folder: Path) -> Row | None:
    """Sheets of crops, a row per defect, and their scales; None where there is nothing to crop.

    A crop lies as the image does and has its shape: cells are as long and as oblique as they are.
    """
    frames = {grain: one for grain, one in image.frames.items() if one.prediction is not None}
    if not frames or not image.defects.height:
        return None
    first = next(iter(frames.values()))
    view = View.of(first.coordinates.affine[1:], px_of(first.tiles, first.mask), CROP_PX)
    views = {
        grain: View.of(one.coordinates.affine[1:], px_of(one.tiles, one.mask), CROP_PX, side_px=view.side_px)
        for grain, one in frames.items()
    }
    low, high = _gray_range(list(frames.values()))
    grains = [g if g in frames else next(iter(frames)) for g in image.defects["grain"]]  # a boundary is of two
    places = image.defects.select("row_px", "col_px").to_numpy()
    rows = list(zip(grains, places, strict=True))
    for start in range(0, len(rows), CROPS_PER_SHEET):
        crops = np.stack([_crop(frames[g], views[g], at) for g, at in rows[start : start + CROPS_PER_SHEET]])
        limits = [map_limit(pictures.range_of(crop[2], *CROP_PERCENTILES), LEAST_LIMIT) for crop in crops]
        sheet = pictures.sheet(crops, low, high, limits)
        pictures.save_lossy(sheet, folder / f"crops_{start // CROPS_PER_SHEET}.jpg", 88)
    pixel_nm, _ = pixel_size_nm(image)
    size = f"{n.significant(view.side_px * pixel_nm[1], 2)} nm" if pixel_nm else f"{n.significant(view.side_px, 2)} px"
    return {
        "src": f"{folder.name}/crops_",
        "per_sheet": CROPS_PER_SHEET,
        "number": len(rows),
        "side": CROP_PX,
        "side_px": view.side_px,
        "low": low,
        "high": high,
        "scale_text": f"{size} wide; gray {n.fixed(low, 2)} to {n.fixed(high, 2)} of the local mean, "
        "each difference in colour over the range that stands in it",
    }


def _gray_range(frames: list[GrainFrame]) -> tuple[float, float]:
    """Values shown black and white."""
    seen = []
    for one in frames:
        step = pictures.sample_step(one.tiles.shape)
        seen.append(every(one.tiles, step)[Spread(one.mask, one.tiles.shape).every(step)])
    return pictures.range_of(np.concatenate(seen), 0.5, 99.5)


def _crop(frame: GrainFrame, view: "View", place_px: Array) -> Array:
    """Input, prediction and difference about a place of the image (row, col); shape (3, side, side)."""
    at = view.at(frame.coordinates.uv(place_px))
    seen, predicted = (pictures.sampled(values, at) for values in (frame.tiles, frame.prediction))
    return np.stack([seen, predicted, seen - predicted])


@dataclass(frozen=True)
class View:
    """A square window of the image, as pixels of an array in the lattice frame.

    Attributes
    ----------
    side_px : float
        Side of the window in the image [px].
    px_per_cell : tuple of int
    offsets_uv : ndarray of shape (side, side, 2)
        Lattice coordinates of the window's pixels against those of its middle.
    """

    side_px: float
    px_per_cell: tuple[int, int]
    offsets_uv: Array

    @classmethod
    def of(
        cls,
        vectors_px: Array,
        px_per_cell: tuple[int, int],
        side: int,
        cells: float | None = None,
        side_px: float | None = None,
    ) -> Self:
        """A window of `side` pixels as fine as the lattice frame's, or wide enough for so many square cells.

        `side_px` gives its width in the image, where it is known.

        `vectors_px` are a and b as rows, (row, col).
        """
        edge_px = float(np.sqrt(abs(np.linalg.det(vectors_px))))
        wide = cells * edge_px if cells else side * edge_px / float(np.sqrt(np.prod(px_per_cell)))
        wide = side_px or wide
        offset = (np.arange(side) - (side - 1) / 2) * wide / side
        places = np.stack(np.meshgrid(offset, offset, indexing="ij"), -1)
        return cls(wide, px_per_cell, places @ np.linalg.inv(vectors_px))

    def at(self, uv: Array) -> Array:
        """Indices (2, side, side) of the window about lattice coordinates (2,) into an array in the lattice frame."""
        return np.moveaxis((uv + self.offsets_uv) * self.px_per_cell - 0.5, -1, 0)


class Spread:
    """The mask of cells (U, V) as one of pixels (U n_u, V n_v), made window by window."""

    def __init__(self, mask: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> None:
        self.shape, self._mask = shape, mask

    def __getitem__(self, window: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        rows, cols = (
            np.arange(*s.indices(n)) // (n // cells)
            for s, n, cells in zip(window, self.shape, self._mask.shape, strict=True)
        )
        return np.asarray(self._mask[rows[:, None], cols])

    def every(self, step: int) -> npt.NDArray[np.bool_]:
        """Every `step`-th row and column."""
        return self[::step, ::step]


def write_cells(image: Image, folder: Path) -> Row | None:
    """Pictures of the median cell among its like, seen and predicted, lying as in the image; None without them."""
    if image.tiles is None or image.prediction is None or image.mask is None or not image.mask.any():
        return None
    if image.coordinates is None:
        return None
    px_per_cell, vectors_px = px_of(image.tiles, image.mask), image.coordinates.affine[1:]
    view = View.of(vectors_px, px_per_cell, CELL_VIEW_PX, cells=2.0)
    cells = [
        pictures.sampled(pictures.median_cell(frame, image.mask, px_per_cell), view.at(MIDDLE), repeated=True)
        for frame in (image.tiles, image.prediction)
    ]
    low, high = float(min(c.min() for c in cells)), float(max(c.max() for c in cells))
    difference = cells[0] - cells[1]
    limit = max(float(np.abs(difference).max()), 1e-6)
    high = high if high > low else low + 1
    for name, cell in zip(("seen", "predicted"), cells, strict=True):
        pictures.save_lossy(pictures.to_bytes(cell, low, high), folder / f"cell_{name}.jpg", 92)
    pictures.save_lossy(pictures.coloured(difference, limit), folder / "cell_difference.jpg", 92)
    sites = site_places(image)
    scaled = vectors_px * CELL_VIEW_PX / view.side_px
    corners = [_spot(corner, scaled) for corner in ((0, 0), (0, 1), (1, 1), (1, 0))]
    labels = [(site["site"], *_spot((site["u"], site["v"]), scaled)) for site in sites]
    return {
        "src": f"{folder.name}/cell_",
        "low": low,
        "high": high,
        "limit": limit,
        "largest_text": f"{n.percent(limit, 1)} of the local mean",
        "range_text": f"{n.fixed(low, 2)} to {n.fixed(high, 2)} of the local mean",
        "sites": sites,
        "outline": " ".join(f"{x:.1f},{y:.1f}" for y, x in corners),
        "labels": [{"site": name, "x": round(x), "y": round(y) + 5} for name, y, x in labels],
    }


def _spot(uv: tuple[float, float], vectors: Array) -> tuple[float, float]:
    """Where (row, col) a place of the cell lies in a picture with the cell in its middle; a and b in its pixels."""
    row, col = CELL_VIEW_PX / 2 + (np.array(uv) - MIDDLE) @ vectors
    return float(row), float(col)


def site_places(image: Image) -> list[Row]:
    """Name of each tested site and its mean place in the cell, as fractions of a and b."""
    if image.coordinates is None or not image.columns.height:
        return []
    found, columns = [], image.columns.filter(pl.col("grain") == FIRST_GRAIN)
    for site in sorted(set(columns["site"].drop_nulls())):
        rows = columns.filter(pl.col("site") == site)
        uv = image.coordinates.uv(rows.select("row_px", "col_px").to_numpy().astype(np.float64))
        turn = np.exp(2j * np.pi * uv).mean(axis=0)
        place = np.angle(turn) / (2 * np.pi)
        found.append({"site": site, "u": round(float(place[0]) % 1, 3) % 1, "v": round(float(place[1]) % 1, 3) % 1})
    return found
