"""Lattice coordinates and pixels of the raw image: the one place that goes from one to the other."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import zarr
from scipy.ndimage import map_coordinates

from oddlattice.numerics.arrays import Array
from oddlattice.storage.groups import attributes_of, values_of

STEPS = 8  # of the fixed-point iteration; each leaves of the error as much as the lattice bends over a cell


@dataclass(frozen=True)
class Coordinates:
    """Where the lattice lies in the raw image.

    A place is *straight* where the feature would be if the lines of the scan were not shifted against each other, and
    *seen* where it is in the image. Beyond the nodes the mean lattice is continued.

    Attributes
    ----------
    nodes_px : ndarray of shape (2, U + 1, V + 1)
        Straight places (row, col) of the corners of the cells [px].
    line_shift_px : ndarray of shape (rows,)
        A feature at the straight col c is seen at col c - shift. Where `transposed`, of shape (cols,), and of rows.
    transposed : bool
        Whether the lines of the scan are the image's columns, not its rows.
    """

    nodes_px: npt.NDArray[np.floating]
    line_shift_px: npt.NDArray[np.floating]
    transposed: bool = False

    @classmethod
    def of(cls, tiles: zarr.Group, corners: tuple[slice, ...] = ()) -> Self:
        """What the tile stage wrote of an image; of a window of `corners` (u, v) of cells, counted from its first."""
        nodes = values_of(tiles, "nodes_px", (slice(None), *corners) if corners else ())
        return cls(nodes, values_of(tiles, "line_shift_px"), bool(attributes_of(tiles)["scan_transposed"]))

    @cached_property
    def affine(self) -> Array:
        """The mean lattice: origin, a and b as rows, (row, col) [px]; shape (3, 2)."""
        u, v = (line.ravel() for line in np.indices(self.nodes_px.shape[1:]))
        design = np.stack([np.ones(u.size), u, v], -1)
        return np.asarray(np.linalg.lstsq(design, self.nodes_px.reshape(2, -1).T.astype(np.float64), rcond=None)[0])

    @cached_property
    def _bend(self) -> Array:
        """What is left of the nodes beside the mean lattice [px]; shape (2, U + 1, V + 1)."""
        origin, a, b = self.affine[:, :, None, None]
        u, v = np.indices(self.nodes_px.shape[1:])
        return np.asarray(self.nodes_px - origin - a * u - b * v)

    @property
    def upright(self) -> Self:
        """The same of the image with rows and columns exchanged: its rows are the lines of a transposed scan."""
        return type(self)(self.nodes_px[::-1], self.line_shift_px, not self.transposed)

    def straight_px(self, uv: Array) -> Array:
        """Straight places (..., 2) of lattice coordinates (..., 2) [px]."""
        at = np.moveaxis(np.asarray(uv, dtype=np.float64), -1, 0)
        flat = at.reshape(2, -1)  # a single place is one of one
        bend = [map_coordinates(layer, flat, order=1, mode="nearest").reshape(at.shape[1:]) for layer in self._bend]
        return np.asarray(self.affine[0] + uv @ self.affine[1:] + np.stack(bend, -1))

    def seen_px(self, uv: Array) -> Array:
        """Places (..., 2) in the raw image [px] at which what stands at lattice coordinates (..., 2) is seen."""
        return self._shifted(self.straight_px(uv), -1)

    def straightened(self, places_px: Array) -> Array:
        """Straight places (..., 2) of what is seen at places (..., 2) in the raw image [px]."""
        return self._shifted(np.asarray(places_px, dtype=np.float64), 1)

    def uv_of_straight(self, places_px: Array) -> Array:
        """Lattice coordinates (..., 2) of straight places (..., 2) [px]: the inverse of `straight_px`."""
        inverse = np.linalg.inv(self.affine[1:])
        uv = (places_px - self.affine[0]) @ inverse
        for _ in range(STEPS):
            uv = uv + (places_px - self.straight_px(uv)) @ inverse
        return np.asarray(uv)

    def uv(self, places_px: Array) -> Array:
        """Lattice coordinates (..., 2) of places in the raw image (..., 2) [px]: the inverse of `seen_px`."""
        return self.uv_of_straight(self.straightened(places_px))

    def _shifted(self, places_px: Array, sign: int) -> Array:
        """Places moved along their lines of the scan; between two lines the shift is taken as between theirs."""
        line, along = (1, 0) if self.transposed else (0, 1)
        moved = places_px.copy()
        at = np.arange(len(self.line_shift_px))
        moved[..., along] += sign * np.interp(places_px[..., line], at, self.line_shift_px)
        return moved
