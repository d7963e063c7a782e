"""A huge image is worked on in parts, so that memory does not grow with it; any other image is one part, the whole."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import PxPerCell

Window = tuple[slice, slice]

CHUNK_CELLS = 32  # side of a tile: one chunk of the stores of tiles and differences, one batch of a network
WHOLE_CELLS = 50_000  # an image of at most so many cells is one part: 4,096 x 4,096 px at 19 px a cell
PART_CELLS = (
    5 * CHUNK_CELLS
)  # side of the parts of a larger one; a whole number of chunks, so that each chunk has one writer


@dataclass(frozen=True)
class Part:
    """A part of an image, in cells along (u, v).

    Attributes
    ----------
    core : tuple of slice
        The cells that are this part's own; the cores of all parts cover the image once.
    wide : tuple of slice
        The core with its neighbourhood.
    """

    core: Window
    wide: Window

    @property
    def inner(self) -> Window:
        """The core within the part."""
        low = [w.start for w in self.wide]
        return tuple(slice(c.start - n, c.stop - n) for c, n in zip(self.core, low, strict=True))  # type: ignore[return-value]


def in_px(cells: Window, px_per_cell: PxPerCell) -> Window:
    """A window of cells in pixels of the lattice frame."""
    u, v = (slice(s.start * n, s.stop * n) for s, n in zip(cells, px_per_cell, strict=True))
    return u, v


def is_inside(cells: npt.ArrayLike, part: Part) -> npt.NDArray[np.bool_]:
    """Which cells (n, 2) of an image are a part's own."""
    low, high = ([getattr(s, end) for s in part.core] for end in ("start", "stop"))
    at = np.asarray(cells)
    return np.asarray(((at >= low) & (at < high)).all(axis=1))


def parts_of(shape: tuple[int, ...], around: int) -> list[Part]:
    """Parts of an image of `shape` cells, each with `around` cells of its neighbourhood where there are any."""
    n_u, n_v = shape
    if n_u * n_v <= WHOLE_CELLS:
        whole = slice(0, n_u), slice(0, n_v)
        return [Part(whole, whole)]
    found = []
    for u in range(0, n_u, PART_CELLS):
        for v in range(0, n_v, PART_CELLS):
            core = slice(u, min(u + PART_CELLS, n_u)), slice(v, min(v + PART_CELLS, n_v))
            wide = tuple(
                slice(max(c.start - around, 0), min(c.stop + around, n)) for c, n in zip(core, shape, strict=True)
            )
            found.append(Part(core, wide))  # type: ignore[arg-type]
    return found
