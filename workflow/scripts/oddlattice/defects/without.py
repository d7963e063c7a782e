"""An image's difference without its strongly changed columns: taken out one by one, and put back."""

from dataclasses import dataclass, field

import numpy as np

from oddlattice.crystal import PxPerCell
from oddlattice.defects.kernels import moved_peak
from oddlattice.defects.null import SiteColumns
from oddlattice.lattice.columns import SIDE_PX, cut_windows, window_start_px
from oddlattice.numerics.arrays import Array, Float

BEYOND_PX = 9  # its window: so far a changed column is taken out

Key = tuple[int, int]  # of a column: its kind, and its index among those of the kind


@dataclass
class Without:
    """An image's difference without its strongly changed columns.

    Attributes
    ----------
    left : ndarray of shape ((U + 2) n_u, (V + 2) n_v), float32
        With a cell of rim around it.
    fits : dict
        By kind and index of a column that was taken out: change, displacement (row, col) [pm].
    added : dict
        What these changes had added to the difference: first pixel (row, col) in `left`, and the values there.
    far : dict
        Fits of columns that moved so far that their site looks empty: readings do not lead there.
    """

    left: Float
    fits: dict[Key, Array] = field(default_factory=dict)
    added: dict[Key, tuple[int, int, Float]] = field(default_factory=dict)
    far: dict[Key, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, difference: Float, px_per_cell: PxPerCell) -> "Without":
        """Nothing taken out yet."""
        return cls(np.pad(difference, [(n, n) for n in px_per_cell]))

    def inside(self, px_per_cell: PxPerCell) -> Float:
        """What is left, without the rim; shape (U n_u, V n_v)."""
        n_u, n_v = px_per_cell
        return np.ascontiguousarray(self.left[n_u:-n_u, n_v:-n_v])

    def rest(self, key: Key, site: SiteColumns) -> Array:
        """What is left in the window (16, 16) of a column."""
        return np.asarray(cut_windows(self.left, site.shape, site.cells[key[1] : key[1] + 1] + 1)[0], dtype=np.float64)

    def window(self, key: Key, site: SiteColumns) -> Array:
        """The window (16, 16) of a column in which it alone is changed."""
        return np.asarray(self.rest(key, site) + self.own(key))

    def own(self, key: Key) -> Float:
        """What was taken out of the column's own window (16, 16)."""
        inner = slice(BEYOND_PX, BEYOND_PX + SIDE_PX)
        return self.added[key][2][inner, inner] if key in self.added else np.zeros((SIDE_PX, SIDE_PX), np.float32)

    def put_back(self, key: Key) -> None:
        """Undo `take_out`, where it was done."""
        if key in self.added:
            row, col, values = self.added.pop(key)
            _add(self.left, row, col, values)
            del self.fits[key]

    def take_out(self, key: Key, site: SiteColumns, fit: Array, vectors_pm: Array) -> None:
        """Subtract a change, out to a cell from its column."""
        self.put_back(key)
        start = (s - BEYOND_PX for s in window_start_px(site.shape))
        sides = site.shape.px_per_cell
        row, col = (int(c + 1) * n + s for c, n, s in zip(site.cells[key[1]], sides, start, strict=True))
        values = moved_peak(site.shape, fit[0], fit[1:], vectors_pm, BEYOND_PX, site.response).astype(np.float32)
        _add(self.left, row, col, -values)
        self.fits[key], self.added[key] = fit, (row, col, values)


def _add(plane: Float, row: int, col: int, values: Float) -> None:
    """Add `values` to the plane at a pixel; what lies beyond it is left out."""
    low = max(-row, 0), max(-col, 0)
    view = plane[max(row, 0) : row + values.shape[0], max(col, 0) : col + values.shape[1]]
    view += values[low[0] : low[0] + view.shape[0], low[1] : low[1] + view.shape[1]]
