"""Crystals seen along an axis: counted columns, cells known from textbooks, plane groups of the Tables."""

from itertools import pairwise

import numpy as np
import pytest

from oddlattice.crystal import Column, column_nm2
from oddlattice.lattice.projection import Columns, conventional, plane_group, primitive, project, reduced
from support.seen_cells import LIBRARY, entries

CUBE = np.eye(3) * 0.4
FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def by_name(crystal: str, axis: str) -> dict:
    return next(one for one in entries() if (one["crystal"], one["axis"]) == (crystal, axis))


def test_fcc_along_its_cube_edge_is_a_square_of_half_the_edge() -> None:
    seen = project(CUBE, FCC, [{"Au": 1.0}] * 4, [0, 0, 1])
    assert np.linalg.norm(seen.vectors_nm, axis=1) == pytest.approx([0.2, 0.2])
    assert seen.vectors_nm[0] @ seen.vectors_nm[1] == pytest.approx(0)
    assert seen.atoms == ({"Au": 1.0},)
    assert seen.repeat_nm == pytest.approx(0.4)


def test_fcc_along_the_face_diagonal_repeats_after_half_of_it() -> None:
    seen = project(CUBE, FCC, [{"Au": 1.0}] * 4, [1, 1, 0])
    assert seen.repeat_nm == pytest.approx(0.4 / np.sqrt(2))
    assert seen.atoms == ({"Au": 1.0},)
    a, b = conventional(seen.vectors_nm) @ seen.vectors_nm
    assert sorted([np.linalg.norm(a), np.linalg.norm(b)]) == pytest.approx([0.4 / np.sqrt(2), 0.4])


def test_atoms_of_a_perovskite_fall_into_four_columns() -> None:
    columns = {(c["site"], c["u"], c["v"]): c["atoms"] for c in by_name("SrTiO3", "[001]")["columns"]}
    assert columns == {
        ("Sr", 0.0, 0.0): {"Sr": 1.0},
        ("Ti", 0.5, 0.5): {"O": 1.0, "Ti": 1.0},
        ("O", 0.0, 0.5): {"O": 1.0},
        ("O", 0.5, 0.0): {"O": 1.0},
    }


@pytest.mark.parametrize(
    ("crystal", "axis", "group"),  # of the International Tables, vol. A: symmetry of special projections
    [
        ("SrTiO3", "[001]", "p4mm"),
        ("SrTiO3", "[110]", "p2mm"),
        ("Si", "[110]", "c2mm"),
        ("GaN", "[11-20]", "pg"),
        ("Mg", "[11-20]", "p2mg"),
        ("TiO2 rutile", "[001]", "p4gm"),
        ("Sr2TiO4", "[100]", "c2mm"),
        ("MoS2", "[0001]", "p3m1"),
        ("graphene", "[0001]", "p6mm"),
        ("LaMnO3", "[010]", "p2gg"),
    ],
)
def test_plane_groups(crystal: str, axis: str, group: str) -> None:
    assert by_name(crystal, axis)["plane_group"] == group


def test_dumbbells_of_silicon_are_0_136_nm_long() -> None:
    entry = by_name("Si", "[110]")
    gamma = np.deg2rad(entry["gamma_deg"])
    vectors = np.array([[entry["a_nm"], 0], [entry["b_nm"] * np.cos(gamma), entry["b_nm"] * np.sin(gamma)]])
    first, second = (np.array([column["u"], column["v"]]) for column in entry["columns"])
    assert np.linalg.norm((second - first) @ vectors) == pytest.approx(0.1358, abs=2e-4)


def test_brightness_is_that_of_the_crystal_module() -> None:
    for entry in entries():
        for column in entry["columns"]:
            expected = column_nm2(Column(column["site"], 0, 0, column["atoms"], 0.008, True))
            assert column["nm2"] == pytest.approx(expected, rel=2e-3)
        assert all(a["nm2"] >= b["nm2"] for a, b in pairwise(entry["columns"]))


def test_a_cell_of_like_columns_shrinks_to_the_smallest() -> None:
    twice = Columns(
        np.diag([0.4, 0.8]), np.array([[0, 0], [0, 0.5], [0.5, 0.25], [0.5, 0.75]]), np.ones(4), ({"Fe": 1.0},) * 4, 0.3
    )
    found = primitive(twice)
    assert len(found.places) == 1
    assert abs(np.linalg.det(found.vectors_nm)) == pytest.approx(0.4 * 0.8 / 4)
    unlike = Columns(twice.vectors_nm, twice.places, np.array([1, 1, 0.5, 0.5]), twice.atoms, 0.3)
    assert len(primitive(unlike).places) == 2


def test_reduced_basis_spans_the_same_lattice() -> None:
    vectors = np.array([[1.0, 0.2], [7.3, 1.9]])
    basis, change = reduced(vectors)
    assert abs(round(np.linalg.det(change))) == 1
    assert change @ vectors == pytest.approx(basis)
    a, b = basis
    assert 0 <= a @ b <= a @ a / 2 + 1e-12
    assert a @ a <= b @ b


def test_a_glide_is_no_mirror() -> None:
    rectangle = np.diag([0.3, 0.5])
    kinds = np.array([1.0, 1.0])
    zigzag = Columns(rectangle, np.array([[0.2, 0.0], [0.8, 0.5]]), kinds, ({"Fe": 1.0},) * 2, 0.3)
    assert plane_group(zigzag) == "p2mg"


def test_shipped_library_is_what_its_recipe_builds() -> None:
    pytest.importorskip("ase")
    import build_crystals

    assert build_crystals.built(LIBRARY.with_name("recipe.yaml")) == LIBRARY.read_text()
    assert LIBRARY.stat().st_size < 300_000
