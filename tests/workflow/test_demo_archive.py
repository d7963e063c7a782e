"""The demo archive: HyperSpy reads back what was written, and the defects are where the table says."""

import hashlib
import os
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hyperspy.api as hs
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

import build_demo_archive as demo
from oddlattice.simulate.columnwise import lattice_vectors_px
from oddlattice.storage.products import VERSION
from support.shared import demo_archive

Built = tuple[Path, pl.DataFrame]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = demo_archive(tmp_path_factory)
    return folder / "archive", pl.read_csv(folder / "truth.csv", schema=demo.TRUTH | VERSION)


def picture_of(end: str) -> demo.Picture:
    (found,) = [picture for picture in demo.PICTURES if picture.path.endswith(end)]
    return found


def load(archive: Path, path: str, lazy: bool = False) -> list[Any]:
    signals = hs.load(str(archive / path), lazy=lazy)
    return signals if isinstance(signals, list) else [signals]


def haadf(archive: Path, picture: demo.Picture) -> Any:
    signals = load(archive, picture.path)
    return next(s for s in signals if s.metadata.General.title in ("HAADF", ""))


def integrated(image: npt.NDArray[Any], row_px: float, col_px: float, reach_px: float) -> float:
    rows, cols = np.indices(image.shape)
    return float(image[np.hypot(rows - row_px, cols - col_px) <= reach_px].mean())


def test_archive_holds_the_files_and_nothing_else(built: Built) -> None:
    archive, _ = built
    found = sorted(str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file())
    assert found == demo.expected_paths()
    assert len(found) == 12
    assert sum((archive / name).stat().st_size for name in found) < 40e6
    assert any(" " in name and "," in name for name in found)


def test_files_are_dated_in_the_past(built: Built) -> None:
    archive, _ = built
    newest = max(path.stat().st_mtime for path in archive.rglob("*"))
    assert datetime.fromtimestamp(newest, UTC) == demo._at("2026-04-02T15:41:56")


@pytest.mark.parametrize("picture", demo.PICTURES, ids=lambda picture: picture.path)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_hyperspy_reads_shape_pixel_size_and_units(built: Built, picture: demo.Picture, lazy: bool) -> None:
    signals = load(built[0], picture.path, lazy)
    assert len(signals) == len(picture.signals)
    for signal in signals:
        assert signal.data.shape == ((picture.frames,) if picture.frames > 1 else ()) + picture.shape
        assert signal.data.dtype == picture.dtype
        for axis in signal.axes_manager.signal_axes:
            assert axis.units == picture.units
            assert axis.scale == pytest.approx(picture.conditions.pixel_nm * (1 + picture.header_error), rel=1e-6)


def test_hyperspy_reads_voltage_and_date(built: Built) -> None:
    for end, date in (("A 0001.dm4", "2026-03-17"), ("10.2 Mx.emd", "2026-04-02")):
        (signal,) = load(built[0], picture_of(end).path)
        assert signal.metadata.Acquisition_instrument.TEM.beam_energy == 300.0
        assert signal.metadata.General.date == date


def test_two_detectors_are_named(built: Built) -> None:
    titles = {s.metadata.General.title for s in load(built[0], picture_of("HAADF BF 14.5 Mx.emd").path)}
    assert titles == {"HAADF", "BF"}


def test_bright_field_shows_atoms_dark(built: Built) -> None:
    by_title = {s.metadata.General.title: s.data for s in load(built[0], picture_of("HAADF BF 14.5 Mx.emd").path)}
    flat = [by_title[title].ravel().astype(float) for title in ("HAADF", "BF")]
    assert np.corrcoef(*flat)[0, 1] < -0.5


@pytest.mark.parametrize(("path", "error"), [(demo.TRUNCATED, struct.error), (demo.NOTES, NotImplementedError)])
def test_broken_files_do_not_read(built: Built, path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load(built[0], path)


def test_spectrum_is_no_image(built: Built) -> None:
    signal = hs.load(str(built[0] / demo.SPECTRUM), signal_type="")
    assert signal.axes_manager.signal_dimension == 1
    assert signal.axes_manager.signal_axes[0].units == "eV"


def test_vacuum_is_counting_noise(built: Built) -> None:
    (signal,) = load(built[0], demo.VACUUM)
    data = signal.data.astype(float)
    assert data.var() == pytest.approx(data.mean(), rel=0.02)


def test_truth_counts(built: Built) -> None:
    _, truth = built
    for picture in demo.PICTURES:
        assert truth.filter(pl.col("path") == picture.path).height == picture.defects * picture.frames
    assert not truth.filter(pl.col("path").str.contains("bulk")).height
    assert set(truth["kind"]) == {"vacancy-like", "lighter", "heavier", "displaced"}


@pytest.mark.parametrize("picture", [p for p in demo.PICTURES if p.defects], ids=lambda picture: picture.path)
def test_emptied_columns_are_dark_where_the_table_says(built: Built, picture: demo.Picture) -> None:
    archive, truth = built
    data = haadf(archive, picture).data.astype(float).reshape(-1, *picture.shape)
    vectors = lattice_vectors_px(demo.demo_crystal(), picture.conditions)
    reach_px = 0.12 * float(np.linalg.norm(vectors[0]))
    rows = truth.filter((pl.col("path") == picture.path) & (pl.col("kind") == "vacancy-like"))
    assert rows.height >= picture.frames
    for row in rows.iter_rows(named=True):
        image = data[row["frame"]]
        here = integrated(image, row["row_px"], row["col_px"], reach_px)
        around = [
            integrated(image, row["row_px"] + step[0], row["col_px"] + step[1], reach_px)
            for step in (*vectors, *-vectors)
        ]
        assert here - picture.offset < 0.5 * (min(around) - picture.offset)


def test_other_kinds_change_their_columns(built: Built) -> None:
    archive, truth = built
    picture = picture_of("Acquisition_08.emd")  # 2,000 electrons a pixel
    image = haadf(archive, picture).data.astype(float)
    vectors = lattice_vectors_px(demo.demo_crystal(), picture.conditions)
    for row in truth.filter(pl.col("path") == picture.path).iter_rows(named=True):
        reach_px = 0.15 * float(np.linalg.norm(vectors[0]))
        place = row["row_px"], row["col_px"]
        here = integrated(image, *place, reach_px)
        around = np.mean([integrated(image, *(place + step), reach_px) for step in (*vectors, *-vectors)])
        if row["kind"] in ("lighter", "vacancy-like"):
            assert here < 0.9 * around
        if row["kind"] == "heavier":
            assert here > 1.1 * around
        if row["kind"] == "displaced":
            shift_px = np.array([row["shift_row_pm"], row["shift_col_pm"]]) / 1000 / picture.conditions.pixel_nm
            ahead = integrated(image, *(place + 2 * shift_px), reach_px / 2)
            behind = integrated(image, *(place - 2 * shift_px), reach_px / 2)
            assert ahead > 1.2 * behind


def test_same_bytes_every_time(tmp_path: Path, built: Built) -> None:
    archive, _ = built
    for end in ("HAADF series.emd", "Acquisition_08.emd"):
        picture = picture_of(end)
        again = tmp_path / "again"
        demo.write_picture(picture, again)
        first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (archive / picture.path, again))
        assert first == second, picture.path


def test_second_build_does_nothing(built: Built) -> None:
    archive, _ = built
    before = {path: path.stat().st_mtime_ns for path in archive.rglob("*")}
    assert not demo.build(archive, archive.parent / "truth.csv")
    assert {path: path.stat().st_mtime_ns for path in archive.rglob("*")} == before


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("important")
    with pytest.raises(ValueError, match="mine: exists without"):
        demo.build(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_truth_stays_outside_the_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="microscope files only"):
        demo.build(tmp_path / "archive", tmp_path / "archive/truth.csv")
    assert not (tmp_path / "archive").exists()
