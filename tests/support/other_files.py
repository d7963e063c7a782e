"""Writers of the formats beside DigitalMicrograph and EMD: an image, or a stack of frames, in each."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tifffile

PIXEL_NM = 0.0125
Writer = Callable[[Path, np.ndarray], None]


def tif_imagej(path: Path, data: np.ndarray) -> None:
    axes = {"axes": "TYX"} if data.ndim == 3 else {}
    tifffile.imwrite(path, data, imagej=True, resolution=(1 / PIXEL_NM,) * 2, metadata={"unit": "nm", **axes})


def tif_ome(path: Path, data: np.ndarray) -> None:
    size = {f"PhysicalSize{axis}": PIXEL_NM * 1e-3 for axis in "XY"}  # µm where no unit is told
    tifffile.imwrite(path, data, ome=True, metadata=size | {"axes": "TYX" if data.ndim == 3 else "YX"})


def tif_gatan(path: Path, data: np.ndarray) -> None:
    tags = [(code, 2, 0, "nm", True) for code in (65003, 65004)] + [
        (code, 12, 1, PIXEL_NM, True) for code in (65009, 65010)
    ]
    tifffile.imwrite(path, data, compression="zstd", photometric="minisblack", extratags=tags)


def tif_fei(path: Path, data: np.ndarray) -> None:
    text = f"[Scan]\r\nPixelWidth={PIXEL_NM * 1e-9}\r\nPixelHeight={PIXEL_NM * 1e-9}\r\n[Detectors]\r\nName=HAADF\r\n"
    tifffile.imwrite(path, data, compression="lzw", photometric="minisblack", extratags=[(34682, 2, 0, text, True)])


def tif_deflate(path: Path, data: np.ndarray) -> None:
    """No scale; big-endian."""
    tifffile.imwrite(path, data, compression="zlib", byteorder=">", photometric="minisblack")


def mrc(path: Path, data: np.ndarray) -> None:
    frames, rows, cols = (1, *data.shape)[-3:]
    head = struct.pack("<10i", cols, rows, frames, 6, 0, 0, 0, cols, rows, frames)
    head += struct.pack("<3f", cols * PIXEL_NM * 10, rows * PIXEL_NM * 10, frames)
    head += bytes(208 - len(head)) + b"MAP \x44\x44\0\0"
    path.write_bytes(head + bytes(1024 - len(head)) + data.astype("<u2").tobytes())


def ser(path: Path, data: np.ndarray) -> None:
    """Rows from the bottom to the top, as TIA keeps them."""
    frames = data.reshape((-1, *data.shape[-2:]))
    number, rows, cols = frames.shape
    head = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, number, number)
    dimension = struct.pack("<iddi", number, 0.0, 1.0, 0) + struct.pack("<i", 6) + b"Number" + struct.pack("<i", 0)
    offsets_at = 30 + len(dimension)
    size = 50 + 2 * rows * cols + 8
    first = offsets_at + 8 * number
    places = [first + n * size for n in range(number)]
    tags = [place + size - 8 for place in places]
    body = head + struct.pack("<II", offsets_at, 1) + dimension + struct.pack(f"<{2 * number}I", *places, *tags)
    side = struct.pack("<ddi", 0.0, PIXEL_NM * 1e-9, 0)
    for frame in frames:
        body += side + side + struct.pack("<HII", 2, cols, rows) + frame[::-1].astype("<u2").tobytes()
        body += struct.pack("<HHI", 0x4152, 0, 0)
    path.write_bytes(body)


def hspy(path: Path, data: np.ndarray) -> None:
    import hyperspy.api as hs

    signal = hs.signals.Signal2D(data)
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = PIXEL_NM, "nm"
    signal.metadata.General.title = "HAADF"
    signal.save(str(path))


def npy(path: Path, data: np.ndarray) -> None:
    np.save(path, data)
    path.with_suffix(".yaml").write_text(f"pixel_nm: {PIXEL_NM}\ndetector: HAADF\n")


def calibrations(data: np.ndarray) -> list[dict[str, object]]:
    lateral = {"offset": 0.0, "scale": PIXEL_NM, "units": "nm"}
    return [{"offset": 0.0, "scale": 0.5, "units": "s"}] * (data.ndim - 2) + [lateral, lateral]


def ndata1(path: Path, data: np.ndarray) -> None:
    said = {"dimensional_calibrations": calibrations(data), "collection_dimension_count": 0, "datum_dimension_count": 2}
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("data.npy", "w") as file:
            np.save(file, data)
        archive.writestr("metadata.json", json.dumps(said | {"is_sequence": data.ndim == 3, "title": "HAADF"}))


def nion_h5(path: Path, data: np.ndarray) -> None:
    said = {
        "dimensional_calibrations": calibrations(data),
        "datum_dimension_count": 2,
        "created": "2024-02-03T04:05:06.7",
    }
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data).attrs["properties"] = json.dumps(said)


def prz(path: Path, data: np.ndarray) -> None:
    lateral = {"unit": "m", "offset": 0.0, "value": PIXEL_NM * 1e-9}
    calib = [lateral, lateral, *[{"unit": "", "offset": 0.0, "value": 1.0}] * (data.ndim - 2)]
    said = {"type": "Stack" if data.ndim == 3 else "2D", "device.calib": calib}
    with open(path, "wb") as file:
        np.savez_compressed(file, data=data, meta_data_json=np.array(json.dumps([said])))


def emd1(path: Path, data: np.ndarray) -> None:
    """EMD 1.0 of emdfile and py4DSTEM: an array below a root, each axis told by its first two values."""
    steps = [(PIXEL_NM, "nm")] * 2 if data.ndim == 2 else [(0.5, "s"), (PIXEL_NM, "nm"), (PIXEL_NM, "nm")]
    with h5py.File(path, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "version_minor": 0})
        root = file.create_group("root")
        root.attrs["emd_group_type"] = "root"
        group = root.create_group("HAADF")
        group.attrs["emd_group_type"] = "array"
        group.create_dataset("data", data=data)
        for axis, (step, unit) in enumerate(steps):
            told = group.create_dataset(f"dim{axis}", data=np.array([0.0, step]))
            told.attrs.update({"name": "tyx"[-data.ndim :][axis], "units": unit})


#: By name: the file's ending, its writer, and whether it tells a scale.
FORMATS: dict[str, tuple[str, Writer, bool]] = {
    "imagej": (".tif", tif_imagej, True),
    "ome": (".tif", tif_ome, True),
    "gatan": (".tif", tif_gatan, True),
    "fei": (".tiff", tif_fei, True),
    "deflate": (".tif", tif_deflate, False),
    "mrc": (".mrc", mrc, True),
    "ser": ("_1.ser", ser, True),
    "hspy": (".hspy", hspy, True),
    "npy": (".npy", npy, True),
    "ndata1": (".ndata1", ndata1, True),
    "nion": (".h5", nion_h5, True),
    "prz": (".prz", prz, True),
    "emd 1.0": (".emd", emd1, True),
}
