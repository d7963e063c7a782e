"""Structures for other programs: counted places, occupancies, and what CIF, XYZ and POSCAR give back when read."""

from io import StringIO
from typing import Any

import numpy as np
import polars as pl
import pytest
from ase.io import read

from oddlattice.report import structures
from oddlattice.storage.products import COLUMNS, DEFECTS, PLACES, table
from support.small_results import EMPTY, PIXEL_NM, SHAPE, columns, defects, places


def found(sites: tuple[str, str] = ("Sr", "Ti")) -> pl.DataFrame:
    rows = columns("a", sites)
    tables = table(rows, COLUMNS), table(places(rows), PLACES), table(defects(rows), DEFECTS)
    return structures.column_table(*tables, (PIXEL_NM, PIXEL_NM))


def atoms(sites: tuple[str, str] = ("Sr", "Ti"), model: str = "srtio3_001", crystal: str = "SrTiO3 [001]") -> Any:
    rows = found(sites)
    named = structures.elements_of(list(sites), {"model": model, "crystal": crystal})
    return structures.structure(rows, SHAPE, (PIXEL_NM, PIXEL_NM), named)


def test_every_column_and_every_extra_atom_is_one_row() -> None:
    rows = found()
    assert rows["kind"].value_counts().sort("kind").rows() == [("bulk", 11), ("extra", 1), ("vacancy-like", 1)]
    gone = rows.row(by_predicate=pl.col("kind") == "vacancy-like", named=True)
    assert (gone["occupancy"], gone["measured"], gone["review"]) == (pytest.approx(0.03), False, "confirmed")
    assert gone["row_px"] == columns("a")[EMPTY]["row_px"]  # of the lattice, as there is nothing to be seen
    first = rows.row(
        by_predicate=(pl.col("cell_u") == 0) & (pl.col("column") == 0) & (pl.col("cell_v") == 0), named=True
    )
    assert (first["row_px"], first["row_nm"], first["col_nm"]) == (10.25, pytest.approx(0.205), pytest.approx(0.24))


def test_a_structure_looks_like_the_image() -> None:
    box = atoms()
    assert box.cell.lengths().tolist() == pytest.approx([16.0, 12.0, 4.0])  # 80 x 60 px of 0.2 Å
    extra = box[box.arrays["kind"] == "extra"]
    # (row 5, col 7), counted from pixel middles: 7.5 px from the left, 54.5 px from below
    assert extra.positions[0].tolist() == pytest.approx([1.5, 10.9, 2.0])
    assert extra.get_chemical_symbols() == ["X"]


def test_extended_xyz_brings_every_array_back() -> None:
    box = atoms()
    again = read(StringIO(structures.xyz_text(box)), format="extxyz")
    assert again.get_chemical_symbols() == box.get_chemical_symbols()
    assert again.info["sites"] == "-=X Sr=Sr Ti=Ti"
    for name in ("occupancy", "z", "probability_real", "row_nm"):
        assert again.arrays[name] == pytest.approx(box.arrays[name], nan_ok=True)
    assert (again.arrays["kind"] == box.arrays["kind"]).all() and (again.arrays["grain"] == 1).all()


def test_cif_holds_occupancies_that_cif_allows_and_the_rest_beside_them() -> None:
    text = structures.cif_text(atoms())
    again = read(StringIO(text), format="cif", store_tags=True, fractional_occupancies=True)
    tags = again.info
    assert len(again) == 13 and again.cell.lengths().tolist() == pytest.approx([16.0, 12.0, 4.0])
    occupancy = np.array(tags["_atom_site_occupancy"])
    assert sorted(occupancy)[:2] == [0.03, 1.0] and occupancy.max() == 1.0
    beside = tags["_atom_site_oddlattice_occupancy"]
    assert beside[occupancy.argmin()] == 0.03 and beside.count("?") == 1  # the extra atom's is not measured
    assert tags["_atom_site_oddlattice_kind"].count("vacancy-like") == 1
    assert max(map(len, text.splitlines())) <= 2048


def test_poscar_leaves_out_the_column_that_is_not_there_and_says_so() -> None:
    text = structures.poscar_text(atoms())
    assert text.splitlines()[0].endswith("1 columns of occupancy < 0.5 left out")
    again = read(StringIO(text), format="vasp")
    assert again.get_chemical_formula() == "Sr6Ti5X"


@pytest.mark.parametrize(
    ("sites", "model", "crystal", "expected"),
    [
        (("A", "B"), "own", "", ["X", "X"]),  # B is no boron
        (("A1", "C2"), "of_mine", "", ["X", "X"]),
        (("Ti1", "C"), "own", "Ti3C2 [001]", ["Ti", "C"]),
        (("Ti1", "B"), "own", "Ti3C2 [001]", ["Ti", "X"]),  # a column that the crystal does not have
        (("C-A", "C-B"), "own", "graphene [001]", ["C", "C"]),
        (("Mo", "S2"), "mos2", "", ["Mo", "S"]),
        (("site", "Qq"), "mine", "", ["X", "X"]),
    ],
)
def test_a_letter_is_no_element(sites: tuple[str, str], model: str, crystal: str, expected: list[str]) -> None:
    told = structures.elements_of(sites, {"model": model, "crystal": crystal})
    assert [told[site] for site in sites] == expected


def test_a_neighbourhood_is_a_box_around_its_defect() -> None:
    gone, extra = structures.neighbourhoods(atoms(), 0.3)
    assert (gone.arrays["kind"][(gone.arrays["z"] == -12.0)], len(gone)) == (["vacancy-like"], 5)  # and its neighbours
    assert gone.cell.lengths().tolist() == pytest.approx([6.0, 6.0, 4.0])
    (middle,) = gone.positions[gone.arrays["z"] == -12.0]
    assert middle.tolist() == pytest.approx([3.0, 3.0, 2.0])
    assert sorted(extra.arrays["kind"]) == ["bulk", "extra"]


@pytest.mark.slow
def test_a_simulation_of_the_exported_model_shows_the_vacancy() -> None:
    """A HAADF image by abTEM of the POSCAR: bright where columns are, dark where the emptied one would be."""
    abtem = pytest.importorskip("abtem")
    abtem.config.set({"device": "cpu", "fft": "numpy"})
    model = read(StringIO(structures.poscar_text(atoms())), format="vasp")
    model = model[[symbol != "X" for symbol in model.get_chemical_symbols()]]
    probe = abtem.Probe(energy=200e3, semiangle_cutoff=25, gpts=(320, 240))
    scan = abtem.GridScan(start=(0, 0), end=(16, 12), gpts=(40, 30))
    potential = abtem.Potential(model, gpts=(320, 240), slice_thickness=2)
    image = probe.scan(potential, scan=scan, detectors=abtem.AnnularDetector(60, 150)).compute().array

    def brightness(site: str, kind: str) -> np.ndarray:
        some = atoms()[(atoms().arrays["site"] == site) & (atoms().arrays["kind"] == kind)].positions[:, :2]
        return image[tuple(np.rint(some / 0.4).astype(int).T)]

    (gone,) = brightness("Ti", "vacancy-like")
    assert gone < 0.1 * brightness("Ti", "bulk").min() < brightness("Sr", "bulk").min()


def test_a_simulation_of_the_exported_model_shows_the_defects_again() -> None:
    """The POSCAR, sent through abTEM: the emptied column is dark, the extra one bright, all others are as bulk."""
    abtem = pytest.importorskip("abtem", reason="needs the dependencies `library`")
    rows = found()
    named = {"Sr": "Sr", "Ti": "Ti", "-": "Ti"}
    box = structures.structure(rows, SHAPE, (PIXEL_NM, PIXEL_NM), named)
    again = read(StringIO(structures.poscar_text(box)), format="vasp")
    abtem.config.set({"diagnostics.progress_bar": False})
    probe = abtem.Probe(energy=300e3, semiangle_cutoff=25)
    scan = abtem.GridScan((0, 0), tuple(again.cell.lengths()[:2]), gpts=(32, 24))
    detector = abtem.AnnularDetector(inner=50, outer=95)
    seen = probe.scan(abtem.Potential(again, sampling=0.1), scan=scan, detectors=detector).compute().array  # (x, y)

    lengths = again.cell.lengths()[:2]
    at = np.rint(box.positions[:, :2] / lengths * seen.shape).astype(int) % seen.shape
    bright = np.array([seen[x - 1 : x + 2, y - 1 : y + 2].mean() if x and y else np.nan for x, y in at])
    kind, site = box.arrays["kind"], box.arrays["site"]
    for name in ("Sr", "Ti"):
        bulk = bright[(site == name) & (kind == "bulk")]
        assert bulk.std() < 0.15 * bulk.mean()
        for one in bright[(site == name) & (kind == "vacancy-like")]:
            assert one < 0.3 * bulk.mean()
        if name == "Ti":
            assert bright[kind == "extra"].min() > 0.7 * bulk.mean()
