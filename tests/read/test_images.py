"""Which signals are images, their scale, their frames and their pixels."""

import re

import dask.array as da
import numpy as np
import pytest

from oddlattice.read import images, stacks
from oddlattice.read.calibration import length_nm, pixel_size_nm
from oddlattice.read.signals import Axis, Signal


def axis(size, units="nm", scale=0.0125, navigate=False, name=""):
    return Axis(name, size, scale, units, navigate)


def signal(data, axes=None, *, dimension=2, name="", detector="", index=0):
    axes = axes or [axis(n) for n in data.shape]
    return Signal(index, name, detector, data, tuple(axes), dimension, "", "", {})


@pytest.mark.parametrize(
    ("scale", "units", "nm"),
    [
        (0.0125, "nm", 0.0125),
        (0.0125, "n_m", 0.0125),
        (0.0125, "[n_m]", 0.0125),
        (12.5, "pm", 0.0125),
        (0.125, "Å", 0.0125),
        (0.125, "A", 0.0125),
        (0.125, "angstrom", 0.0125),
        (1.25e-5, "µm", 0.0125),
        (1.25e-5, "μm", 0.0125),  # the other mu
        (1.25e-5, "um", 0.0125),
        (1.25e-11, "m", 0.0125),
        (-0.0125, " nm ", 0.0125),
        (1.0, "", None),
        (1.0, "[]", None),
        (1.0, "px", None),
        (1.0, "furlong", None),
        (0.0, "nm", None),
        (np.nan, "nm", None),
        (np.inf, "nm", None),
    ],
)
def test_lengths(scale, units, nm):
    assert length_nm(scale, units) == (None if nm is None else pytest.approx(nm))


def test_pixel_size_of_two_directions():
    assert pixel_size_nm(axis(9), axis(9)) == ((0.0125, 0.0125), [])
    size, warnings = pixel_size_nm(axis(9, "nm", 3.0), axis(9, "pm", 2.0))
    assert size == pytest.approx((3.0, 0.002))
    assert "not square" in warnings[0]
    size, warnings = pixel_size_nm(axis(9, "", 1.0), axis(9, "nm", 0.02))
    assert size == (0.02, 0.02)
    assert "Only one direction" in warnings[0]
    size, warnings = pixel_size_nm(axis(9, "s", 1.0), axis(9, "s", 1.0))
    assert size is None
    assert "no length" in warnings[0]
    size, warnings = pixel_size_nm(axis(9, "", 1.0), axis(9, "[]", 1.0))
    assert size is None
    assert "no pixel size" in warnings[0]


IMAGE = np.zeros((80, 90), np.uint16)
COLOURS = np.zeros((80, 90), [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])


@pytest.mark.parametrize(
    ("data", "axes", "dimension", "reason"),
    [
        (IMAGE, None, 2, ""),
        (IMAGE, [axis(80, ""), axis(90, "")], 2, ""),
        (np.zeros((3, 80, 90)), [axis(3, "s", 1.0, True), axis(80), axis(90)], 2, ""),
        (np.zeros((3, 80, 90)), [axis(3, "µm", 1.0, True), axis(80), axis(90)], 2, ""),
        (np.zeros((3, 80, 90)), [axis(3, "deg", 1.0, True), axis(80), axis(90)], 2, "tilt series"),
        (IMAGE, [axis(80, "1/nm"), axis(90, "1/nm")], 2, "diffraction"),
        (IMAGE, [axis(80, "nm^-1"), axis(90, "nm^-1")], 2, "diffraction"),
        (IMAGE, [axis(80, "1 / nm"), axis(90, "1 / nm")], 2, "diffraction"),
        (IMAGE, [axis(80, "mrad"), axis(90, "mrad")], 2, "diffraction"),
        (IMAGE.astype(complex), [axis(80, "1/nm"), axis(90, "1/nm")], 2, "Fourier transform"),
        (IMAGE.astype(complex), None, 2, "complex"),
        (COLOURS, None, 2, "colour picture"),
        (np.zeros((80, 90), [("x", "f4"), ("y", "f4")]), None, 2, "table of values"),
        (np.full((80, 90), "text"), None, 2, "text"),
        (np.zeros(90), [axis(90, "eV")], 1, "is a spectrum"),
        (np.zeros(90), [axis(90, "")], 1, "line profile"),
        (np.zeros((80, 90, 99)), [axis(80), axis(90), axis(99, "keV")], 2, "spectrum image"),
        (np.zeros((80, 99)), [axis(80, navigate=True), axis(99, "")], 1, "spectrum image"),
        (np.zeros((4, 4, 80, 90)), None, 2, "4-dimensional"),
        (np.zeros((63, 90)), None, 2, "too small .63 x 90 px"),
    ],
)
def test_refusals(data, axes, dimension, reason):
    found = images.refusal(signal(data, axes, dimension=dimension), 64)
    assert bool(found) == bool(reason)
    assert re.search(reason, found), found


def test_frames_are_found_along_the_axis_that_counts_them():
    nm, s = ("nm", 0.01), ("s", 1.0)
    for place, kinds in ((0, (s, nm, nm)), (2, (nm, nm, s)), (0, (nm, nm, nm))):
        stack = signal(np.zeros((5, 6, 7)), [axis(5 + n, *kind) for n, kind in enumerate(kinds)])
        assert stacks.frame_axis(stack) == place
    last = signal(np.zeros((80, 90, 3)), [axis(80), axis(90), axis(3, "", 1.0)])
    assert stacks.frames_first(last).shape == (3, 80, 90)
    assert [a.size for a in stacks.image_axes(last)] == [80, 90]


@pytest.mark.parametrize("chunks", [(1, 80, 90), (3, 40, 90), (10, 80, 90)])
@pytest.mark.parametrize("at_once", [1 << 28, 80 * 90 * 2, 1000])
def test_frames_lazy_and_eager_whatever_the_chunks(monkeypatch, chunks, at_once):
    monkeypatch.setattr(stacks, "AT_ONCE_BYTES", at_once)
    monkeypatch.setattr(stacks, "CHUNK_PX", 32)
    stack = np.random.default_rng(0).integers(0, 999, (10, 80, 90)).astype(np.uint16)
    for data in (stack, da.from_array(stack, chunks=chunks)):
        read = [np.concatenate(list(bands)) for _, bands in stacks.frames(data)]
        np.testing.assert_array_equal(np.stack(read), stack)


def test_detectors():
    names = ["BF", "HAADF", "DF4-A", "MAADF", "ADF", "Annular Dark Field", "Gatan BF/DF", "HAADF_1", "roadfilm"]
    signals = [signal(IMAGE, name=name, index=n) for n, name in enumerate(names)]
    taken, left = images.chosen(signals, "auto")
    assert [s.name for s in taken] == ["HAADF", "MAADF", "ADF", "Annular Dark Field", "HAADF_1"]
    assert len(taken) + len(left) == len(names)
    assert images.chosen(signals[:1], "auto") == (signals[:1], [])
    assert images.chosen(signals, "all") == (signals, [])
    assert [s.name for s in images.chosen(signals, ["bf", "DF4-A"])[0]] == ["BF", "DF4-A"]
    by_detector = signal(IMAGE, name="07-Image", detector="HAADF")
    assert images.chosen([by_detector, signals[0]], "auto")[0] == [by_detector]
    with pytest.raises(ValueError, match="need auto, all or a list"):
        images.chosen(signals, "haadf")


def survey_of(*bands):
    survey = images.Survey((80, 90))
    kept = list(survey.watch(iter(bands)))
    return survey, kept


def test_the_survey_counts_what_passes():
    survey, kept = survey_of(np.array([[1, 5], [5, 2]]), np.array([[5, 3]]))
    assert (survey.pixels, survey.lowest, survey.highest, survey.at_highest) == (6, 1, 5, 3)
    survey, _ = survey_of(np.array([[9, 9]]), np.array([[10, 3]]))
    assert (survey.highest, survey.at_highest) == (10, 1)
    survey, kept = survey_of(np.array([[np.nan, 2.0], [np.inf, 1.0]]), np.array([[np.nan, np.nan]]))
    assert (survey.pixels, survey.not_finite, survey.lowest, survey.highest) == (6, 4, 1.0, 2.0)
    assert kept[0].dtype == np.float32
    survey, _ = survey_of(np.array([[1e300, 1.0]]))
    assert survey.not_finite == 1  # too large for float32


def test_pixels_of_no_use():
    assert "every pixel is zero" in images.refusal_of_pixels(survey_of(np.zeros((9, 9)))[0])
    assert "every pixel is 2.5" in images.refusal_of_pixels(survey_of(np.full((9, 9), 2.5))[0])
    assert "no number in 100 %" in images.refusal_of_pixels(survey_of(np.full((9, 9), np.nan))[0])
    some = np.arange(1000.0).reshape(20, 50)
    some[0, :5] = np.nan
    assert images.refusal_of_pixels(survey_of(some)[0]) == ""


def test_an_image_of_few_counts_is_not_taken_for_a_clipped_one():
    few = np.random.default_rng(0).poisson(0.3, (200, 200)).astype(np.uint16)
    few = np.minimum(few, 2)
    survey, _ = survey_of(few)
    assert survey.saturated > images.LARGEST_SATURATED
    assert not images.is_clipped(survey, int((few == 1).sum()))
    clipped = np.minimum(np.random.default_rng(0).poisson(400, (200, 200)), 420)
    survey, _ = survey_of(clipped)
    low = 420 - (420 - clipped.min()) / 64
    assert images.is_clipped(survey, int(((clipped >= low) & (clipped < 420)).sum()))


def lattice_frames(drift_px, seed=0, dose=40.0):
    """Noisy frames of a square lattice (20 px a cell) with some empty columns, drifting over it."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0:300, 0:320]
    scene = (1 + np.cos(2 * np.pi * rows / 20)) * (1 + np.cos(2 * np.pi * cols / 20)) / 4
    for row, col in rng.integers(2, 13, (8, 2)):
        scene[row * 20 - 10 : row * 20 + 10, col * 20 - 10 : col * 20 + 10] = 0
    place, places = np.array([40, 40]), []
    for step in drift_px:
        place = place + step
        places.append(place)
    frames = [rng.poisson(dose * (0.1 + scene[r : r + 200, c : c + 220])) for r, c in places]
    return np.stack(frames).astype(np.uint16), np.array(places) - places[0]


@pytest.mark.parametrize("step", [(0, 0), (2, -3), (-4, 4), (0, 7)])
@pytest.mark.parametrize("dose", [5.0, 40.0])
def test_drifting_frames_of_a_lattice_are_aligned(step, dose):
    stack, shifts = lattice_frames([(0, 0)] + [step] * 5, dose=dose)
    total, found = stacks.aligned_sum(stack)
    assert np.abs(found - shifts).max() <= (0 if dose == 40.0 else 1)  # 5 counts at the brightest pixel
    assert total.dtype == np.int32
    assert total.shape == tuple(np.array([200, 220]) - np.ptp(found, axis=0))


def test_the_sum_is_exact_and_of_the_shared_field():
    stack, shifts = lattice_frames([(0, 0), (3, -2), (-5, 4)])
    total, found = stacks.aligned_sum(da.from_array(stack, chunks=(1, 200, 220)))
    np.testing.assert_array_equal(found, shifts)
    top, left = shifts.max(axis=0)
    bottom, right = np.array([200, 220]) + shifts.min(axis=0)
    expected = sum(
        frame[top - r : bottom - r, left - c : right - c].astype(int)
        for frame, (r, c) in zip(stack, shifts, strict=True)
    )
    np.testing.assert_array_equal(total, expected)


def test_floats_stay_floats_in_the_sum():
    total, _ = stacks.aligned_sum(np.ones((3, 70, 80)) + np.random.default_rng(0).normal(size=(70, 80)))
    assert total.dtype == np.float32
