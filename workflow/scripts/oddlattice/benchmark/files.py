"""Fields as files, through the whole pipeline."""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr

from oddlattice.benchmark.fields import (
    Field,
    compose_field,
    detection_conditions,
)
from oddlattice.benchmark.jobs import Setup, cached_kinds, cached_library, cached_model
from oddlattice.benchmark.plans import Plan
from oddlattice.benchmark.truth import file_row
from oddlattice.defects.analyse import Analysis, Stores, analyse
from oddlattice.model.choice import tile_one
from oddlattice.numerics.arrays import Float
from oddlattice.predict.infer_image import infer_one
from oddlattice.predict.predictor import Predictor
from oddlattice.read.read_shard import read_shard
from oddlattice.storage.groups import listed_in
from oddlattice.storage.products import DEFECTS, IMAGES, SHARD, table, write_tsv
from oddlattice.storage.rows import Row


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


def compose_files(plan: Plan, setup: Setup, archive: Path, seed: int) -> tuple[list[Field], list[Row]]:
    """Fields written as .dm4 into `archive`, and a row of products.SHARD for each."""
    library, model = cached_library(setup.library), cached_model(setup.model)
    kinds = cached_kinds(setup.library, setup.model, "detection", setup.every)
    fields: list[Field] = []
    rows: list[Row] = []
    for k in range(plan.files):
        rng = np.random.default_rng([seed, 77, k])
        dose = float(np.exp(rng.uniform(np.log(200.0), np.log(2000.0))))
        jitter, pixel_nm = float(rng.uniform(2, 6)), float(rng.uniform(0.010, 0.016))
        conditions = replace(
            detection_conditions(library, dose, jitter, rng, pixel_nm), drift_nm=(0.1, -0.1), contamination=0.1
        )
        shape = (plan.side_px, plan.side_px + 64)
        field = compose_field(library, model.crystal, conditions, shape, kinds, int(rng.integers(2**31)), 5 * k)
        path = archive / f"field {k:03d}.dm4"
        write_dm4(path, field.scan.counts, conditions.pixel_nm)
        status = path.stat()
        about = {"path": path.name, "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        rows.append({"file_id": f"field-{k:03d}", **about})
        fields.append(field)
    return fields, rows


def analyse_files(rows: list[Row], setup: Setup, folder: Path) -> list[Analysis]:
    """The files of `folder`/archive through read, tile, infer and defects; an image each."""
    first, second, third, maps = (folder / f"{k}.zarr" for k in (1, 2, 3, 4))
    write_tsv(table(rows, SHARD), folder / "shard.tsv")
    with open(folder / "read.log", "w", encoding="utf-8") as lines:
        read_shard(folder / "shard.tsv", folder / "archive", first, setup.read, lines)
    images = zarr.open_group(first, mode="r")
    tiles = zarr.open_group(second, mode="w", zarr_format=3)
    differences = zarr.open_group(third, mode="w", zarr_format=3)
    listed = [row for row in listed_in(images) if row["state"] == "read"]
    model, crystal = cached_model(setup.model), str(Path(setup.model) / "crystal.yaml")
    predictor = Predictor(model, setup.infer, 1)
    for row in listed:
        name = str(row["image_id"])
        job: dict[str, Any] = {"images_zarr": str(first), "out": str(second), "settings": setup.tile.as_dict()}
        if tile_one([crystal], image_id=name, **job)["state"] == "tiled":
            infer_one(tiles, differences, name, lambda _: (model, predictor), setup.infer)
    made = zarr.open_group(maps, mode="w", zarr_format=3)
    stores = Stores(images, tiles, differences, made, folder)
    return [analyse(row, stores, setup.defects) for row in listed]


def whole_files(plan: Plan, setup: Setup, seed: int) -> pl.DataFrame:
    """Fields written as .dm4 and run through read, tile, infer and defects; one row a file.

    The defects are all kinds of the detection experiment; one is right when a defect is listed within 0.45 cell.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "archive").mkdir()
        fields, rows = compose_files(plan, setup, folder / "archive", seed)
        found = {str(one.image["image_id"]): one for one in analyse_files(rows, setup, folder)}
    return pl.DataFrame(
        [_row_of(field, row, found[str(row["file_id"])]) for field, row in zip(fields, rows, strict=True)],
        infer_schema_length=None,
    )


def _row_of(field: Field, row: Row, found: Analysis) -> dict[str, Any]:
    return file_row(field, row, table(found.defects, DEFECTS), table([found.image], IMAGES), found.columns)
