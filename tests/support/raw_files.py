"""Writers of small microscope files for the tests of the read stage, sound ones and hostile ones."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from nion.data import Calibration, DataAndMetadata
from nionswift_plugin.DM_IO import dm3_image_utils
from rsciio.emd import file_writer as write_emd

from oddlattice.archive.names import escape
from oddlattice.run.stage_settings import ReadSettings
from oddlattice.storage.products import SHARD, table, write_tsv
from support.settings import default

SETTINGS = default(ReadSettings, timeout_s=60.0, memory_mb=1024)


def counts(shape: tuple[int, ...] = (96, 128), seed: int = 0, mean: float = 400.0, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, shape).astype(dtype)


def write_dm(path, data, pixel=0.0125, units="nm", *, version=4, stack=False, spectra=0, tags=None) -> None:
    """An image, a stack (first axis) or spectra (last `spectra` axes) as DM3 or DM4."""
    calibrations = [Calibration.Calibration(0.0, 0.5, "s")] if stack else []
    pixels = pixel if isinstance(pixel, tuple) else (pixel,) * (data.ndim - len(calibrations))
    unit_names = units if isinstance(units, tuple) else (units,) * len(pixels)
    calibrations += [Calibration.Calibration(0.0, p, u) for p, u in zip(pixels, unit_names, strict=True)]
    datum = spectra or 2
    navigation = len(calibrations) - datum - (1 if stack else 0)
    image = DataAndMetadata.new_data_and_metadata(
        data,
        data_descriptor=DataAndMetadata.DataDescriptor(stack, navigation, datum),
        dimensional_calibrations=calibrations,
        metadata=tags or {},
    )
    with open(path, "wb") as file:
        dm3_image_utils.save_image(image, file, version)


def write_colour_dm(path, data) -> None:
    """An image of 4 bytes a pixel as colours: a DM4 of uint32 whose type is changed to RGBA."""
    write_dm(path, data.astype(np.uint32), pixel=1.0, units="")
    content = bytearray(path.read_bytes())
    name = content.index(b"DataType", content.index(b"ImageData"))
    value = name + len("DataType") + 8 + 4 + 8 + 8  # size of the tag, %%%%, length and type of its value
    assert content[value : value + 4] == (11).to_bytes(4, "little")
    content[value : value + 4] = (23).to_bytes(4, "little")
    path.write_bytes(content)


def write_ncem(path, data, pixel=0.0125, units="nm", name="HAADF") -> None:
    """An image or a stack as NCEM EMD by RosettaSciIO."""
    pixels = pixel if isinstance(pixel, tuple) else (pixel, pixel)
    unit_names = units if isinstance(units, tuple) else (units, units)
    axes = [
        {"name": n, "units": u, "size": data.shape[i - 2], "offset": 0.0, "scale": p, "navigate": False}
        for i, (n, u, p) in enumerate(zip(("y", "x"), unit_names, pixels, strict=True))
    ]
    if data.ndim == 3:
        axes.insert(0, {"name": "t", "units": "s", "size": len(data), "offset": 0.0, "scale": 0.5, "navigate": True})
    metadata = {"General": {"title": name}, "Signal": {"signal_type": ""}}
    write_emd(str(path), {"data": data, "axes": axes, "metadata": metadata, "original_metadata": {}})


def _dataset(parent, name: str, content: Any) -> None:
    parent.create_dataset(name, data=np.array([json.dumps(content).encode()], dtype=h5py.string_dtype()))


def write_velox(path, signals: dict[str, np.ndarray], pixel_m=(1.25e-11, 1.25e-11), units="m", spectra=False) -> None:
    """Signals of shape (frames, rows, cols) as Velox EMD, frame by frame as Velox chunks them."""
    with h5py.File(path, "w") as file:
        _dataset(file, "Version", {"version": "7", "format": "Velox"})
        for detector, data in signals.items():
            key = hashlib.md5(detector.encode()).hexdigest()
            group = file.create_group(f"Data/Image/{key}")
            stored = np.moveaxis(data, 0, -1)
            group.create_dataset("Data", data=stored, chunks=(*stored.shape[:2], 1))
            metadata = {
                "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1565703122"}},
                "BinaryResult": {
                    "PixelSize": {"height": str(pixel_m[0]), "width": str(pixel_m[1])},
                    "Offset": {"x": "0", "y": "0"},
                    "PixelUnitX": units,
                    "Detector": detector,
                },
                "Scan": {"FrameTime": "1.5"},
                "CustomProperties": {},
                "Detectors": {"Detector-0": {"DetectorName": detector, "DetectorType": "ScanningDetector"}},
                "Optics": {"AccelerationVoltage": "300000"},
            }
            text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
            padded = np.zeros((60000, data.shape[0]), np.uint8)
            padded[: len(text)] = text[:, None]
            group.create_dataset("Metadata", data=padded, compression="gzip")
            operation = {"dataPath": f"/Data/Image/{key}", "detector": detector}
            _dataset(file.require_group("Operations/StemInputOperation"), key, operation)
        if spectra:
            file.create_group("Data/SpectrumStream/0123")


def shard_of(archive: Path, tsv: Path) -> dict[str, str]:
    """The shard's table of all files below a folder; gives file_id -> name."""
    rows = []
    for number, path in enumerate(sorted(p for p in archive.rglob("*") if not p.is_dir())):
        stat = path.lstat()
        rows.append(
            {
                "file_id": f"f{number:04d}",
                "path": escape(path.relative_to(archive)),
                "size_bytes": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
            }
        )
    write_tsv(table(rows, SHARD), tsv)
    return {row["file_id"]: row["path"] for row in rows}


def write_big_endian_dm(path: Path, data: np.ndarray, version: int = 4, pixel_nm: float = 0.0125) -> None:
    """An image of int32 as a DM3 or DM4 of big-endian numbers, such as old Macintosh computers wrote."""

    def size(number: int) -> bytes:
        return struct.pack(">q" if version == 4 else ">i", number)

    def tag(name: str, content: Any) -> bytes:
        is_group = isinstance(content, dict | list)
        label = struct.pack(">BH", 20 if is_group else 21, len(name)) + name.encode()
        body = group(content) if is_group else value(content)
        return label + (size(len(body)) if version == 4 else b"") + body

    def value(content: Any) -> bytes:
        if isinstance(content, np.ndarray):
            info, packed = [20, 3, content.size], content.astype(">i4").tobytes()
        elif isinstance(content, str):
            info, packed = [20, 4, len(content)], content.encode("utf-16-be")
        elif isinstance(content, float):
            info, packed = [6], struct.pack(">f", content)
        else:
            info, packed = [5], struct.pack(">I", content)
        return b"%%%%" + size(len(info)) + b"".join(map(size, info)) + packed

    def group(content: dict[str, Any] | list[Any]) -> bytes:
        items = list(content.items()) if isinstance(content, dict) else [("", item) for item in content]
        return b"\0\0" + size(len(items)) + b"".join(tag(name, item) for name, item in items)

    axis = {"Origin": 0.0, "Scale": pixel_nm, "Units": "nm"}
    image = {
        "ImageData": {
            "Calibrations": {"Brightness": axis | {"Units": ""}, "Dimension": [axis, axis]},
            "Data": data.ravel(),
            "DataType": 7,
            "Dimensions": list(data.shape[::-1]),
            "PixelDepth": 4,
        },
        "ImageTags": {},
        "Name": "HAADF",
        "UniqueID": [1, 2, 3, 4],
    }
    body = group({"ImageList": [image]})
    head = struct.pack(">i", version) + size(len(body)) + struct.pack(">i", 0)
    path.write_bytes(head + body + bytes(8))
