"""Pixel sizes from scale and units."""

import numpy as np
import pytest

from oddlattice.read.calibration import length_nm, pixel_size_nm
from support.signals import axis


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


def test_units_do_not_show_in_a_length():
    assert length_nm(1.95e-11, "m") == length_nm(0.0195, "nm") == 0.0195
