"""Builds a small archive of microscope files with defects at known columns: `build_demo_archive.py demo_archive`.

Out: a dozen `.dm4`, `.emd` (NCEM and Velox) and `.dm3` files in three folders: several magnifications and rotations,
one pure bulk image, one vacuum image, one stack, one file of two detectors, one truncated file, two that hold no image.
With `--truth FILE` a CSV of the changed columns, outside the archive; rows and columns in px of the image as read.

The same bytes every time; the archive appears whole or not at all; files get the dates of their sessions.
"""

import argparse
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import h5py
import numpy as np
import numpy.typing as npt
import polars as pl
from nion.data import Calibration, DataAndMetadata
from nionswift_plugin.DM_IO import dm3_image_utils
from rsciio.emd import file_writer as write_ncem_file

from oddlattice.crystal import Crystal, load_crystal
from oddlattice.simulate.columnwise import Conditions, Defect, Scan, lattice_vectors_px, simulate_scan
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.products import Schema, table, write_csv

CRYSTAL = Path(__file__).parents[1] / "models/srtio3_001/crystal.yaml"
SR, TI = 0, 1  # indices of the tested columns in crystal.yaml
FILM_A, FILM_B, CHECKS = "2026-03-17 SrTiO3, film A", "2026-04-02 SrTiO3, film B", "checks"
FRAME_STEP_PX = (3.0, -2.0)  # how far the specimen moves from one frame of the stack to the next
VELOX_METADATA_BYTES = 60000

#: One row per changed column and frame.
TRUTH: Schema = {
    "path": pl.String,  # relative to the archive
    "signal": pl.String,  # title under which HyperSpy reads it; DM4 written here has none
    "frame": pl.Int64,
    "row_px": pl.Float64,  # of the unchanged column; row jitter not included
    "col_px": pl.Float64,
    "site": pl.String,
    "kind": pl.String,
    "factor": pl.Float64,  # of the column's intensity, before `atoms`
    "atoms": pl.String,  # atoms per repeat where they are replaced, else ""
    "shift_row_pm": pl.Float64,
    "shift_col_pm": pl.Float64,
}

#: The changes that are dealt out in turn: strong and weak ones, so that not all can be found.
MENU = (
    Defect((0, 0), SR, "vacancy-like", factor=0.0),
    Defect((0, 0), TI, "lighter", factor=0.5),
    Defect((0, 0), SR, "displaced", shift_pm=(0.0, 40.0)),
    Defect((0, 0), TI, "heavier", atoms={"Sr": 1, "O": 1}),
    Defect((0, 0), SR, "lighter", factor=0.5),
    Defect((0, 0), TI, "vacancy-like", factor=0.0),
    Defect((0, 0), SR, "lighter", atoms={"Ti": 1}),
    Defect((0, 0), TI, "displaced", shift_pm=(-30.0, 30.0)),
    Defect((0, 0), SR, "lighter", factor=0.7),
    Defect((0, 0), TI, "lighter", factor=0.7),
    Defect((0, 0), SR, "displaced", shift_pm=(20.0, 0.0)),
    Defect((0, 0), SR, "heavier", factor=1.4),
)


@dataclass(frozen=True)
class Picture:
    """A simulated scan and the file that holds it."""

    path: str  # relative to the archive
    flavour: str  # dm4 | ncem | velox
    shape: tuple[int, int]
    conditions: Conditions
    acquired: datetime
    defects: int = 0
    frames: int = 1
    signals: tuple[str, ...] = ("HAADF",)
    header_error: float = 0.0  # relative error of the pixel size in the header
    units: str = "nm"  # as the header writes them
    dtype: str = "uint16"
    gain: float = 1.0  # grey levels per electron
    offset: float = 0.0  # grey levels without beam


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _conditions(pixel_pm: float, rotation_deg: float, dose: float, **more: Any) -> Conditions:
    return Conditions(pixel_nm=pixel_pm / 1000, rotation_deg=rotation_deg, dose_e_px=dose, **more)


PICTURES = (
    Picture(
        f"{FILM_A}/STO film A 0001.dm4",
        "dm4",
        (1024, 1024),
        _conditions(12.5, 7.0, 800.0, jitter_pm=4.0, thickness_gradient=(0.2, 0.1), contamination=0.2),
        _at("2026-03-17T10:12:31"),
        defects=12,
    ),
    Picture(
        f"{FILM_A}/STO film A 0002.dm4",
        "dm4",
        (896, 896),
        _conditions(10.0, 33.0, 1500.0, jitter_pm=5.0, drift_nm=(0.15, -0.10), thickness_nm=14.0),
        _at("2026-03-17T10:31:05"),
        defects=9,
        dtype="float32",
    ),
    Picture(
        f"{FILM_A}/STO film A 0003 bulk.dm4",
        "dm4",
        (768, 768),
        _conditions(12.5, 7.0, 800.0, jitter_pm=4.0, thickness_gradient=(-0.1, 0.2)),
        _at("2026-03-17T10:48:44"),
    ),
    Picture(
        f"{FILM_B}/1512 HAADF BF 14.5 Mx.emd",
        "velox",
        (768, 768),
        _conditions(15.0, 18.0, 1000.0, jitter_pm=3.0, drift_nm=(-0.1, 0.1)),
        _at("2026-04-02T15:12:09"),
        defects=10,
        signals=("HAADF", "BF"),
        gain=8.0,
        offset=410.0,
    ),
    Picture(
        f"{FILM_B}/1534 HAADF 10.2 Mx.emd",
        "velox",
        (1024, 1024),
        _conditions(20.0, 52.0, 3000.0, jitter_pm=6.0, thickness_nm=8.0, thickness_gradient=(0.4, -0.2), blur_nm=0.04),
        _at("2026-04-02T15:34:20"),
        defects=12,
        gain=6.0,
        offset=395.0,
    ),
    Picture(
        f"{FILM_B}/1541 HAADF series.emd",
        "velox",
        (512, 512),
        _conditions(12.5, 5.0, 400.0, jitter_pm=4.0),
        _at("2026-04-02T15:41:56"),
        defects=4,
        frames=3,
        gain=20.0,
        offset=402.0,
    ),
    Picture(
        f"{CHECKS}/Acquisition_07.emd",
        "ncem",
        (1024, 1024),
        _conditions(16.0, 45.0, 1200.0, jitter_pm=5.0, strain=(0.01, 0.008, 0.0, -0.006)),
        _at("2026-02-11T09:20:00"),
        defects=12,
        header_error=0.04,
        units="n_m",
    ),
    Picture(
        f"{CHECKS}/Acquisition_08.emd",
        "ncem",
        (640, 896),
        _conditions(8.0, 74.0, 2000.0, jitter_pm=3.0, thickness_nm=7.0, drift_nm=(0.08, 0.12)),
        _at("2026-02-11T09:41:00"),
        defects=5,
    ),
)
VACUUM = f"{CHECKS}/vacuum, 300 kV.dm4"
TRUNCATED = f"{FILM_A}/STO film A 0004 interrupted.dm4"
SPECTRUM = f"{FILM_A}/STO film A 0005 low loss.dm4"
NOTES = f"{CHECKS}/notes of the operator.dm3"
OTHERS = {
    VACUUM: _at("2026-02-11T09:02:00"),
    TRUNCATED: _at("2026-03-17T11:02:17"),
    SPECTRUM: _at("2026-03-17T11:20:53"),
    NOTES: _at("2026-02-11T10:15:00"),
}


@cache
def demo_crystal() -> Crystal:
    """The crystal of all pictures: SrTiO3 [001]."""
    return load_crystal(CRYSTAL)


def _seed(picture: Picture) -> int:
    return int.from_bytes(picture.path.encode()[-8:]) % 2**31


def place_defects(picture: Picture) -> tuple[Defect, ...]:
    """Deal the menu out to cells at least three cells apart and four from the rim; the same every time."""
    crystal = demo_crystal()
    vectors = lattice_vectors_px(crystal, picture.conditions)
    reach = int(2 * max(picture.shape) / np.linalg.norm(vectors[0]))
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach)] * 2, indexing="ij"), -1).reshape(-1, 2)
    rim = 4 * float(np.linalg.norm(vectors[0]))
    at = np.array(picture.shape) / 2 + grid @ vectors
    inside = np.all((at > rim) & (at < np.array(picture.shape) - rim), axis=1)
    cells = np.random.default_rng(_seed(picture)).permutation(grid[inside])
    chosen: list[tuple[int, int]] = []
    for u, v in cells:
        if len(chosen) < picture.defects and all(max(abs(u - i), abs(v - j)) >= 3 for i, j in chosen):
            chosen.append((int(u), int(v)))
    assert len(chosen) == picture.defects, f"{picture.path}: no room for {picture.defects} defects"
    return tuple(replace(MENU[k % len(MENU)], cell=cell) for k, cell in enumerate(chosen))


def scans_of(picture: Picture) -> list[Scan]:
    """The simulated frames of a picture, with its defects in every one."""
    defects = place_defects(picture)
    middle = np.array(picture.shape) / 2
    origins = [middle + k * np.array(FRAME_STEP_PX) for k in range(picture.frames)]
    return [
        simulate_scan(
            demo_crystal(), picture.conditions, picture.shape, defects, _seed(picture) + k, (float(o[0]), float(o[1]))
        )
        for k, o in enumerate(origins)
    ]


def truth_rows(picture: Picture, scans: list[Scan]) -> Iterator[dict[str, object]]:
    """Rows of TRUTH for one picture."""
    for frame, scan in enumerate(scans):
        where = {
            (int(u), int(v), int(k)): i for i, ((u, v), k) in enumerate(zip(scan.cells, scan.columns, strict=True))
        }
        for defect in scan.defects:
            row_px, col_px = scan.places_px[where[(*defect.cell, defect.column)]]
            yield {
                "path": picture.path,
                "signal": "" if picture.flavour == "dm4" else picture.signals[0],
                "frame": frame,
                "row_px": round(float(row_px), 2),
                "col_px": round(float(col_px), 2),
                "site": demo_crystal().columns[defect.column].site,
                "kind": defect.kind,
                "factor": defect.factor,
                "atoms": " ".join(f"{n:g} {symbol}" for symbol, n in (defect.atoms or {}).items()),
                "shift_row_pm": defect.shift_pm[0],
                "shift_col_pm": defect.shift_pm[1],
            }


def grey_levels(picture: Picture, scans: list[Scan], signal: str) -> npt.NDArray[Any]:
    """What the detector records, shape (frames, rows, cols): electrons times gain plus offset.

    Bright field is the dose less four times what HAADF collects: atoms are dark.
    """
    electrons = np.stack([scan.counts for scan in scans])
    if signal == "BF":
        mean = picture.conditions.dose_e_px * 0.6 - 4 * np.stack([scan.expected for scan in scans])
        electrons = np.random.default_rng(_seed(picture) + 99).poisson(np.clip(mean, 0, None)).astype(np.float32)
    levels = electrons * picture.gain + picture.offset
    if np.dtype(picture.dtype).kind == "u":
        levels = np.clip(np.rint(levels), 0, np.iinfo(picture.dtype).max)
    return np.asarray(levels, dtype=picture.dtype)


def write_dm4(
    path: Path, data: npt.NDArray[Any], pixel: float, units: str, acquired: datetime, title: str, spectrum: bool = False
) -> None:
    """Write an image of shape (rows, cols), or a spectrum of shape (channels,), as DM4."""
    tags: dict[str, Any] = {
        "DataBar": {"Acquisition Date": f"{acquired:%m/%d/%Y}", "Acquisition Time": f"{acquired:%H:%M:%S}"},
        "Microscope Info": {
            "Voltage": 300000.0,
            "Microscope": "Titan G3 60-300",
            "Operation Mode": "SCANNING",
            "Illumination Mode": "STEM NANOPROBE",
            "Indicated Magnification": 1.45e7,
            "Stage Position": {"Stage Alpha": 1.31, "Stage Beta": -0.42, "Stage X": 112.4, "Stage Y": -87.9},
        },
        "Session Info": {"Operator": "demo", "Specimen": "SrTiO3 [001], simulated", "Microscope": "Titan G3 60-300"},
        "DigiScan": {"Sample Time": 8.0, "Rotation": 0.0, "Signal Name": title},
    }
    if spectrum:
        tags["Meta Data"] = {"Format": "Spectrum", "Signal": "EELS"}
    descriptor = DataAndMetadata.DataDescriptor(False, 0, data.ndim)
    image = DataAndMetadata.new_data_and_metadata(
        data,
        data_descriptor=descriptor,
        dimensional_calibrations=[Calibration.Calibration(0.0, pixel, units)] * data.ndim,
        intensity_calibration=Calibration.Calibration(0.0, 1.0, "counts"),
        metadata=tags,
        timestamp=acquired.replace(tzinfo=None),
    )
    with open(path, "wb") as file:
        dm3_image_utils.save_image(image, file, 4)


def write_ncem(path: Path, data: npt.NDArray[Any], pixel: float, units: str, acquired: datetime, title: str) -> None:
    """Write an image of shape (rows, cols) as Berkeley (NCEM) EMD."""
    axes = [
        {"name": name, "units": units, "size": size, "offset": 0.0, "scale": pixel, "navigate": False}
        for name, size in zip(("y", "x"), data.shape, strict=True)
    ]
    original = {
        "microscope": {"name": "TEAM I", "voltage": 300000.0, "voltage units": "[V]", "convergence angle mrad": 25.0},
        "sample": {"material": "SrTiO3 [001], simulated"},
        "user": {"name": "demo"},
        "comments": {"acquired": acquired.isoformat()},
    }
    signal = {
        "data": data,
        "axes": axes,
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}},
        "original_metadata": original,
    }
    write_ncem_file(str(path), signal)
    with h5py.File(path, "r+") as file:  # the writer puts units in brackets; some microscopes do not
        for name in ("dim1", "dim2"):
            file[f"signals/{title}/{name}"].attrs["units"] = units


def _velox_metadata(picture: Picture, signal: str, pixel_nm: float) -> dict[str, Any]:
    """Metadata of one signal, with the keys and the strings-for-numbers that Velox writes."""
    rows, cols = picture.shape
    pixel_m = f"{pixel_nm * 1e-9:.16g}"
    names = ("BF", "DF2", "DF4", "HAADF")
    ranges = {"BF": ("0", "0.012"), "HAADF": ("0.065", "0.2")}
    detectors: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(names):
        used = "true" if name in picture.signals else "false"
        detectors[f"Detector-{k}"] = {
            "DetectorName": name,
            "DetectorType": "ScanningDetector",
            "Inserted": used,
            "Enabled": used,
        }
        if name in ranges:
            begin, end = ranges[name]
            detectors[f"Detector-{k}"]["CollectionAngleRange"] = {"begin": begin, "end": end}
    frame_s = rows * (cols * 4e-6 + 1e-3)
    return {
        "Core": {"MetadataDefinitionVersion": "7.9", "MetadataSchemaVersion": "v1/2013/07", "guid": "0" * 32},
        "Instrument": {"Manufacturer": "FEI Company", "InstrumentClass": "Titan", "InstrumentId": "0000"},
        "Acquisition": {
            "AcquisitionStartDatetime": {"DateTime": str(int(picture.acquired.timestamp()))},
            "AcquisitionDatetime": {"DateTime": "0"},
            "SourceType": "XFEG",
        },
        "Optics": {
            "AccelerationVoltage": "300000",
            "BeamConvergence": "0.0214",
            "ScreenCurrent": "4.1e-011",
            "CameraLength": "0.115",
            "Defocus": "-2.0e-009",
            "FullScanFieldOfView": {"x": f"{cols * pixel_nm * 1e-9:.16g}", "y": f"{rows * pixel_nm * 1e-9:.16g}"},
            "OperatingMode": "2",
        },
        "Stage": {
            "Position": {"x": "1.1e-004", "y": "-8.7e-005", "z": "2.0e-006"},
            "AlphaTilt": "0.0",
            "BetaTilt": "0.0",
        },
        "Scan": {
            "ScanSize": {"width": str(cols), "height": str(rows)},
            "DwellTime": "4e-006",
            "FrameTime": f"{frame_s:.6g}",
            "LineTime": f"{frame_s / rows:.6g}",
            "ScanRotation": "0",
        },
        "Detectors": detectors,
        "BinaryResult": {
            "DetectorIndex": str(names.index(signal)),
            "Detector": signal,
            "PixelSize": {"width": pixel_m, "height": pixel_m},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
            "Offset": {"x": "0", "y": "0"},
            "Encoding": "",
        },
        "Sample": "SrTiO3 [001], simulated",
        "CustomProperties": {
            "StemMagnification": {"type": "double", "value": f"{0.145 / (cols * pixel_nm * 1e-9):.6g}"}
        },
    }


def _json_dataset(parent: h5py.Group, name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=4) + "\n"
    parent.create_dataset(name, data=[text], dtype=h5py.string_dtype("ascii"))


def write_velox(path: Path, picture: Picture, levels: dict[str, npt.NDArray[Any]], pixel_nm: float) -> None:
    """Write signals of shape (frames, rows, cols) as Velox EMD, laid out as version 7 does."""
    with h5py.File(path, "w") as file:
        _json_dataset(file, "Version", {"version": "7", "format": "Velox"})
        _json_dataset(file, "Info", {"applicationVersion": "2.5.0.785"})
        for signal, data in levels.items():
            key = uuid.uuid5(uuid.NAMESPACE_URL, f"{picture.path}#{signal}").hex
            group = file.create_group(f"Data/Image/{key}")
            frames, rows, cols = data.shape
            group.create_dataset("Data", data=np.moveaxis(data, 0, -1), chunks=(rows, cols, 1))
            text = json.dumps(_velox_metadata(picture, signal, pixel_nm), indent=4).encode() + b"\n"
            padded = np.zeros((VELOX_METADATA_BYTES, frames), dtype=np.uint8)
            padded[: len(text)] = np.frombuffer(text, dtype=np.uint8)[:, None]
            group.create_dataset("Metadata", data=padded, compression="gzip")
            group.create_dataset("FrameLookupTable", data=np.arange(frames, dtype=np.int64))
            operation = {"dataPath": f"/Data/Image/{key}", "detector": signal, "detectorInfo": {"name": signal}}
            _json_dataset(file.require_group("Operations/StemInputOperation"), key, operation)
            display = {"dataPath": f"/Data/Image/{key}", "display": {"label": signal}}
            _json_dataset(file.require_group("Presentation/Displays/ImageDisplay"), key, display)


def write_picture(picture: Picture, path: Path) -> list[dict[str, object]]:
    """Simulate a picture and write it to `path`; returns its rows of TRUTH."""
    scans = scans_of(picture)
    pixel_nm = picture.conditions.pixel_nm * (1 + picture.header_error)
    levels = {signal: grey_levels(picture, scans, signal) for signal in picture.signals}
    if picture.flavour == "velox":
        write_velox(path, picture, levels, pixel_nm)
    else:
        write = write_dm4 if picture.flavour == "dm4" else write_ncem
        write(path, levels["HAADF"][0], pixel_nm, picture.units, picture.acquired, "HAADF")
    return list(truth_rows(picture, scans))


def write_vacuum(path: Path) -> None:
    """A scan of nothing: counting noise only, 512x512 px."""
    counts = np.random.default_rng(5).poisson(4.0, (512, 512)).astype(np.uint16)
    write_dm4(path, counts, 0.0125, "nm", OTHERS[VACUUM], "HAADF")


def write_truncated(path: Path) -> None:
    """A DM4 file cut at 40 % of its length, as by a full disk."""
    counts = np.random.default_rng(6).poisson(30.0, (512, 512)).astype(np.uint16)
    write_dm4(path, counts, 0.0125, "nm", OTHERS[TRUNCATED], "HAADF")
    os.truncate(path, path.stat().st_size * 2 // 5)


def write_spectrum(path: Path) -> None:
    """An energy-loss spectrum of 2048 channels: no image."""
    energy_ev = np.arange(2048) * 0.05 - 5.0
    loss = 2e5 * np.exp(-(energy_ev**2) / 0.5) + 4e3 * np.exp(-((energy_ev - 30.0) ** 2) / 200.0)
    counts = np.random.default_rng(7).poisson(loss + 20).astype(np.float32)
    write_dm4(path, counts, 0.05, "eV", OTHERS[SPECTRUM], "EELS", spectrum=True)


def write_notes(path: Path) -> None:
    """Text under the name of an image."""
    path.write_text("film A: thin edge in the north-east corner\nfilm B: contamination after 16:00\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Path], None]] = {
    VACUUM: write_vacuum,
    TRUNCATED: write_truncated,
    SPECTRUM: write_spectrum,
    NOTES: write_notes,
}


def expected_paths() -> list[str]:
    """Paths of all files, relative to the archive, sorted."""
    return sorted([picture.path for picture in PICTURES] + list(OTHERS))


def _set_dates(folder: Path, dates: dict[str, datetime]) -> None:
    """Set modification times, folders last: a folder is as old as its newest file."""
    for name, date in dates.items():
        os.utime(folder / name, (date.timestamp(),) * 2)
    for sub in {(folder / name).parent for name in dates}:
        newest = max(path.stat().st_mtime for path in sub.iterdir())
        os.utime(sub, (newest, newest))


def _fill(folder: Path) -> list[dict[str, object]]:
    for name in expected_paths():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        write(folder / name)
    rows = [row for picture in PICTURES for row in write_picture(picture, folder / picture.path)]
    _set_dates(folder, {picture.path: picture.acquired for picture in PICTURES} | OTHERS)
    return rows


def build(archive: Path, truth: Path | None = None) -> bool:
    """Build the archive, and the table of truth where a path is given; do nothing where all is there.

    Returns
    -------
    bool
        Whether anything was built.

    Raises
    ------
    ValueError
        If `archive` exists and lacks files of the demo, or `truth` lies inside it.
    """
    if truth is not None and archive.resolve() in truth.resolve().parents:
        raise ValueError(f"{truth}: lies inside {archive}; an archive holds microscope files only")
    missing = [name for name in expected_paths() if not (archive / name).is_file()]
    if archive.exists() and missing:
        raise ValueError(f"{archive}: exists without {missing[0]!r}; remove the folder or give another name")
    if not missing and (truth is None or truth.exists()):
        return False
    if missing:
        with whole_directory(archive) as part:
            rows = _fill(part)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = _fill(Path(folder))
    if truth is not None:
        write_csv(table(rows, TRUTH), truth)
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build a small archive of simulated microscope files.")
    parser.add_argument("archive", type=Path, help="folder to make, e.g. demo_archive")
    parser.add_argument("--truth", type=Path, help="CSV to write the changed columns to, outside the archive")
    given = parser.parse_args()
    try:
        built = build(given.archive, given.truth)
    except ValueError as error:
        sys.exit(str(error))
    print(f"{given.archive}: {len(expected_paths())} files {'built' if built else 'are there already'}")


if __name__ == "__main__":
    main()
