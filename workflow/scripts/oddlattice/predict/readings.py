"""Which cells' patches the network reads."""

import numpy as np

from oddlattice.numerics.arrays import Mask

MANY, WIDE = 1000, 3.0  # cells of an image, and of the width of smoothing: from there on every other cell is read


def read_cells(mask: Mask, width: float) -> Mask:
    """Which cells (U, V) have their patches read, of the analysed ones.

    Patches overlap by half, and readings are smoothed: where cells are many, those of one colour of a chess board see
    every pixel twice.
    """
    if np.count_nonzero(mask) < MANY or width < WIDE:
        return mask
    colour = np.add.outer(np.arange(mask.shape[0]), np.arange(mask.shape[1])) % 2
    return np.where(colour == 0, mask, 0).astype(np.uint8)
