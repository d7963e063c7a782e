"""Images of one scan by several detectors: one that shows less of the crystal is laid on what another shows."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zarr

from cut_tiles import main as cut_tiles
from oddlattice.lattice.detectors import on_lattice_of
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.one_scan import of_one_scan, to_do_again
from oddlattice.lattice.own_crystal import register_on_own
from oddlattice.numerics.arrays import Float
from oddlattice.run.stage_settings import ReadSettings, TileSettings
from oddlattice.storage.groups import listed_in
from read_images import main as read_images
from support.own_crystals import CRYSTALS, make_field
from support.raw_files import shard_of, write_velox
from support.settings import default
from support.stages import MODEL

CELL_PX2 = 690.1


@cache
def scan(kind: str) -> Float:
    """A scan of SrTiO3 [110]: as HAADF; as ABF, to which both columns are alike; as BF that shows next to nothing."""
    oxide, about = CRYSTALS["SrTiO3 [110]"], {"side_px": 300, "rotation_deg": 17.0, "jitter_pm": 3.0, "seed": 2}
    if kind == "HAADF":
        return make_field(oxide, dose=60, **about).counts
    alike = replace(oxide, columns=((0, 0, 0.5), (0, 0.5, 0.48)))
    return make_field(alike, dose=30 if kind == "ABF" else 0.2, dark=True, **about).counts


def test_columns_that_a_detector_does_not_tell_apart_are_those_of_the_other() -> None:
    image, haadf = scan("ABF"), scan("HAADF")
    alone = register_on_own(image)[1]
    assert abs(np.linalg.det(alone.vectors_px)) == pytest.approx(CELL_PX2 / 2, rel=0.01)  # half of the cell
    found, own = on_lattice_of(image, haadf, None, default(TileSettings))
    assert abs(np.linalg.det(own.vectors_px)) == pytest.approx(CELL_PX2, rel=0.01)
    assert own.columns.sign == -1 and own.names == ["A1", "A2"] and found.mask.sum() > 90


def test_a_detector_that_shows_nothing_of_the_lattice_is_refused() -> None:
    with pytest.raises(NoLatticeError, match="nothing of what another detector"):
        on_lattice_of(scan("BF"), scan("HAADF"), None, default(TileSettings))


def test_signals_of_one_file_are_laid_on_one_cell(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    signals = {"HAADF": scan("HAADF"), "ABF": scan("ABF")}
    write_velox(archive / "scan.emd", {name: counts.astype(np.uint16)[None] for name, counts in signals.items()})
    shard_of(archive, tmp_path / "shard.tsv")
    images, tiles = str(tmp_path / "1.zarr"), str(tmp_path / "2.zarr")
    settings = default(ReadSettings, detectors="all")
    read_images(tmp_path / "shard.tsv", archive, Path(images), settings, tmp_path / "read.log")
    cut_tiles(images, [MODEL / "crystal.yaml"], tiles, default(TileSettings), 1, 1.0)
    store = zarr.open_group(tiles, mode="r")
    names = [row["image_id"] for row in store.attrs["images"]]
    grains = [store[f"{name}/1"].attrs["oddlattice"] for name in names]
    areas = [abs(np.linalg.det(np.array([grain["a_px"], grain["b_px"]]))) for grain in grains]
    assert areas == pytest.approx([CELL_PX2] * 2, rel=0.01)
    assert sorted(grain["contrast_sign"] for grain in grains) == [-1, 1]
    read = zarr.open_group(images, mode="r")
    scans = of_one_scan(read, listed_in(read))
    assert [sorted(some) for some in scans] == [sorted(names)] and to_do_again(store, scans) == {}
    told = [any("another detector of the same scan" in line for line in grain["warnings"]) for grain in grains]
    assert told == [grain["contrast_sign"] < 0 for grain in grains]
