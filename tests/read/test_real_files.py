"""Real instrument files beside the repository, through the whole workflow; skipped where the folder is absent."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from oddlattice.storage import products

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/real"

SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not REAL.is_dir(), reason=f"no real microscope files at {REAL}"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """Rows of the images table by file name."""
    work = tmp_path_factory.mktemp("real")
    done = subprocess.run(
        [*SNAKEMAKE, str(work), "--cores", "2", "results/4_defects/images.parquet", "--config", f"archive={REAL}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    inventory = products.read_tsv(work / "results/0_archive/inventory.tsv", products.INVENTORY)
    states = Counter(inventory["state"])
    assert states["done"] + states["rejected"] + states["waiting"] == len(inventory) and len(inventory) >= 19
    table = pl.read_parquet(work / "results/4_defects/images.parquet")
    rows: dict[str, list[dict[str, object]]] = {}
    for row in table.iter_rows(named=True):
        rows.setdefault(Path(row["path"]).name, []).append(row)
    return rows


def only(images: dict[str, list[dict[str, object]]], name: str) -> dict[str, object]:
    (row,) = images[name]
    return row


def test_srtio3_looks_like_bulk(images: dict[str, list[dict[str, object]]]) -> None:
    row = only(images, "Acquisition_18.emd")
    assert row["state"] == "analysed" and row["model"] == "srtio3_001"
    assert abs(float(row["a_nm"]) / 0.3905 - 1) < 0.06 and abs(float(row["b_nm"]) / 0.3905 - 1) < 0.06  # type: ignore[arg-type]
    assert "header says 12.25 pm/px" in str(row["reason"])
    assert int(row["columns_tested"]) > 1200  # type: ignore[call-overload]
    assert int(row["defects"]) <= 2e-3 * int(row["columns_tested"])  # type: ignore[call-overload]


def test_another_perovskite_is_analysed_on_its_own_crystal(images: dict[str, list[dict[str, object]]]) -> None:
    row = only(images, "BTO_crystal_1.dm4")
    assert row["state"] == "analysed" and row["model"] == "own"
    assert 12.5 < float(row["a_px"]) < 14 and 12.5 < float(row["b_px"]) < 14  # type: ignore[arg-type]


def test_a_hexagonal_lattice_is_found(images: dict[str, list[dict[str, object]]]) -> None:
    row = only(images, "example_Se_implanted_MoS2.dm3")
    assert row["state"] == "analysed" and row["model"] == "own"
    angle = float(row["gamma_deg"])  # type: ignore[arg-type]
    assert min(abs(angle - 60), abs(angle - 120)) < 5
    assert 0.27 < float(row["a_nm"]) < 0.34  # type: ignore[arg-type]


def test_an_uncalibrated_file_says_that_it_has_no_lengths(images: dict[str, list[dict[str, object]]]) -> None:
    row = only(images, "DMReader_Image_SI-Survey.dm3")
    assert row["state"] == "analysed" and "no pixel size" in str(row["reason"])
    assert row["a_nm"] is None


def test_both_sides_of_an_interface_are_analysed(images: dict[str, list[dict[str, object]]]) -> None:
    row = only(images, "DMReader_Image_SI-Survey.dm3")  # two perovskites, with five mixed layers between
    assert row["grains"] == 2
    assert int(row["cells_analysed"]) > 9 * int(row["cells_masked"])  # type: ignore[call-overload]


def test_nonsense_is_not_analysed(images: dict[str, list[dict[str, object]]]) -> None:
    particle = only(images, "example_Au_nanoparticle.emd")  # a lattice in a few patches only
    assert int(particle["cells_masked"]) > 2 * int(particle["cells_analysed"])  # type: ignore[call-overload]
    assert only(images, "STEM Moire Hologram.dm3")["state"] == "no_lattice"
    assert only(images, "EMDReader_Image_FEI.emd")["state"] == "no_lattice"


def test_awkward_files_are_rejected_with_their_reason(images: dict[str, list[dict[str, object]]]) -> None:
    expected = {
        "1255_240909_Ti3C2_5HF_17.5_Mx_STEM_HAADF.emd": "Git-LFS pointer",
        "test_corrupted.dm3": "truncated",
        "Titan_FFT.dm3": "Fourier transform",
        "TEM_list_signal_dataZeroed.dm3": "every pixel is zero",
        "DMReader_EELS_STO.dm4": "spectrum",
        "EELS_SI.dm4": "spectrum image",
        "EMDReader_SpectrumImage_Si.emd": "too small",
        "fei_example_dpc_titles.emd": "too small",
        "fei_example_tem_stack.emd": "too small",
        "example_image.emd": "too small",
        "HAADF.dm3": "tilt series",
    }
    for name, reason in expected.items():
        assert {row["state"] for row in images[name]} == {"rejected"}, name
        assert any(reason in str(row["reason"]) for row in images[name]), (name, images[name])
