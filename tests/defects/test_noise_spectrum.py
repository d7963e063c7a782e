"""Scans as taken are told from denoised, filtered and enlarged ones; what an image is worth is measured."""

import numpy as np
import pytest
from scipy import ndimage, signal

from bench.material import Lattice, scan
from oddlattice.defects.image_quality import FWHM, distortion_px, width_of
from oddlattice.defects.noise_spectrum import noise_spectrum
from oddlattice.lattice.columns import ColumnShape
from support.own_crystals import CRYSTALS, make_field

FIELD = make_field(CRYSTALS["MoS2"], side_px=320, dose=200, rotation_deg=20, seed=4).counts.astype(np.float64)


def detector_tail(image: np.ndarray) -> np.ndarray:
    """A detector that has not forgotten the pixel before."""
    return signal.lfilter([0.5], [1, -0.5], image, axis=1)


@pytest.mark.parametrize(
    "taken",
    [
        lambda x: x,
        lambda x: np.rint(30 * x),
        detector_tail,
        lambda x: np.mean([np.random.default_rng(k).poisson(x) for k in range(9)], axis=0),
        lambda x: x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2],
        lambda x: make_field(CRYSTALS["CdTe"], side_px=320, dose=0.8, seed=2).counts,
    ],
    ids=["as taken", "in steps", "detector", "frames", "binned", "few electrons"],
)
def test_a_scan_as_taken_is_not_objected_to(taken) -> None:
    found = noise_spectrum(taken(FIELD))
    assert found.objection == "" and found.variance > 0


@pytest.mark.parametrize(
    "filtered",
    [
        lambda x: ndimage.gaussian_filter(x, 1.0),
        lambda x: ndimage.zoom(x[:200, :200], 2, order=1),
        lambda x: ndimage.zoom(x[:200, :200], 1.5, order=3),
        lambda x: np.repeat(np.repeat(x[:200, :200], 2, 0), 2, 1),
        lambda x: np.fft.ifft2(np.fft.fft2(x) * (np.hypot(*np.meshgrid(*[np.fft.fftfreq(320)] * 2)) < 0.2)).real,
        lambda x: np.rint(ndimage.gaussian_filter(x, 2.5) / 20),
        lambda x: ndimage.gaussian_filter(x, 0.5),
        lambda x: ndimage.rotate(x, 7, order=1, reshape=False, mode="reflect"),
        lambda x: ndimage.median_filter(x, 3),
        lambda x: ndimage.median_filter(x + np.random.default_rng(0).random(x.shape), 3),
    ],
    ids=[
        "blur",
        "enlarged",
        "by half",
        "doubled",
        "Fourier",
        "rounded",
        "little blur",
        "turned",
        "of counts",
        "median",
    ],
)
def test_what_has_no_noise_of_its_own_is_told(filtered) -> None:
    assert noise_spectrum(filtered(FIELD)).objection


def test_white_noise_is_as_strong_as_it_is() -> None:
    image = 100 + np.random.default_rng(0).normal(0, 3.0, (400, 300))
    assert noise_spectrum(image).variance == pytest.approx(9.0, rel=0.1)


def test_width_of_a_column_is_that_of_its_gaussian() -> None:
    vectors = np.array([[20.0, 3.0], [-5.0, 25.0]])
    turn = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
    spread = turn.T @ np.diag([9.0, 4.0]) @ turn  # (row, col) [px^2]: 3 px along 0.5 rad, 2 px across
    precision = vectors @ np.linalg.inv(spread) @ vectors.T
    shape = ColumnShape("A", 0, 0, 1.0, (precision[0, 0], precision[0, 1], precision[1, 1]))
    width = width_of(shape, vectors)
    assert (width.long_px, width.short_px) == (pytest.approx(3 * FWHM), pytest.approx(2 * FWHM))
    assert width.direction_deg == pytest.approx(np.degrees(0.5))


def test_a_regular_lattice_is_not_distorted() -> None:
    u, v = np.meshgrid(np.arange(11.0), np.arange(13.0), indexing="ij")
    nodes = np.stack([20 * u - 3 * v + 5, 4 * u + 18 * v])
    mask = np.ones((10, 12), dtype=np.uint8)
    assert distortion_px(nodes, mask) == pytest.approx(0, abs=1e-9)
    nodes[1] += np.where(u % 2 > 0, 1.0, -1.0)
    assert distortion_px(nodes, mask) == pytest.approx(1.0, rel=0.05)


def test_sharp_columns_on_few_pixels_are_no_filter() -> None:
    """What jitter makes of reflections beyond the lowest frequency falls, too: 13 px a cell, 640 px, was flagged."""
    assert not noise_spectrum(scan((640, 640), 3, Lattice(12, 5))).objection
