"""The registration record: from it and the image, tiles and differences are made again, bit by bit."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import oddlattice
from oddlattice.lattice.record import Record, write_tiles
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.tile_image import tiled_attributes, write_registration
from oddlattice.model.folder import load_model
from oddlattice.predict.infer_image import infer_image
from oddlattice.predict.predictor import Predictor
from oddlattice.run import retention
from oddlattice.run.stage_settings import InferSettings
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import SRTIO3
from support.settings import default
from support.small_results import write_results

MODEL = Path(__file__).parents[2] / "models/srtio3_001"


def grain() -> zarr.Group:
    return zarr.open_group(MemoryStore(), mode="w", zarr_format=3)


@pytest.mark.parametrize(("transposed", "offset"), [(False, 0.0), (True, -400.0)])
def test_tiles_and_differences_come_again_bit_by_bit(transposed: bool, offset: float) -> None:
    scan = simulate_scan(SRTIO3, Conditions(rotation_deg=17, dose_e_px=800, jitter_pm=8), (260, 600), seed=4)
    image = np.ascontiguousarray(scan.counts.T if transposed else scan.counts) + np.float32(offset)
    found = fit_registration(image, [SRTIO3], (0.0125, 0.0125))
    assert found.transposed == transposed and (found.pedestal > 0) == (offset < 0)
    first = grain()
    write_registration(image, found, first)
    first.attrs["oddlattice"] = tiled_attributes(found, (0.0125, 0.0125))
    again = grain()
    record = Record.of(first)
    record.write(again)
    again.attrs["oddlattice"] = first.attrs["oddlattice"]
    write_tiles(image, record, again)
    assert sorted(again.array_keys()) == sorted(first.array_keys())
    for name in first.array_keys():
        assert first[name][:].tobytes() == again[name][:].tobytes(), name
    model, settings = load_model(MODEL), default(InferSettings, device="cpu", method="template")
    differences = []
    for source in (first, again):
        target = grain()
        assert infer_image(source, target, model, Predictor(model, settings, 1), settings) == ""
        differences.append({name: target[name][:].tobytes() for name in ("prediction", "difference")})
    assert differences[0] == differences[1]


def test_kept_tiles_are_those_of_their_image_alone() -> None:
    image = simulate_scan(SRTIO3, Conditions(rotation_deg=17, dose_e_px=800), (270, 270), seed=4).counts
    record = fit_registration(image, [SRTIO3], (0.0125, 0.0125)).record
    cut, kept, again = ([tile for _, tile in record.bands(image, keep=keep)] for keep in (False, True, False))
    assert all(tile is other for tile, other in zip(kept, again, strict=True))
    assert all(np.array_equal(tile, other) for tile, other in zip(cut, kept, strict=True))
    brighter = [tile for _, tile in record.bands(2 * image)]
    assert not any(np.array_equal(tile, other) for tile, other in zip(cut, brighter, strict=True))


def test_dropped_tiles_leave_the_record_from_which_they_come_again(tmp_path: Path) -> None:
    results = write_results(tmp_path)
    scan = simulate_scan(SRTIO3, Conditions(rotation_deg=17, dose_e_px=800), (300, 280), seed=5)
    images = zarr.open_group(results / "1_images/s.zarr", mode="r+")
    images["sized"].create_array("0", data=scan.counts, overwrite=True)
    found = fit_registration(scan.counts, [SRTIO3], (0.0125, 0.0125))
    store = zarr.open_group(results / "2_tiles/s.zarr", mode="w", zarr_format=3)
    store.create_group("unsized").attrs["oddlattice"] = {"state": "no_lattice"}
    kept = store.create_group("sized/1")
    write_registration(scan.counts, found, kept)
    kept.attrs["oddlattice"] = tiled_attributes(found, (0.0125, 0.0125))
    tiles = kept["tiles"][:]
    (results / "2_tiles/s.zarr/.snakemake_timestamp").touch()
    os.utime(results / "2_tiles/s.zarr", (100, 100))  # older than the pages
    assert retention.drop_stages(results, ["tiles"]) == [results / "2_tiles/s.zarr"]
    assert [path.name for path in sorted(results.glob("2_*/*"))] == ["s.zarr.zip"]
    with zipfile.ZipFile(results / "2_records/s.zarr.zip") as record:
        names = record.namelist()
    assert names and not [name for name in names if "tiles" in name or "snakemake" in name]
    with_lattice, without = oddlattice.open(results)
    assert with_lattice.tiles().tobytes() == tiles.tobytes()
    assert np.array_equal(with_lattice.mask, found.mask) and with_lattice.nodes_px.shape == found.nodes_px.shape
    assert without.tiles().size == without.mask.size == 0
