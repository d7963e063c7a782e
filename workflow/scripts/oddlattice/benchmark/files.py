"""Fields as files, through the whole pipeline."""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cut_tiles import main as cut_tiles
from find_defects import main as find_defects
from infer_differences import main as infer_differences
from oddlattice.benchmark.fields import (
    Field,
    compose_field,
    detection_conditions,
)
from oddlattice.benchmark.jobs import Setup, cached_kinds, cached_library, cached_model
from oddlattice.benchmark.plans import Plan
from oddlattice.benchmark.truth import file_row
from oddlattice.numerics.arrays import Float
from oddlattice.run.stage_settings import ReadSettings
from oddlattice.storage.products import SHARD, table, write_tsv
from read_images import main as read_images


def write_dm4(path: Path, counts: Float, pixel_nm: float) -> None:
    """Write a scan as DM4 [counts, nm]; needs nionswift-io."""
    from nion.data import Calibration, DataAndMetadata
    from nionswift_plugin.DM_IO import dm3_image_utils

    image = DataAndMetadata.new_data_and_metadata(
        counts.astype(np.uint16),
        data_descriptor=DataAndMetadata.DataDescriptor(False, 0, 2),
        dimensional_calibrations=[Calibration.Calibration(0.0, pixel_nm, "nm")] * 2,
        intensity_calibration=Calibration.Calibration(0.0, 1.0, "counts"),
        metadata={"DigiScan": {"Signal Name": "HAADF"}},
        timestamp=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
    )
    with open(path, "wb") as file:
        dm3_image_utils.save_image(image, file, 4)


def whole_files(plan: Plan, setup: Setup, read: dict[str, Any], seed: int) -> pl.DataFrame:
    """Fields written as .dm4 and run through read, tile, infer and defects; one row a file.

    The defects are all kinds of the detection experiment; one is right when a defect is listed within 0.45 cell.
    """
    library, model = cached_library(setup.library), cached_model(setup.model)
    kinds = cached_kinds(setup.library, setup.model, "detection", setup.every)
    fields: list[Field] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "archive").mkdir()
        rows = []
        for k in range(plan.files):
            rng = np.random.default_rng([seed, 77, k])
            dose = float(np.exp(rng.uniform(np.log(200.0), np.log(2000.0))))
            jitter, pixel_nm = float(rng.uniform(2, 6)), float(rng.uniform(0.010, 0.016))
            conditions = replace(
                detection_conditions(library, dose, jitter, rng, pixel_nm), drift_nm=(0.1, -0.1), contamination=0.1
            )
            shape = (plan.side_px, plan.side_px + 64)
            field = compose_field(library, model.crystal, conditions, shape, kinds, int(rng.integers(2**31)), 5 * k)
            path = folder / "archive" / f"field {k:03d}.dm4"
            write_dm4(path, field.scan.counts, conditions.pixel_nm)
            status = path.stat()
            about = {"path": path.name, "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            rows.append({"file_id": f"field-{k:03d}", **about})
            fields.append(field)
        write_tsv(table(rows, SHARD), folder / "shard.tsv")
        read_images(
            folder / "shard.tsv", folder / "archive", folder / "1.zarr", ReadSettings.of(read), folder / "read.log"
        )
        cut_tiles(folder / "1.zarr", [Path(setup.model) / "crystal.yaml"], folder / "2.zarr", setup.tile)
        infer_differences(str(folder / "2.zarr"), [setup.model], str(folder / "3.zarr"), setup.infer, 1)
        out = [str(folder / f"{part}.parquet") for part in ("defects", "images", "columns", "completeness")]
        first, second, third, maps = (str(folder / f"{k}.zarr") for k in (1, 2, 3, 4))
        find_defects(first, second, third, out[0], out[1], out[2], out[3], maps, setup.defects)
        defects, images, columns = (pl.read_parquet(path) for path in out[:3])
    return pl.DataFrame(
        [
            file_row(
                field,
                rows[k],
                *(t.filter(pl.col("image_id") == rows[k]["file_id"]) for t in (defects, images, columns)),
            )
            for k, field in enumerate(fields)
        ],
        infer_schema_length=None,
    )
