"""Blank borders and lines are found, and the cells they lie in masked."""

import numpy as np
import pytest

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.spoilt import Seen, _percentile_of_counts, blank_pixels, without_overlay
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import SRTIO3

RNG = np.random.default_rng(1)
PERIOD_PX = 16.0


def scan(shape: tuple[int, int] = (320, 300)) -> np.ndarray:
    return RNG.poisson(300, shape).astype(np.float32)


def nodes(shape: tuple[int, int] = (320, 300)) -> np.ndarray:
    lines = [np.arange(0.0, n - PERIOD_PX / 2, PERIOD_PX) for n in shape]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


def test_counting_noise_is_not_blank() -> None:
    assert not blank_pixels(scan()).any()
    assert not blank_pixels(RNG.poisson(3, (256, 300)).astype(np.float32)).any()
    assert Seen.of(scan()).blank is None


@pytest.mark.parametrize("run_px", [24, 25])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_run_is_blank_from_its_first_pixel_to_its_last(run_px: int, axis: int) -> None:
    image = np.moveaxis(scan(), axis, 0)
    image[40 : 40 + run_px, 7] = -1
    image[80 : 80 + run_px - 1, 9] = -1  # one too short
    found = np.moveaxis(blank_pixels(np.moveaxis(image, 0, axis), run_px), axis, 0)
    assert found[40 : 40 + run_px, 7].all() and found.sum() == run_px


def run_lengths(values: np.ndarray) -> np.ndarray:
    """Length of the run of equal values that each of a line is in."""
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    lengths = np.diff(ends, prepend=-1)
    return np.repeat(lengths, lengths)


@pytest.mark.parametrize("run_px", [24, 25, 37])
def test_runs_are_all_found_however_they_lie(run_px: int) -> None:
    image = RNG.poisson(0.1, (256, 300)).astype(np.float32)  # runs of all lengths, across and down
    image[30:90, 40:70], image[200:], image[3, 50:90] = 2, 0, np.nan
    rows = np.stack([run_lengths(line) for line in image])
    cols = np.stack([run_lengths(line) for line in image.T], axis=1)
    assert np.array_equal(blank_pixels(image, run_px), np.isnan(image) | (np.maximum(rows, cols) >= run_px))


def test_chance_runs_are_counted_as_percentiles_are() -> None:
    few = RNG.poisson(0.3, (300, 200)).astype(np.uint16)
    lengths = np.concatenate([np.diff(np.flatnonzero(np.append(np.diff(line) != 0, True)), prepend=-1) for line in few])
    counts = np.bincount(lengths, minlength=201)
    for percent in (5, 50, 95, 99.9):
        assert _percentile_of_counts(counts, percent) == pytest.approx(np.percentile(lengths, percent), rel=1e-12)


def test_zeros_among_few_electrons_are_an_image() -> None:
    few = RNG.poisson(0.3, (320, 300)).astype(np.float32)  # runs of up to 40 zeros
    assert Seen.of(few).blank is None
    few[104] = 0
    whole = Seen.of(few).cells(nodes())
    assert not whole[6].any() and (~whole).sum() == whole.shape[1]


def test_an_image_stays_as_it_is() -> None:
    image = scan()
    image[:, :32] = 517.25
    before = image.copy()
    assert fit_flattener(image, PERIOD_PX).seen.blank is not None
    assert np.array_equal(image, before)


@pytest.mark.parametrize("value", [0.0, 517.25, np.nan])
def test_a_black_line_masks_its_cells_alone(value: float) -> None:
    image = scan()
    image[104] = value
    whole = Seen.of(image).cells(nodes())
    assert not whole[6].any() and (~whole).sum() == whole.shape[1]  # 104 px lie in the seventh row of cells


def test_a_border_is_masked_and_told_from_what_is_seen() -> None:
    image = scan()
    image[:24] = 0
    seen = Seen.of(image)
    whole = seen.cells(nodes())
    assert not whole[:2].any() and whole[2:].all()
    assert not seen.transposed.cells(nodes()[::-1].transpose(0, 2, 1))[:, :2].any()
    kept = seen.keep(np.ones((64, 300), np.float32), slice(0, 64))
    assert not kept[:24].any() and kept[28:].all()


def test_depth_is_the_distance_from_rim_and_blank_pixels() -> None:
    image = scan()
    image[:24] = 0
    places = np.array([[30.0, 100.0, 100.0, 10.0], [150.0, 150.0, 3.5, 150.0]])
    assert Seen.of(image).depth_px(places) == pytest.approx([4.0, 74.0, 4.0, 0.0], abs=4.0)
    assert Seen((320, 300)).depth_px(places) == pytest.approx([30.5, 100.5, 4.0, 10.5])


def test_a_blank_border_moves_no_column() -> None:
    """The frame, the lines and the local mean of what is left are those of a scan without it."""
    counts = simulate_scan(SRTIO3, Conditions(rotation_deg=17, dose_e_px=800, jitter_pm=4), (400, 400), seed=4).counts
    whole = fit_registration(counts, [SRTIO3], (0.0125, 0.0125))
    cut = counts.copy()
    cut[:30] = 0
    cut[:, -40:] = np.nan
    found = fit_registration(cut, [SRTIO3], (0.0125, 0.0125))
    at = whole.nodes_px[:, :-1, :-1][:, whole.mask & (whole.depth_px[:-1, :-1] > 0)]
    inner = at[:, (at[0] > 60) & (at[1] < 330)].T
    moved = Coordinates(found.nodes_px, found.row_shift_px).uv_of_straight(inner)
    off = (moved - np.rint(moved)) * whole.frame.period_px
    assert np.abs(off - np.median(off, axis=0)).max() < 0.12  # [px]: 1.5 pm
    assert found.mask.sum() > 0.75 * whole.mask.sum()


@pytest.mark.parametrize("slant", [0.0, 0.3])
def test_the_crystal_is_analysed_up_to_vacuum_with_its_own_mean(slant: float) -> None:
    counts = simulate_scan(SRTIO3, Conditions(rotation_deg=17, dose_e_px=6000, jitter_pm=4), (360, 380), seed=6).counts
    row, col = np.indices(counts.shape)
    crystal = col + slant * row < 280
    beside = np.where(crystal, counts, np.random.default_rng(1).poisson(2.0, counts.shape)).astype(np.float32)
    whole, found = (fit_registration(image, [SRTIO3], (0.0125, 0.0125)) for image in (counts, beside))
    at = found.nodes_px[:, :-1, :-1] + np.diff(found.nodes_px[:, :, :-1], axis=1) / 2
    beyond = (at[1] + slant * at[0] - 280) / np.hypot(1, slant)
    assert not found.mask[beyond > 0].any()
    assert found.mask[(beyond < -1.2 * found.frame.period_px) & found.inside].all()
    assert found.depth_px[:-1, :-1][beyond > 0.3 * found.frame.period_px].max() < 0.3 * found.frame.period_px
    parts = [one.local_mean[one.mask].max() / one.local_mean[one.mask].min() for one in (found, whole)]
    assert parts[0] < 1.05 * parts[1]


def test_a_dark_place_inside_or_a_dim_half_is_no_vacuum() -> None:
    image = scan()
    image[100:200, 100:200] = RNG.poisson(5, (100, 100))
    assert Seen.of(image).without_vacuum(image, PERIOD_PX).blank is None
    dim = np.where(np.arange(300) < 150, scan(), 0.4 * scan()).astype(np.float32)
    assert Seen.of(dim).without_vacuum(dim, PERIOD_PX).blank is None


def test_what_is_written_over_an_image_is_blank() -> None:
    """A scale bar and letters of one value; the brightest pixels of a scan, and saturated ones, are none."""
    image = scan()
    assert without_overlay(image) is image
    image[image > np.percentile(image, 99)] = np.percentile(image, 99)
    assert without_overlay(image) is image
    image[300:304, 20:100], image[280:290, 20:22] = 65535, 65535
    found = without_overlay(image)
    assert int(np.isnan(found).sum()) == 4 * 80 + 10 * 2 and np.isnan(found[302, 30])
    np.testing.assert_array_equal(found[:280], image[:280])
