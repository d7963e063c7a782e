"""4D-STEM: the bright-field disk is found, and what falls on the ring about it is the image."""

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

import read_images
from oddlattice.read import virtual_detector
from oddlattice.read.signals import Axis, Signal
from support.raw_files import SETTINGS, shard_of, write_dm

SCAN, PATTERN, MIDDLE, RADIUS_PX = (72, 80), (40, 44), (19.0, 22.0), 6.0
UNITS = (("nm", 0.02), ("nm", 0.02), ("mrad", 2.0), ("mrad", 2.0))


def patterns() -> tuple[np.ndarray, np.ndarray]:
    """Patterns (72, 80, 40, 44) of a disk and of what is scattered beyond it, and the counts that are."""
    away = np.hypot(*(line - at for line, at in zip(np.indices(PATTERN), MIDDLE, strict=True)))
    scattered = np.random.default_rng(3).integers(50, 250, SCAN).astype(np.uint16)
    ring = (away >= 10) & (away < 16)
    data = np.where(away < RADIUS_PX, 400, 0).astype(np.uint16) + np.zeros((*SCAN, 1, 1), np.uint16)
    data[..., ring] = scattered[..., None]
    return data, scattered * float(ring.sum())


def signal(data: np.ndarray, navigate: bool = True, order: tuple[int, ...] = (0, 1, 2, 3)) -> Signal:
    axes = [Axis("", data.shape[k], UNITS[k][1], UNITS[k][0], navigate and k < 2) for k in range(4)]
    lazy = da.from_array(data.transpose(order), chunks=(16, -1, -1, -1))
    return Signal(0, "", "", lazy, tuple(axes[k] for k in order), 2, "", "", {})


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1)])
@pytest.mark.parametrize("navigate", [True, False])
def test_what_falls_on_the_ring_is_the_image(navigate: bool, order: tuple[int, ...]) -> None:
    data, expected = patterns()
    found = virtual_detector.dark_field(signal(data, navigate, order), (1.5, 10.0))
    assert not found.refusal and found.data.dtype == np.float32
    np.testing.assert_array_equal(found.data, expected)
    assert [axis.units for axis in found.axes] == ["nm", "nm"]
    assert found.detector.startswith("virtual annular dark field, 1.5 to ")


def test_the_disk_is_found_to_a_pixel() -> None:
    data, _ = patterns()
    middle, radius = virtual_detector.bright_disk(virtual_detector.mean_pattern(data))
    np.testing.assert_allclose(middle, MIDDLE, atol=0.2)
    assert abs(radius - RADIUS_PX) < 0.5


def test_patterns_without_a_disk_or_a_ring_are_refused_in_a_sentence() -> None:
    data, _ = patterns()
    blank = np.random.default_rng(0).poisson(400, data.shape).astype(np.uint16)
    assert "no bright-field disk" in virtual_detector.dark_field(signal(blank), (1.5, 10.0)).refusal
    far = virtual_detector.dark_field(signal(data), (9.0, 10.0)).refusal
    assert "beyond 9 radii of the bright-field disk" in far and "50 are needed" in far


def write_mib(path: Path, data: np.ndarray, header: bool = True) -> None:
    """Patterns (rows, cols, m, n) as a Merlin detector leaves them, and the file beside with the scan's shape."""
    scan_rows, scan_cols, rows, cols = data.shape
    with open(path, "wb") as file:
        for k, pattern in enumerate(data.reshape(-1, rows, cols)):
            said = f"MQ1,{k + 1:06d},00384,01,{cols:04d},{rows:04d},U16,   1x1,01,2024-01-01 10:00:00,0.001,0,0,0"
            said += ",MQ1A,2024-01-01T10:00:00.000Z,1000000ns,12,"
            file.write(said.encode().ljust(384, b"\0") + pattern[::-1].astype(">u2").tobytes())
    if header:
        lines = ["HDR,", f"Frames in Acquisition (Number):\t{scan_rows * scan_cols}"]
        lines += [f"Frames per Trigger (Number):\t{scan_cols}", "End\t"]
        path.with_suffix(".hdr").write_text("\n".join(lines))


def test_files_of_patterns_become_images(tmp_path: Path) -> None:
    data, expected = patterns()
    archive = tmp_path / "archive"
    archive.mkdir()
    units, scales = zip(*UNITS, strict=True)
    write_dm(archive / "a.dm4", data, pixel=scales, units=units)
    write_mib(archive / "b.mib", data)
    write_mib(archive / "c.mib", data[:2, :9], header=False)
    (archive / "d.mib").write_bytes((archive / "c.mib").read_bytes()[:900])
    names = shard_of(archive, tmp_path / "shard.tsv")
    read_images.main(
        tmp_path / "shard.tsv", archive, tmp_path / "images.zarr", SETTINGS, log=tmp_path / "log", threads=1
    )
    store = zarr.open_group(tmp_path / "images.zarr", mode="r")
    rows = {names[row["file_id"]]: row for row in store.attrs["images"]}
    for name in ("a.dm4", "b.mib"):
        assert rows[name]["state"] == "read", rows[name]["reason"]
        np.testing.assert_array_equal(store[rows[name]["image_id"]]["0"][:], expected)
    assert store[rows["a.dm4"]["image_id"]].attrs["oddlattice"]["pixel_nm_header"] == pytest.approx([0.02, 0.02])
    assert "diffraction patterns and not the shape of their scan" in rows["c.mib"]["reason"]
    assert "damaged or forged" in rows["d.mib"]["reason"]
