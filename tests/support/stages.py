"""Made-up scans through the stages from reading to defects, with the shipped settings and no Snakemake."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from cut_tiles import main as cut_tiles
from find_defects import main as find_defects
from infer_differences import main as infer_differences
from oddlattice.run.stage_settings import DefectSettings, InferSettings, ReadSettings, TileSettings
from read_images import main as read_images
from support.raw_files import shard_of, write_ncem
from support.settings import default

TABLES = ("defects", "images", "columns", "completeness", "grains", "boundaries")
MODEL = Path(__file__).parents[2] / "models/srtio3_001"
LIBRARY = Path(__file__).parents[2] / "crystals/library.json"


def through_the_stages(
    scans: Sequence[tuple[np.ndarray, float | None]], folder: Path, libraries: Sequence[Path] = ()
) -> dict[str, pl.DataFrame]:
    """Tables `images`, `defects`, `columns`, `completeness` of scans (counts, pixel size [nm] or None).

    Each row of theirs has the `number` of its scan. Crystals are looked up in `libraries`.
    """
    archive = folder / "archive"
    archive.mkdir(parents=True)
    for number, (counts, pixel_nm) in enumerate(scans):
        units = "" if pixel_nm is None else "nm"
        write_ncem(archive / f"scan {number:03d}.emd", counts.astype(np.float32), pixel_nm or 1.0, units)
    files = shard_of(archive, folder / "shard.tsv")
    infer = default(InferSettings)
    first, second, third = (str(folder / f"{k}.zarr") for k in (1, 2, 3))
    read_images(folder / "shard.tsv", archive, Path(first), default(ReadSettings), folder / "read.log")
    cut_tiles(first, [MODEL / "crystal.yaml"], second, default(TileSettings), 1, infer.misfit_limit, libraries)
    infer_differences(second, [str(MODEL)], third, infer, 1)
    out = {part: str(folder / f"{part}.parquet") for part in TABLES}
    find_defects(first, second, third, out, str(folder / "4.zarr"), default(DefectSettings))
    number_of = {file_id: int(path[5:8]) for file_id, path in files.items()}
    found = {}
    for part, path in out.items():
        frame = pl.read_parquet(path)
        numbers = [_number(image, number_of) for image in frame["image_id"]]
        found[part] = frame.with_columns(number=pl.Series(numbers, dtype=pl.Int64))
    return found


def _number(image_id: str, number_of: dict[str, int]) -> int:
    return next(number for file_id, number in number_of.items() if image_id.startswith(file_id))
