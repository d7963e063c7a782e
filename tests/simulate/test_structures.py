"""CIF files of the user: what they give, and what is said where they give nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

import read_crystals
from oddlattice.lattice.crystal_views import load_library
from oddlattice.lattice.identity import identify
from oddlattice.lattice.seen_cell import Observed
from oddlattice.simulate.structures import zone_of

pytest.importorskip("ase")
LIBRARY = Path(__file__).parents[2] / "crystals/library.json"
CIF = """data_KTaO3
_cell_length_a 3.989
_cell_length_b 3.989
_cell_length_c 3.989
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P m -3 m'
_symmetry_Int_Tables_number 221
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
K K 0.5 0.5 0.5 1.0
Ta Ta 0 0 0 0.9
O O 0.5 0 0 1.0
"""


def read(folder: Path, **files: str) -> dict:
    for name, text in files.items():
        (folder / name).write_text(text)
    read_crystals.main(sorted(folder.glob("*")), folder / "out.json")
    return json.loads((folder / "out.json").read_text())


def test_a_cif_gives_its_columns_along_the_axis_in_its_name(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, **{"KTaO3 [001].cif": CIF})["entries"]
    assert (entry["crystal"], entry["axis"], entry["plane_group"]) == ("KTaO3", "[001]", "p4mm")
    assert (entry["a_nm"], entry["b_nm"], entry["gamma_deg"]) == (0.3989, 0.3989, 90.0)
    assert entry["columns"][0]["atoms"] == {"Ta": 0.9, "O": 1.0}
    assert sorted(column["site"] for column in entry["columns"]) == ["K", "O", "O", "Ta"]


def test_axes_may_stand_beside_it(tmp_path: Path) -> None:
    found = read(tmp_path, **{"mine.cif": CIF, "mine.yaml": 'axes: ["[001]", "[1-10]", "[2 1 0]"]'})["entries"]
    assert [(one["crystal"], one["axis"]) for one in found] == [
        ("mine", "[001]"),
        ("mine", "[1-10]"),
        ("mine", "[2 1 0]"),
    ]


def test_an_image_is_known_by_a_crystal_of_the_user(tmp_path: Path) -> None:
    read(tmp_path, **{"KTaO3 [210].cif": CIF})
    library = load_library((LIBRARY, tmp_path / "out.json"))
    entry = json.loads((tmp_path / "out.json").read_text())["entries"][0]
    vectors = np.diag([entry["a_nm"], entry["b_nm"]]) / 0.01
    seen = [column for column in entry["columns"] if column["nm2"] > 0.1 * entry["columns"][0]["nm2"]]
    places = np.array([[column["u"], column["v"]] for column in seen])
    bright = np.array([column["nm2"] for column in seen])
    found = identify(Observed(vectors, places, bright, 0.1, 0.02, 0.01, 0.08), library)
    assert found.candidates[0].entry.name == "KTaO3 [210]"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plain.cif", CIF, r"plain\.cif: found no zone axis; needed it in the name, as in 'NAME \[110\]\.cif'"),
        ("bad [001].cif", "no crystal", r"bad \[001\]\.cif: found .*; needed a CIF file of one crystal"),
        ("odd [abc].cif", CIF, r"odd \[abc\]\.cif: found zone axis '\[abc\]'; needed three or four integers"),
        ("empty [001].cif", "", r"empty \[001\]\.cif: found .*; needed a CIF file of one crystal"),
    ],
)
def test_a_file_that_gives_nothing_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **{name: text})


def test_a_list_of_axes_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mine\.yaml: found '\[001\]'; needed axes: a list"):
        read(tmp_path, **{"mine.cif": CIF, "mine.yaml": "axes: '[001]'"})


@pytest.mark.parametrize(
    ("axis", "indices"),
    [
        ("[110]", [1, 1, 0]),
        ("[1-10]", [1, -1, 0]),
        ("[11-20]", [1, 1, 0]),
        ("[0001]", [0, 0, 1]),
        ("[2 2 0]", [1, 1, 0]),
    ],
)
def test_axes_are_written_in_the_usual_ways(axis: str, indices: list[int]) -> None:
    assert zone_of(axis, Path("x.cif")) == indices
