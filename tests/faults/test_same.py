"""The same input gives the same products: any order of shards, any batch; a GPU within the stated tolerance."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import gather_defects
import infer_differences
import read_images
from oddlattice.crystal import load_crystal
from oddlattice.run.stage_settings import InferSettings, ReadSettings
from oddlattice.simulate.columnwise import Conditions, Defect, simulate_scan
from predict.test_network import TOLERANCE
from support.fault_runs import CRYSTAL
from support.fault_shard import CONFIG, Shard
from support.raw_files import shard_of, write_dm
from support.settings import default


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """One image with emptied columns, worked through on the CPU with the shipped settings."""
    folder = tmp_path_factory.mktemp("same")
    (folder / "archive").mkdir()
    defects = tuple(Defect(cell, 0, "vacancy", factor=0.2) for cell in ((-3, -2), (3, 3), (1, -4)))
    conditions = Conditions(pixel_nm=0.02, rotation_deg=7.0, dose_e_px=4000.0, jitter_pm=3.0)
    counts = simulate_scan(load_crystal(CRYSTAL), conditions, (280, 280), defects, seed=3).counts
    write_dm(folder / "archive/a.dm4", counts.astype(np.uint16), pixel=0.02)
    shard_of(folder / "archive", folder / "shard.tsv")
    found = Shard(folder)
    read_images.main(
        folder / "shard.tsv", folder / "archive", found.images, ReadSettings.of(CONFIG["read"]), log=folder / "log"
    )
    found.tile()
    infer(found, device="cpu")
    return found


def infer(shard: Shard, **settings: object) -> pl.DataFrame:
    infer_differences.main(shard.tiles, [str(CRYSTAL.parent)], shard.differences, default(InferSettings, **settings), 2)
    shard.find()
    return pl.read_parquet(shard.defects)


def difference(shard: Shard) -> np.ndarray:
    return np.asarray(infer_differences.zarr.open_group(shard.differences, mode="r")["f0000/1/difference"][:])


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "cpu", "batch": 7},
        pytest.param(
            {"device": "cuda"},
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="SKIPPED LOUDLY: no CUDA here, the GPU is not compared"
            ),
        ),
    ],
    ids=str,
)
def test_any_batch_and_any_device_flag_the_same_defects(shard: Shard, settings: dict[str, object]) -> None:
    key = ["image_id", "site", "cell_u", "cell_v", "kind"]
    expected = infer(shard, device="cpu").sort(key)
    reference = difference(shard)
    assert expected.filter(pl.col("site") == "Sr").height >= 3
    found = infer(shard, **settings).sort(key)
    assert found.select(key).equals(expected.select(key))
    assert np.abs(difference(shard) - reference).max() < TOLERANCE


def test_tables_do_not_depend_on_the_order_of_shards(shard: Shard, tmp_path: Path) -> None:
    """Gathered of two shards in one order and in the other: the same bytes."""
    tables: dict[str, list[str]] = {}
    for name in gather_defects.OF_IMAGES:
        first = shard.table if name == "images" else getattr(shard, name)
        other = pl.read_parquet(first).with_columns(image_id=pl.lit("a0000"))
        other.write_parquet(tmp_path / name)
        tables[name] = [first, str(tmp_path / name)]
    (tmp_path / "said.json").write_text('{"files": [], "statements": []}')
    made = []
    for order in (1, -1):
        folder = tmp_path / str(order)
        folder.mkdir()
        names = ("defects", "images", "completeness", "reviews", "grains", "boundaries")
        out = {f"{name}_{ending}": str(folder / f"{name}.{ending}") for name in names for ending in ("parquet", "csv")}
        out["precision_csv"] = str(folder / "precision.csv")
        given = {name: paths[::order] for name, paths in tables.items()}
        gather_defects.main(given, [shard.maps] * 2, str(tmp_path / "said.json"), out)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    assert len(made[0]) == 13
