"""The crystal that a stack shows itself, found once in the sum of its frames: all frames then have the same columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oddlattice.lattice.fourier import Lattice
from oddlattice.lattice.own_columns import Columns, waves_of
from oddlattice.lattice.own_crystal import OwnCell, seen_coefficients
from oddlattice.lattice.reflections import LatticeMap
from oddlattice.numerics.arrays import Array, Complex, Float, Index
from oddlattice.read.stacks import aligned_sum

MOST_FRAMES, MOST_PX = 16, 1 << 26  # of a stack that are summed
SAME_CELL = 0.1  # of a lattice vector: a frame's cell is no farther from the stack's
ALIKE = 0.5  # correlation of what a frame shows with the stack's columns
GRID = 48  # places along each vector at which the columns are tried first
FINE = 10  # and so many times finer about the best


@dataclass(frozen=True)
class StackCrystal:
    """The cell of a stack, and the coarse lattice on which it was found."""

    own: OwnCell
    lattice: Lattice

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        own = {"cell": self.own.cell, "vectors_px": self.own.vectors_px, "origin": self.own.origin}
        return {
            "own": {key: value.tolist() for key, value in own.items()} | {"sites": list(self.own.sites)},
            "columns": {key: _plain(value) for key, value in vars(self.own.columns).items()},
            "lattice": {key: _plain(value) for key, value in vars(self.lattice).items()},
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "StackCrystal":
        """From `as_dict`."""
        columns = Columns(**{key: _array(value) for key, value in told["columns"].items()})
        own = {key: _array(value) for key, value in told["own"].items() if key != "sites"}
        own["cell"] = own["cell"].astype(np.int64)
        cell = OwnCell(**own, columns=columns, sites=tuple(told["own"]["sites"]))
        return cls(cell, Lattice(**{key: _array(value) for key, value in told["lattice"].items()}))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _array(value: Any) -> Any:
    return np.array(value) if isinstance(value, list) else value


def sum_of_some(frames: Sequence[Any]) -> Float:
    """Sum of the first frames (rows, cols) of a stack, aligned by whole pixels, cut to the field that they share."""
    rows, cols = frames[0].shape
    some = min(MOST_FRAMES, max(2, MOST_PX // (rows * cols)), len(frames))
    return np.asarray(aligned_sum(np.stack([np.asarray(frame[:]) for frame in frames[:some]]))[0], dtype=np.float32)


def seen_again(found: LatticeMap, known: OwnCell) -> OwnCell | None:
    """The cell of a stack laid on one of its frames; None where the frame shows another one.

    The frame tells vectors and origin; columns are the stack's.
    """
    exact = known.vectors_px @ np.linalg.inv(found.vectors_px)
    steps = np.rint(exact).astype(np.int64)
    if np.abs(exact - steps).max() > SAME_CELL or round(float(np.linalg.det(steps))) < 1:
        return None
    seen = seen_coefficients(found, steps)
    expected = known.columns.sign * waves_of(known.columns, seen)
    product = seen.amplitudes * expected.conj()
    place, fits = _best_place(product, seen.orders)
    whole = np.sqrt((np.abs(seen.amplitudes) ** 2).sum() * (np.abs(expected) ** 2).sum())
    if fits < ALIKE * whole:
        return None
    return replace(known, vectors_px=steps @ found.vectors_px, cell=steps, origin=place @ steps)


def _best_place(product: Complex, orders: Index) -> tuple[Array, float]:
    """Where (u, v) Re sum_h product_h exp(2 pi i h.(u, v)) is largest, and how large."""

    def at(places: Array) -> Array:
        return np.asarray((np.exp(2j * np.pi * (places @ orders.T)) @ product).real)

    step = np.arange(GRID) / GRID
    places = np.stack(np.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)
    best = places[int(np.argmax(at(places)))]
    near = np.arange(-FINE, FINE + 1) / (GRID * FINE)
    places = best + np.stack(np.meshgrid(near, near, indexing="ij"), -1).reshape(-1, 2)
    values = at(places)
    return np.asarray(places[int(np.argmax(values))]), float(values.max())
