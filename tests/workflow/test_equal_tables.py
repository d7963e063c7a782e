"""One scan in eight formats gives the same tables, but for the names of its files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cut_tiles import main as cut_tiles
from find_defects import main as find_defects
from infer_differences import main as infer_differences
from oddlattice.run.stage_settings import DefectSettings, InferSettings, ReadSettings, TileSettings
from read_images import main as read_images
from support import other_files
from support.doped_fields import doped_scan
from support.raw_files import shard_of, write_dm, write_ncem, write_velox
from support.settings import default
from support.stages import MODEL, TABLES

PIXEL_NM = other_files.PIXEL_NM
NAMES = ("image_id", "file_id", "path", "signal", "acquired", "series_id")


def write_all(archive: Path, counts: np.ndarray) -> None:
    write_dm(archive / "a.dm3", counts, PIXEL_NM, version=3)
    write_dm(archive / "b.dm4", counts, PIXEL_NM)
    write_ncem(archive / "c.emd", counts, PIXEL_NM)
    write_velox(archive / "d.emd", {"HAADF": counts[None]}, (PIXEL_NM * 1e-9,) * 2)
    other_files.tif_imagej(archive / "e.tif", counts)
    other_files.ser(archive / "f_1.ser", counts)
    other_files.hspy(archive / "g.hspy", counts)
    other_files.mrc(archive / "h.mrc", counts)


@pytest.mark.slow
def test_one_scan_in_eight_formats_gives_equal_tables(tmp_path: Path) -> None:
    archive, shard = tmp_path / "archive", tmp_path / "shard.tsv"
    archive.mkdir()
    write_all(archive, doped_scan(0.02, 0.0, 1, side_px=360).counts.astype(np.uint16))
    names = shard_of(archive, shard)
    images, tiles, differences = (str(tmp_path / f"{part}.zarr") for part in range(3))
    infer = default(InferSettings)
    read_images(shard, archive, Path(images), default(ReadSettings), tmp_path / "log")
    cut_tiles(images, [MODEL / "crystal.yaml"], tiles, default(TileSettings), 1, infer.misfit_limit, ())
    infer_differences(tiles, [str(MODEL)], differences, infer, 1)
    out = {part: str(tmp_path / f"{part}.parquet") for part in TABLES}
    find_defects(images, tiles, differences, out, str(tmp_path / "maps.zarr"), default(DefectSettings))
    for part, path in out.items():
        table = pl.read_parquet(path)
        of_file = {i: table.filter(pl.col("image_id") == i).drop(NAMES, strict=False) for i in names}
        assert all(found.equals(of_file["f0000"]) for found in of_file.values()), part
        assert part not in ("images", "columns") or of_file["f0000"].height > 0
