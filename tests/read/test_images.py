"""Which signals are images, which are wanted, and whether their pixels are of use."""

import re

import numpy as np
import pytest

from oddlattice.read import images
from support.signals import axis, signal

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
        (
            np.zeros((3, 80, 90)),
            [axis(3, "mrad", 1.0, True), axis(80), axis(90)],
            2,
            "detector angles .3 rings in mrad.",
        ),
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


def test_a_saturated_patch_is_not_columns_cut_off():
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:320, :320]
    columns = 60 + 60 * np.cos(2 * np.pi * row / 20) * np.cos(2 * np.pi * col / 20)
    patch = 900 * np.exp(-((row - 90) ** 2 + (col - 200) ** 2) / (2 * 25**2))
    for ground, refused in ((columns + patch, False), (3.5 * columns, True), (3.5 * columns + patch, True)):
        image = np.minimum(rng.poisson(ground), 255).astype(np.uint8)
        survey, _ = survey_of(image)
        assert survey.saturated > 0.04
        in_patches = images.saturated_in_patches([image[:256], image[256:]], 255)
        assert bool(images.refusal_of_saturation(survey, in_patches)) == refused
