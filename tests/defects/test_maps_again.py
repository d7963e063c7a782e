"""Maps that were dropped: made again, the same values; and what is kept of them tells the scan."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from oddlattice.crystal import load_crystal
from oddlattice.defects.maps_again import maps_again
from oddlattice.run.stage_settings import DefectSettings, InferSettings
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from oddlattice.statistics.guises import Maps, maps_of, same_scan, write_middles
from oddlattice.storage.groups import group_of, values_of
from oddlattice.storage.packed_stores import pack_store
from support.settings import default
from support.stages import MODEL, through_the_stages

SETTINGS = default(InferSettings), default(DefectSettings)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the stores of a shard of one image, and the image's id."""
    folder = tmp_path_factory.mktemp("shard")
    conditions = Conditions(pixel_nm=0.02, rotation_deg=7.0, dose_e_px=2000.0)
    counts = simulate_scan(load_crystal(MODEL / "crystal.yaml"), conditions, (220, 220), seed=1).counts
    (image_id,) = through_the_stages([(counts, 0.02)], folder)["images"]["image_id"]
    return folder, image_id


def test_maps_that_were_dropped_are_made_again_to_the_last_bit(shard: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = shard
    pack_store(folder / "2.zarr", tmp_path / "record.zarr.zip", "tiles")
    images = zarr.open_group(folder / "1.zarr", mode="r")
    made = maps_again(images, tmp_path / "record.zarr.zip", name, {MODEL.name: MODEL}, SETTINGS, tmp_path)
    kept = zarr.open_group(folder / "4.zarr", mode="r")
    for key in ("difference", "z", "prediction"):
        again, before = (values_of(group_of(group_of(root, name), key), "0") for root in (made, kept))
        assert np.abs(before).max() > 0
        np.testing.assert_array_equal(again, before)


def test_the_middles_tell_the_scan_as_the_maps_do(shard: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = shard
    write_middles(zarr.open_group(folder / "4.zarr", mode="r"), tmp_path / "middles.zarr.zip")
    of_maps, of_middles = (
        maps_of([str(folder / "images.parquet")], [str(store)])(name)
        for store in (folder / "4.zarr", tmp_path / "middles.zarr.zip")
    )
    assert of_maps is not None and of_middles is not None
    for one, other in zip(of_maps, of_middles, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (of_maps.difference != 0).any()
    assert same_scan(of_maps, of_middles, False).startswith("same noise (correlation 1.0")
    other = Maps(of_middles.difference[::-1], of_middles.prediction)
    assert same_scan(of_maps, other, False) == ""
    assert pl.read_parquet(folder / "images.parquet")["image_id"].to_list() == [name]
