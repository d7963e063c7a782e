"""Crops about defects for figure 1."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.benchmark.published import (
    PublishedVAE,
    patches_at,
    predict,
)
from oddlattice.benchmark.tables import NEAR
from oddlattice.crystal import CELL_PX, Crystal
from oddlattice.defects.registered import Registered
from oddlattice.numerics.arrays import Array, Float

CROP_CELLS = 3


def crops_of(columns: pl.DataFrame, image: Registered, tiles: Float, crystal: Crystal) -> dict[str, Any]:
    """Input, prediction and difference (3, 60, 60) about one column of every kind, and about one of bulk ("").

    Columns whose surroundings are analysed throughout are taken, the first of each kind.
    """
    found: dict[str, Any] = {}
    half = CROP_CELLS * CELL_PX // 2
    offset = {column.site: (column.u, column.v) for column in crystal.tested}
    seen = np.repeat(np.repeat(image.mask, CELL_PX, 0), CELL_PX, 1)
    for row in columns.filter(pl.col("truth") != NEAR).to_dicts():
        top, left = (round(CELL_PX * (row[axis] + at)) - half for axis, at in _axes(offset[row["site"]]))
        part = np.s_[top : top + 2 * half, left : left + 2 * half]
        if row["kind"] in found or min(top, left) < 0 or seen[part].sum() < 4 * half * half:
            continue
        found[row["kind"]] = np.stack([tiles[part], image.prediction[part], image.difference[part]])
    return found


def _axes(place: tuple[float, float]) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("cell_u", place[0]), ("cell_v", place[1])


def published_crops(image: Float, columns: pl.DataFrame, uv: Array, model: PublishedVAE) -> dict[str, npt.NDArray[Any]]:
    """As `crops_of`, by the published network: patches (3, 64, 64) of 2.7 cells, as it sees them."""
    first: dict[str, int] = {}
    for k, (truth, kind) in enumerate(columns.select("truth", "kind").iter_rows()):
        if truth != NEAR:
            first.setdefault(kind, k)
    patches = patches_at(image, uv[list(first.values())])
    predicted = predict(model, patches)
    return dict(zip(first, np.stack([patches, predicted, patches - predicted], axis=1), strict=True))
