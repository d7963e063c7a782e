"""The part of an image in which something is tried."""

import numpy as np

from oddlattice.numerics.arrays import Mask

TRIAL_CELLS = 24  # side of the part of an image in which trials are made [cells]


def densest_part(mask: Mask, side_cells: int = TRIAL_CELLS) -> tuple[slice, slice]:
    """The square of at most `side_cells` cells a side that holds the most analysed cells."""
    sides = tuple(min(side_cells, side) for side in mask.shape)
    totals = np.lib.stride_tricks.sliding_window_view(mask, sides).sum(axis=(2, 3), dtype=np.int64)
    start = np.unravel_index(int(totals.argmax()), totals.shape)
    return slice(int(start[0]), int(start[0]) + sides[0]), slice(int(start[1]), int(start[1]) + sides[1])
