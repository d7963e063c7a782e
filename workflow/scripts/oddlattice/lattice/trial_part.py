"""The part of an image in which something is tried."""

import numpy as np

from oddlattice.numerics.arrays import Bools, Mask

TRIAL_CELLS = 24  # side of the part of an image in which trials are made [cells]


def densest_part(mask: Mask, side_cells: int = TRIAL_CELLS) -> tuple[slice, slice]:
    """The square of at most `side_cells` cells a side that holds the most analysed cells."""
    return densest_window(mask, (min(side_cells, mask.shape[0]), min(side_cells, mask.shape[1])))


def densest_window(mask: Mask | Bools, sides: tuple[int, int]) -> tuple[slice, slice]:
    """The window of `sides` cells that holds the most analysed ones, the first of several; the mask is no smaller."""
    upto = np.pad(mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), [(1, 0), (1, 0)])
    rows, cols = sides
    totals = upto[rows:, cols:] - upto[:-rows, cols:] - upto[rows:, :-cols] + upto[:-rows, :-cols]
    start = np.unravel_index(int(totals.argmax()), totals.shape)
    return slice(int(start[0]), int(start[0]) + rows), slice(int(start[1]), int(start[1]) + cols)
