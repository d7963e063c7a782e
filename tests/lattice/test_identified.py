"""Who it is, told of the crystal that an image shows itself."""

from pathlib import Path

import numpy as np
import pytest

from oddlattice.lattice.identified import header_warning, identify_own, identity_attributes, named_sites, ruler_nm
from oddlattice.lattice.own_columns import Columns
from oddlattice.lattice.own_crystal import OwnCell
from support.seen_cells import LIBRARY

LIBRARIES: list[str | Path] = [LIBRARY]


def own(
    vectors_px: list[list[float]], places: list[list[float]], bright: list[float], sites: str, sigma: float = 0.01
) -> OwnCell:
    columns = Columns(
        places=np.array(places),
        intensity=np.array(bright),
        place_sigma=np.full((len(places), 2), 0.004),
        intensity_sigma=np.full(len(places), sigma),
        widths=np.ones(len(places)),
        spread_px2=np.eye(2),
        tail_part=0.3,
        sign=1,
        criterion=0.0,
    )
    return OwnCell(np.array(vectors_px), np.eye(2, dtype=np.int64), np.zeros(2), columns, tuple(sites))


def strontium_titanate_layers() -> OwnCell:
    """Sr2TiO4 [110], 10 pm a pixel."""
    places = [[0, 0], [0, 0.42], [0, 0.71], [0.5, 0.71]]
    return own([[27.46, 0.0], [0.0, 63.0]], places, [1.0, 1.0, 0.37, 0.13], "AABC")


def test_a_crystal_gives_sites_and_ruler_without_a_header() -> None:
    cell = strontium_titanate_layers()
    found = identify_own(cell, None, LIBRARIES)
    assert (found.kind, found.name) == ("crystal", "Sr2TiO4 [110]")
    assert named_sites(cell.sites, found.sites) == ("Sr", "Sr", "Ti", "O")
    assert ruler_nm(found, None) == pytest.approx((0.01, 0.01), rel=2e-3)
    assert header_warning(found, None) == []
    said = identity_attributes(found)
    assert said["candidates"][0] == {"crystal": "Sr2TiO4", "axis": "[110]", "probability": said["probability"]}


def test_mxene_and_its_false_friends_are_a_class() -> None:
    hexagon = [[39.0, 0.0], [-19.5, 33.77]]
    cell = own(hexagon, [[0, 0], [1 / 3, 2 / 3], [2 / 3, 1 / 3]], [1.0, 0.8, 0.79], "ABB")
    found = identify_own(cell, None, LIBRARIES)
    assert found.kind == "class"
    assert {"Ti3C2", "ZrSe2 (1T)"} <= {one.entry.crystal for one in found.candidates}
    assert named_sites(cell.sites, found.sites) == ("A", "B", "B")
    assert ruler_nm(found, None) is None


def test_a_header_that_disagrees_is_said() -> None:
    found = identify_own(strontium_titanate_layers(), (0.0111, 0.0111), LIBRARIES)
    (line,) = header_warning(found, (0.0111, 0.0111))
    said = "header says 11.10 pm/px, the lattice of Sr2TiO4 [110] says 10.00 pm/px (11.0 %)"
    assert line == f"{said}: the header is wrong; the lattice is used"
    close = identify_own(strontium_titanate_layers(), (0.0101, 0.0101), LIBRARIES)
    assert header_warning(close, (0.0101, 0.0101)) == []


@pytest.mark.parametrize(
    ("factor", "says"), [(0.1, True), (0.5, True), (2.0, True), (10.0, True), (1.16, True), (1.0, False), (1.04, False)]
)
def test_a_header_in_whose_size_nothing_alike_comes_is_wrong(factor: float, says: bool) -> None:
    """SrTiO3 [001] at 12.5 pm a pixel: what it looks like is a class of crystals of about one size."""
    cell = own([[31.24, 0.0], [0.0, 31.24]], [[0, 0], [0.5, 0.5]], [1.0, 0.52], "AB")
    header = (0.0125 * factor, 0.0125 * factor)
    found = identify_own(cell, header, LIBRARIES)
    lines, size = header_warning(found, header), ruler_nm(found, header)
    assert bool(lines) == says and size is not None
    if says:
        known = "the header is wrong; lengths are by the lattice, good to " in lines[0]
        assert known or (factor == 1.16 and "the header may be wrong" in lines[0])
        assert size[0] == (pytest.approx(0.0125, rel=0.02) if known else header[0])
    else:
        assert size == header


def test_the_header_of_a_crystal_of_no_library_is_not_doubted() -> None:
    rng = np.random.default_rng(5)
    doubted = 0
    for _ in range(40):
        angle, sides = rng.uniform(1.2, 1.9), rng.uniform(20, 60, 2)
        vectors = [[sides[0], 0.0], [sides[1] * np.cos(angle), sides[1] * np.sin(angle)]]
        cell = own(vectors, rng.random((3, 2)).tolist(), [1.0, 0.8, 0.5], "ABC")
        doubted += bool(header_warning(identify_own(cell, (0.0125, 0.0125), LIBRARIES), (0.0125, 0.0125)))
    assert doubted <= 1


def test_pixels_that_are_not_square_are_no_distortion() -> None:
    cell = strontium_titanate_layers()
    flat = OwnCell(cell.vectors_px / [1.0, 1.2], cell.cell, cell.origin, cell.columns, cell.sites)
    found = identify_own(flat, (0.01, 0.012), LIBRARIES)
    assert found.name == "Sr2TiO4 [110]"
    assert ruler_nm(found, (0.01, 0.012)) == pytest.approx((0.01, 0.012), rel=2e-3)


def test_a_column_that_noise_may_have_made_is_not_counted_on() -> None:
    hexagon = [[17.1, 0.0], [-8.55, 14.81]]
    places = [[0, 0], [1 / 3, 2 / 3], [0.52, 0.48]]
    found = identify_own(own(hexagon, places, [1.0, 0.38, 0.12], "ABC", sigma=0.05), None, LIBRARIES)
    assert found.kind == "class"
    assert found.candidates[0].entry.name == "MoS2 [0001]"
    assert len(found.sites) == 3 and found.sites[2] == ""


def test_iron_on_its_smallest_cell_keeps_its_letter() -> None:
    cell = own([[16.6, 0.0], [0.0, 16.7]], [[0.0, 0.0]], [1.0], "A")
    found = identify_own(cell, None, LIBRARIES)
    assert found.kind == "lattice"
    assert named_sites(cell.sites, found.sites) == ("A",)
    assert ruler_nm(found, None) is None


def test_an_own_site_with_two_elements_keeps_all_letters() -> None:
    assert named_sites("AAB", ("Sr", "Ti", "O")) == ("A", "A", "B")
    assert named_sites("ABC", ("Mo", "S", "")) == ("Mo", "S", "C")
    assert named_sites(("A1", "A2", "B"), ("Sr", "Sr", "Ti")) == ("Sr1", "Sr2", "Ti")
    assert named_sites(("A", "B1", "B2"), ("Ti", "Ti", "Ti")) == ("Ti-A", "Ti-B1", "Ti-B2")


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 10.0])
def test_a_crystal_known_without_a_header_is_known_with_a_wrong_one(factor: float) -> None:
    cell, header = strontium_titanate_layers(), (0.01 * factor, 0.01 * factor)
    found = identify_own(cell, header, LIBRARIES)
    assert found.name == "Sr2TiO4 [110]" and ruler_nm(found, header) == pytest.approx((0.01, 0.01), rel=2e-3)
    (line,) = header_warning(found, header)
    assert line.endswith("the header is wrong; the lattice is used")


@pytest.mark.parametrize("a_px", [31.24 * 1.35, 31.24 * 1.6])
def test_a_crystal_of_no_library_keeps_a_right_header(a_px: float) -> None:
    """A cell of two columns as SrTiO3 has it, a third or more longer: no header is wrong by that."""
    cell, header = own([[a_px, 0.0], [0.0, a_px]], [[0, 0], [0.5, 0.5]], [1.0, 0.52], "AB"), (0.0125, 0.0125)
    found = identify_own(cell, header, LIBRARIES)
    assert not found.name.startswith("perovskite") or found.probability < 0.9
    assert not any("header is wrong" in line for line in header_warning(found, header))
    assert ruler_nm(found, header) == header
