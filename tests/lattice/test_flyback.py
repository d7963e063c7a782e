"""Ends of lines at which the crystal is bent are left out, and bend nothing beside them."""

import numpy as np
import pytest

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.tile_image import steps_and_blanks
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import SRTIO3

PIXEL_NM = 0.0125


def flown_back(image: np.ndarray, px: float = 4.0) -> np.ndarray:
    """The image with the beginning of its rows drawn out by so much, within 10 px."""
    cols = np.arange(image.shape[1])
    at = np.minimum(cols + px * np.exp(-cols / 10), image.shape[1] - 1)
    return np.stack([np.interp(at, cols, row) for row in image]).astype(np.float32)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_beside_flyback_stays_in_its_place(transposed: bool) -> None:
    counts = simulate_scan(SRTIO3, Conditions(rotation_deg=17, dose_e_px=6000, jitter_pm=4), (360, 380), seed=6).counts
    turn = np.transpose if transposed else np.asarray
    whole = fit_registration(turn(counts), [SRTIO3], (PIXEL_NM, PIXEL_NM))
    found = fit_registration(turn(flown_back(counts)), [SRTIO3], (PIXEL_NM, PIXEL_NM))
    assert whole.bent_ends_px == (0, 0) and steps_and_blanks(whole) == []
    assert 15 <= found.bent_ends_px[0] <= 48 and found.bent_ends_px[1] == 0
    (told,) = steps_and_blanks(found)
    assert "at the beginning left out" in told and ("columns" if transposed else "rows") in told
    at = whole.nodes_px[:, :-1, :-1][:, whole.mask]
    inner = at[:, at[0 if transposed else 1] > 75].T
    moved = Coordinates(found.nodes_px, found.row_shift_px, transposed).uv_of_straight(inner)
    off = (moved - np.rint(moved)) * whole.frame.period_px
    assert np.abs(off - np.median(off, axis=0)).max() < 0.12  # [px]: 1.5 pm
    assert found.mask.sum() > 0.7 * whole.mask.sum()
