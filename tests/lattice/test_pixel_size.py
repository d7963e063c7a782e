"""The size of a raw pixel, counted by hand."""

import pytest

from oddlattice.lattice import pixel_size


def test_the_lattice_tells_the_size_and_the_header_the_ratio() -> None:
    header = pixel_size.header_nm({"pixel_nm_header": [0.02, 0.005]})
    assert header == (0.02, 0.005)
    assert pixel_size.header_nm({"pixel_nm_header": None}) is None
    assert pixel_size.mean_nm(header) == pytest.approx(0.01)
    assert pixel_size.by_lattice_nm(0.011, header) == pytest.approx((0.022, 0.0055))
    assert pixel_size.by_lattice_nm(0.011, None) == (0.011, 0.011)
    assert pixel_size.pixel_nm(None, header) == header
    assert pixel_size.pixel_nm(0.011, header) == pytest.approx((0.022, 0.0055))
    assert pixel_size.pixel_nm(None, None) is None
