"""An image on the lattices that are tried on it, one after the other: what they have in common is found once."""

from functools import cached_property
from typing import Any

import numpy as np

from oddlattice.lattice.fit_frame import fit_frame
from oddlattice.lattice.flattener import Flattener, fit_flattener
from oddlattice.lattice.fourier import Lattice
from oddlattice.lattice.frame import Frame
from oddlattice.lattice.spoilt import Seen

SAME_PX = 1e-9  # vectors that differ by less are the same but for rounding


class Framing:
    """An image, what is seen of it, and the last lattice that was fitted to it.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.
    """

    def __init__(self, image: Any) -> None:
        self._image = image
        self._last: tuple[Lattice, Flattener, Frame] | None = None

    @cached_property
    def seen(self) -> Seen:
        """Where the crystal is seen."""
        return Seen.of(self._image)

    def flattener(self, period_px: float) -> Flattener:
        """The slowly varying mean over about two periods of a lattice."""
        return fit_flattener(self._image, period_px, self.seen)

    def on(self, lattice: Lattice) -> tuple[Flattener, Frame]:
        """Mean and frame on a lattice; NoLatticeError where it does not hold over the image."""
        if self._last is not None and np.array_equal(lattice.peaks, self._last[0].peaks):
            known, flattener, frame = self._last
            for turn in (1, -1):
                if np.allclose(lattice.vectors_px, turn * known.vectors_px, rtol=0, atol=SAME_PX):
                    return flattener, frame if turn == 1 else frame.in_cell(turn * np.eye(2, dtype=np.int64))
        flattener = self.flattener(float(np.sqrt(abs(np.linalg.det(lattice.vectors_px)))))
        frame = fit_frame(self._image, lattice, flattener)
        self._last = lattice, flattener, frame
        return flattener, frame
