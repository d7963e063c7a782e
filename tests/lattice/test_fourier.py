"""Coarse lattices: counted cells, random scans, and pictures that are no lattice."""

import numpy as np
import pytest
from scipy import ndimage

from oddlattice.crystal import Crystal
from oddlattice.lattice.fourier import NoLatticeError, describe, find_lattice, matches, not_atomic, reduced
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import MOS2_60, MOS2_120, OBLIQUE, SRTIO3, crystal


def test_reduced_basis_is_short_and_right_handed() -> None:
    basis = np.array([[10.0, 0.0], [0.0, 12.0]])
    found = reduced(np.array([[3, 1], [-5, -2]]) @ basis)
    assert describe(found) == pytest.approx((10.0, 12.0, 90.0))
    assert np.linalg.det(found) == pytest.approx(120.0)


@pytest.mark.parametrize("rotation_deg", [0, 31, 77])
@pytest.mark.parametrize(("sample", "pixel_nm"), [(SRTIO3, 0.04), (SRTIO3, 0.018), (MOS2_120, 0.016), (OBLIQUE, 0.02)])
def test_lattice_of_a_scan_holds_the_crystals_cell(sample: Crystal, pixel_nm: float, rotation_deg: float) -> None:
    conditions = Conditions(pixel_nm=pixel_nm, rotation_deg=rotation_deg, dose_e_px=200)
    scan = simulate_scan(sample, conditions, (300, 320), seed=3)
    lattice = find_lattice(scan.counts)
    steps = scan.vectors_px @ np.linalg.inv(lattice.vectors_px)
    assert np.abs(steps - np.rint(steps)).max() < 0.02
    assert round(abs(np.linalg.det(np.rint(steps)))) in (1, 2)
    assert np.linalg.det(lattice.vectors_px) > 0


def test_weak_peaks_missing_the_true_cell_is_still_among_the_matches() -> None:
    alike = crystal("alike", 0.39, 0.39, 90, [("A", 0, 0, "Sr"), ("B", 0.5, 0.5, "Y")])
    scan = simulate_scan(alike, Conditions(rotation_deg=20, dose_e_px=60), (384, 384), seed=0)
    lattice = find_lattice(scan.counts)
    assert abs(np.linalg.det(scan.vectors_px) / np.linalg.det(lattice.vectors_px)) == pytest.approx(2, rel=0.02)
    found = matches(lattice.vectors_px, alike, (0.0125, 0.0125), 0.1, 0.12)
    assert len(found) == 4  # four orientations of one cell
    assert all(np.linalg.det(match.cell) == 2 for match in found)


def test_header_may_be_wrong_by_six_percent_but_not_by_thirty() -> None:
    vectors = SRTIO3.vectors_nm / 0.0125
    for factor, count in [(1.0, 4), (1.06, 4), (0.94, 4), (1.3, 0), (0.7, 0)]:
        found = matches(vectors, SRTIO3, (0.0125 * factor, 0.0125 * factor), 0.1, 0.12)
        assert sum(np.linalg.det(m.cell) == 1 for m in found) == count, factor
        assert all(m.scale_nm == pytest.approx(0.0125) for m in found if np.linalg.det(m.cell) == 1)


def test_pixels_that_are_not_square_are_allowed_for() -> None:
    vectors = SRTIO3.vectors_nm / np.array([0.0125, 0.025])
    assert len(matches(vectors, SRTIO3, (0.0125, 0.025), 0.1, 0.12, largest_index=1)) == 4
    assert not matches(vectors, SRTIO3, (0.0125, 0.0125), 0.1, 0.12, largest_index=1)


@pytest.mark.parametrize(("sample", "count"), [(SRTIO3, 4), (MOS2_120, 6), (MOS2_60, 6), (OBLIQUE, 2)])
def test_all_orientations_of_a_cell_are_listed_and_none_is_mirrored(sample: Crystal, count: int) -> None:
    vectors = sample.vectors_nm / 0.02
    found = matches(reduced(vectors), sample, (0.02, 0.02), 0.1, 0.03, largest_index=1)
    assert len(found) == count
    assert all(np.linalg.det(match.cell) > 0 for match in found)


def _speckle(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    wave = np.fft.rfft2(rng.normal(size=shape)) * (0.1 + np.exp(-(((radius - 0.06) / 0.03) ** 2)))
    return np.asarray(np.fft.irfft2(wave, s=shape))


@pytest.mark.parametrize("kind", ["vacuum", "noise", "rows", "speckle", "particles"])
def test_a_picture_without_lattice_is_refused(kind: str) -> None:
    rng = np.random.default_rng(5)
    shape = (300, 340)
    if kind == "particles":
        image = 20 + 200 * (ndimage.gaussian_filter(rng.normal(size=shape), 12) > 0.02)
    else:
        image = {
            "vacuum": rng.poisson(0.4, shape),
            "noise": rng.normal(1000, 30, shape),
            "rows": rng.normal(100, 5, shape) + rng.normal(0, 15, (shape[0], 1)),
            "speckle": 100 + 300 * _speckle(rng, shape),
        }[kind]
    with pytest.raises(NoLatticeError, match="no lattice"):
        find_lattice(image.astype(np.float32))


def test_fringes_in_one_direction_are_refused_as_such() -> None:
    rng = np.random.default_rng(1)
    wave = 100 + 40 * np.sin(2 * np.pi * (0.03 * np.arange(300)[:, None] + 0.05 * np.arange(300)))
    with pytest.raises(NoLatticeError, match="one direction"):
        find_lattice(rng.poisson(wave).astype(np.float32))


def test_too_few_pixels_a_cell_are_refused() -> None:
    scan = simulate_scan(SRTIO3, Conditions(pixel_nm=0.085, dose_e_px=2000), (256, 256), seed=0)
    with pytest.raises(NoLatticeError, match="too few pixels"):
        find_lattice(scan.counts)
    with pytest.raises(NoLatticeError, match="64 x 64"):
        find_lattice(scan.counts[:50])


def test_a_lattice_of_nanometres_is_not_atomic() -> None:
    vectors = np.array([[12.0, 0.0], [0.0, 13.0]])
    assert "466 pm/px" in not_atomic(vectors, (0.466, 0.466), 1.5)
    assert not not_atomic(vectors, (0.03, 0.03), 1.5)
    assert not not_atomic(vectors, None, 1.5)
