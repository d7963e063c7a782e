"""Strain of a grain against its own mean lattice: a known gradient comes back, with the noise that is quoted."""

import numpy as np
import pytest

from oddlattice.numerics.arrays import Array
from oddlattice.statistics.strain import WINDOW_CELLS, Strain, blocks_of, strain_of

SIDE = 36
VECTORS = np.array([[20.0, 2.0], [-2.5, 19.0]])


def measured(gradient: Array, noise: float, seed: int = 0) -> tuple[Strain, Array]:
    """Strain of two columns a cell whose displacement goes with the square of col; and col of each cell's middle.

    `gradient` (2,): of d(row)/d(col) and d(col)/d(col), from one side to the other.
    """
    rng = np.random.default_rng(seed)
    cells = np.stack(np.meshgrid(range(SIDE), range(SIDE), indexing="ij"), -1).reshape(-1, 2)
    cells, kind = np.concatenate([cells, cells]), np.repeat([0, 1], SIDE**2)
    q = cells + 0.5 * kind[:, None]
    places = q @ VECTORS
    col = places[:, 1] - places[:, 1].mean()
    wide = np.ptp(col)
    places = places + col[:, None] ** 2 * gradient / (2 * wide) + 0.7 * kind[:, None]
    places += rng.normal(0, noise, places.shape)
    places[rng.choice(len(places), 8, replace=False)] += 5  # columns beside their places are not strain
    found = strain_of(cells, kind, places, (SIDE, SIDE))
    middle = (np.stack(np.indices((SIDE, SIDE)), -1) + 0.25) @ VECTORS
    return found, (middle[..., 1] - (q @ VECTORS)[:, 1].mean()) / wide


def test_a_known_gradient_is_recovered_with_its_quoted_noise() -> None:
    errors, quoted = [], []
    for seed in range(4):
        found, part = measured(np.array([0.01, 0.02]), 0.25, seed)
        truth = np.stack([0.02 * part, 0 * part, 0.005 * part, -np.degrees(0.005 * part)])
        inner = (slice(None), slice(2, -2), slice(2, -2))
        errors.append(np.nanstd((found.values - truth)[inner], axis=(1, 2)))
        quoted.append(found.sigma)
        assert np.isfinite(found.values[inner]).all()
    ratio = np.mean(errors, axis=0) / np.mean(quoted, axis=0)
    assert ratio == pytest.approx(np.ones(4), abs=0.25)
    assert np.mean(quoted, axis=0)[0] < 0.002


def test_a_straight_lattice_has_no_strain_and_blocks_cover_it() -> None:
    found, _ = measured(np.zeros(2), 1e-6)
    assert np.nanmax(np.abs(found.values)) < 1e-5
    cells, values = blocks_of(found, 12)
    assert len(cells) == 144 and values.shape == (4, 144)
    assert found.values.shape == (4, SIDE, SIDE)


def test_too_few_columns_tell_nothing() -> None:
    cells = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(-1, 2)
    found = strain_of(cells, np.zeros(9, dtype=int), cells @ VECTORS, (20, 20))
    assert np.isnan(found.sigma).all()
    assert np.isfinite(found.values[0]).sum() <= WINDOW_CELLS**2
