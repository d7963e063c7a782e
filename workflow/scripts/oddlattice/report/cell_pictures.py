"""Pictures in the lattice frame: a crop about each defect, and the median cell."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.lattice.columns import px_of
from oddlattice.report import numbers as n
from oddlattice.report import pictures
from oddlattice.report.images import Image
from oddlattice.report.layers import MAP_PERCENTILES, map_limit
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import every

CROP_PX = 60  # side of a defect's crop
CROPS_PER_SHEET = 50


def write_crops(image: Image, folder: Path) -> Row | None:
    """Sheets of crops, a row per defect, and their scales; None where there is nothing to crop."""
    if image.tiles is None or image.prediction is None or image.coordinates is None:
        return None
    if image.mask is None or not image.defects.height:
        return None
    places = image.defects.select("row_px", "col_px").to_numpy()
    px_per_cell = px_of(image.tiles, image.mask)
    uv = image.coordinates.uv(places) * px_per_cell
    side, cells = CROP_PX, [CROP_PX / px for px in px_per_cell]
    inside = Spread(image.mask, image.tiles.shape)
    step = pictures.sample_step(image.tiles.shape)
    some = inside.every(step)
    seen, predicted = (every(frame, step)[some] for frame in (image.tiles, image.prediction))
    low, high = pictures.range_of(seen, 0.5, 99.5)
    limit = map_limit(pictures.range_of(seen - predicted, *MAP_PERCENTILES), 0.2)
    for start in range(0, len(uv), CROPS_PER_SHEET):
        seen, predicted, where = (
            np.stack([pictures.crop(frame, u, v, side) for u, v in uv[start : start + CROPS_PER_SHEET]])
            for frame in (image.tiles, image.prediction, inside)
        )
        seen[seen == 0] = np.nan
        predicted[where != 1] = np.nan
        view = pictures.sheet(np.stack([seen, predicted, seen - predicted], axis=1), low, high, limit)
        pictures.save_lossy(view, folder / f"crops_{start // CROPS_PER_SHEET}.jpg", 88)
    return {
        "src": f"{folder.name}/crops_",
        "per_sheet": CROPS_PER_SHEET,
        "number": len(uv),
        "cells": cells,
        "side": side,
        "low": low,
        "high": high,
        "limit": limit,
        "scale_text": f"{cells[0]:.3g} × {cells[1]:.3g} cells; gray {n.fixed(low, 2)} to {n.fixed(high, 2)} and colour "
        f"{n.MINUS}{n.significant(limit, 2)} to +{n.significant(limit, 2)} of the local mean",
    }


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
    """Pictures of the median cell, seen and predicted, two cells wide, the cell in their middle; None without them."""
    if image.tiles is None or image.prediction is None or image.mask is None or not image.mask.any():
        return None
    cells = [
        pictures.median_cell(frame, image.mask, px_of(frame, image.mask)) for frame in (image.tiles, image.prediction)
    ]
    low, high = float(min(c.min() for c in cells)), float(max(c.max() for c in cells))
    difference = cells[0] - cells[1]
    limit = max(float(np.abs(difference).max()), 1e-6)
    high = high if high > low else low + 1
    sites = site_places(image)
    views = [pictures.to_bytes(cell, low, high) for cell in cells]
    for name, view in zip(("seen", "predicted"), views, strict=True):
        pictures.save_webp(_around(view), folder / f"cell_{name}.webp")
    pictures.save_webp(_around(pictures.coloured(difference, limit)), folder / "cell_difference.webp")
    return {
        "src": f"{folder.name}/cell_",
        "low": low,
        "high": high,
        "limit": limit,
        "largest_text": f"{n.percent(limit, 1)} of the local mean",
        "range_text": f"{n.fixed(low, 2)} to {n.fixed(high, 2)} of the local mean",
        "sites": sites,
        "labels": [
            {"site": s["site"], "x": round(84 * (s["v"] + 0.5)), "y": round(84 * (s["u"] + 0.5)) + 5} for s in sites
        ],
    }


def _around(cell: pictures.Bytes) -> pictures.Bytes:
    """The cell repeated to 2 x 2 cells, its corner in the middle."""
    tiled = np.tile(cell, (2, 2) + (1,) * (cell.ndim - 2))
    return np.asarray(np.roll(tiled, (cell.shape[0] // 2, cell.shape[1] // 2), axis=(0, 1)))


def site_places(image: Image) -> list[Row]:
    """Name of each tested site and its mean place in the cell, as fractions of a and b."""
    if image.coordinates is None or not image.columns.height:
        return []
    found = []
    for site in sorted(set(image.columns["site"].drop_nulls())):
        rows = image.columns.filter(pl.col("site") == site)
        uv = image.coordinates.uv(rows.select("row_px", "col_px").to_numpy().astype(np.float64))
        turn = np.exp(2j * np.pi * uv).mean(axis=0)
        place = np.angle(turn) / (2 * np.pi)
        found.append({"site": site, "u": round(float(place[0]) % 1, 3) % 1, "v": round(float(place[1]) % 1, 3) % 1})
    return found
