"""Maps laid back onto the raw image, in its counts."""

import numpy as np
import pytest

from oddlattice.defects.raw_maps import InCounts, Laid
from oddlattice.defects.tables import dose_counts_per_nm2
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.registration import render
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import SRTIO3


@pytest.mark.parametrize("offset", [0.0, -400.0])
def test_a_prediction_has_the_counts_of_the_image_whatever_was_subtracted_from_it(offset: float) -> None:
    """The tiles as their own prediction: laid back they are the image; a pedestal that was added is taken off again."""
    scan = simulate_scan(SRTIO3, Conditions(dose_e_px=400, jitter_pm=0), (300, 320), seed=3)
    found = fit_registration(scan.counts + np.float32(offset), [SRTIO3], (0.0125, 0.0125))
    assert (found.pedestal > 0) == (offset < 0)
    tiles = render(scan.counts + np.float32(offset), found, tuple(slice(0, n) for n in found.mask.shape))
    tiles[~np.repeat(np.repeat(found.mask, 20, 0), 20, 1)] = 0
    counts = InCounts(tiles, found.local_mean, found.pedestal)[:, :]
    inner = np.repeat(np.repeat(found.mask, 20, 0), 20, 1)
    assert counts[inner].mean() == pytest.approx(float(scan.counts.mean()) + offset, abs=4)
    assert (counts[~inner] == 0).all()
    if not offset:
        dose = dose_counts_per_nm2(found.local_mean, found.mask, np.array([0.0125, 0.0125]))
        assert dose == pytest.approx(float(scan.counts.mean()) / 0.0125**2, abs=4 / 0.0125**2)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_in_counts_gets_back_the_gain_of_its_line(transposed: bool) -> None:
    nodes = 10.0 * np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"))
    gain = np.where(np.arange(40) < 17, 0.9, 1.1)
    ones = np.ones((80, 80), np.float32)
    maps = {"z": ones, "prediction": InCounts(ones, np.full((4, 4), 7.0), 0.0)}
    z, counts = Laid(maps, Coordinates(nodes, np.zeros(40), transposed), gain).seen(slice(10, 30), slice(10, 30))
    assert z == pytest.approx(1.0)
    found = counts.mean(axis=0 if transposed else 1)
    assert found == pytest.approx(7 * gain[10:30], rel=1e-5)
