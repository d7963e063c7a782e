"""What a prediction takes of a change: known changes put in, and what is found of them in the difference."""

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.lattice.columns import (
    ColumnShape,
    column_cells,
    cut_windows,
    px_of,
    signatures,
)
from oddlattice.lattice.subareas import in_px
from oddlattice.lattice.trial_part import densest_part
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.predict.predictor import Predictor
from oddlattice.storage import blocks

TRIAL_SPACING = 6  # cells between trial defects of a kind
TRIAL_LOSS, TRIAL_SHIFT_PM = -0.5, 20.0


def responses(
    predictor: Predictor,
    tiles: zarr.Array[Any],
    mask: Mask,
    shapes: list[ColumnShape],
    vectors_pm: npt.NDArray[np.float64],
) -> list[tuple[float, float]]:
    """How much of a changed column the prediction leaves in the difference, measured by putting changes in.

    In a part of the image, columns on a wide grid lose half of their intensity (then: move by 20 pm) and the part is
    predicted again. What is found of the change in the difference is 1 for a predictor that is blind to defects.

    Returns
    -------
    list of (intensity, displacement), one for each of `shapes`; 1.0 where there is no room for a trial
    """
    cells = densest_part(mask)
    part = mask[cells]
    here = blocks.read(tiles, in_px(cells, px_of(tiles, mask))).astype(np.float32, copy=False)
    _, before = predictor.whole(here, part)
    placed = []
    for offset, shape in enumerate(shapes):  # every kind has cells of its own: no two trials touch
        inside = column_cells(part, shape)
        placed.append(inside[((inside - 2 * offset) % TRIAL_SPACING == 2).all(axis=1)])
    found = np.ones((len(shapes), 2))
    for trial in range(2):
        added = []
        tried = here.copy()
        for shape, at in zip(shapes, placed, strict=True):
            change = signatures(shape, vectors_pm)
            added.append(TRIAL_LOSS * change[0] if trial == 0 else TRIAL_SHIFT_PM * (change[1] + change[2]))
            _add_windows(tried, shape, at, added[-1])
        _, again = predictor.whole(tried, part)
        left = (tried - again) - (here - before)
        for index, (shape, at, put) in enumerate(zip(shapes, placed, added, strict=True)):
            if len(at):
                seen = (cut_windows(left, shape, at) * put).sum(axis=(1, 2)).mean() / (put**2).sum()
                found[index, trial] = np.clip(seen, 0.2, 1.2)
    return [(float(intensity), float(shift)) for intensity, shift in found]


def _add_windows(tiles: Float, shape: ColumnShape, cells: npt.NDArray[np.intp], added: npt.NDArray[np.float64]) -> None:
    index = np.arange(tiles.size).reshape(tiles.shape)
    where = cut_windows(index, shape, cells).astype(np.int64)  # type: ignore[arg-type]
    tiles.ravel()[where] += added.astype(np.float32)
