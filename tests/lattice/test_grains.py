"""Images of several grains: the label map, and each grain registered as an image of its own."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from scipy import ndimage
from scipy.spatial import cKDTree
from zarr.storage import MemoryStore

from bench.grains import lines_of, score_labels
from bench.one_crystal import spoilt
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.lattice.boundaries import lines_between, turned
from oddlattice.lattice.columns import as_cells
from oddlattice.lattice.grains import find_grains, takes_all
from oddlattice.lattice.one_grain import alone, cropped
from oddlattice.lattice.own_crystal import register_on_own
from oddlattice.lattice.record import Record
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.seams import Side, up_to_seams
from oddlattice.lattice.spoilt import SURROUNDED, Seen
from oddlattice.lattice.tile_image import tiled_attributes, vector_errors, write_registration
from support.grain_fields import GrainField, make_grains
from support.own_crystals import CRYSTALS, make_field
from support.stages import through_the_stages

TWO = np.array([[0.3, 0.3], [0.7, 0.75]])


def two_grains() -> GrainField:
    """Two grains of SrTiO3, at 5 and 41 degrees."""
    return make_grains(
        ("SrTiO3", "SrTiO3"), (5.0, 41.0), side_px=400, pixel_nm=0.02, dose=300, changed=4, middles=TWO, seed=1
    )


def right_part(found: np.ndarray, truth: GrainField) -> float:
    """Part of the pixels in the right one of two grains."""
    same = float((found == truth.labels).mean())
    return max(same, float((3 - found == truth.labels).mean()))


@pytest.mark.parametrize(
    ("names", "turns"), [(("SrTiO3", "SrTiO3"), (0.0, 5.0)), (("MoS2", "MoS2"), (10, 13)), (("WSe2", "CdTe"), (0, 20))]
)
def test_every_pixel_goes_to_its_grain(names: tuple[str, ...], turns: tuple[float, ...]) -> None:
    truth = make_grains(names, turns, side_px=384, pixel_nm=0.018, dose=200, middles=TWO, seed=3)
    found = find_grains(truth.counts)
    assert found.count == 2
    score = score_labels(found.labels, truth)
    assert score.right > 0.998 * score.counted
    assert np.median(score.line_cells) < 0.3


def test_one_crystal_is_one_grain() -> None:
    truth = make_grains(("CeO2",), (12.0,), side_px=384, pixel_nm=0.016, dose=200, changed=12, seed=4)
    hole = truth.counts.copy()
    hole[150:230, 140:260] = np.random.default_rng(1).poisson(30, (80, 120))
    assert find_grains(hole).count == 1
    assert takes_all(register_on_own(truth.counts)[0])
    two = make_grains(("CeO2", "GaN"), (12.0, 30.0), side_px=384, pixel_nm=0.016, dose=200, middles=TWO, seed=4)
    assert not takes_all(register_on_own(two.counts)[0])


def test_a_dislocation_makes_no_second_grain() -> None:
    truth = make_grains(("CeO2",), (12.0,), side_px=420, pixel_nm=0.016, dose=200, changed=0, seed=4)
    row, col = np.indices(truth.counts.shape).astype(float)
    part = np.arctan2(row - 190, col - 230) / (2 * np.pi)
    burgers = truth.vectors_px[0][0]
    moved = ndimage.map_coordinates(truth.counts, [row - part * burgers[0], col - part * burgers[1]], order=1)
    assert find_grains(moved.astype(np.float32)).count == 1


@pytest.mark.parametrize("seed", [5007, 5020, 5058, 5090, 5138])
def test_a_spoilt_crystal_is_the_same_crystal(seed: int) -> None:
    """Dimmed by contamination; with its strongest reflections alone; with a dislocation; bent, seen in three parts."""
    assert find_grains(spoilt(seed).field.counts).count == 1


def test_errors_of_a_lattice_hold_the_jitter_of_lines() -> None:
    off = []
    for seed in range(8):
        field = make_field(CRYSTALS["Au [110]"], side_px=200, rotation_deg=20, dose=300, jitter_pm=8, seed=seed)
        found = fit_registration(field.counts, [])
        steps = np.rint(found.frame.vectors_px @ np.linalg.inv(field.vectors_px))
        error = (found.frame.vectors_px - steps @ field.vectors_px) / np.array(vector_errors(found)[:2])[:, None]
        off += list(error.ravel())
    assert 0.3 < np.std(off) < 1.5
    assert (np.abs(off) < 1).mean() > 0.55


def test_a_grain_reaches_up_to_its_seam() -> None:
    """Columns are tested up to their distance from it; in tiles what is another grain's looks like the crystal."""
    truth = make_grains(("CeO2", "CeO2"), (12.0, 60.0), side_px=300, pixel_nm=0.018, dose=2000, middles=TWO, seed=4)
    found = find_grains(truth.counts)
    sides = {}
    for k in (1, 2):
        own = register_on_own(alone(truth.counts, found.region(k)), lattice=found.lattices[k - 1])[0]
        sides[k] = Side.of(own, found.region(k))
    for number, grain in up_to_seams(sides, Seen.of(truth.counts)).items():
        side, (n_u, n_v) = sides[number], grain.px_per_cell
        assert grain.mask.sum() > 1.15 * side.found.mask.sum()
        tile = grain.record.cut(truth.counts, (slice(0, grain.mask.shape[0]), slice(0, grain.mask.shape[1])))
        cells = as_cells(tile, (n_u, n_v))
        bulk = np.median(cells[side.found.mask], axis=0)
        cut = grain.mask & ~side.found.mask
        assert np.isnan(as_cells(grain.foreign, (n_u, n_v))[cut]).any()
        off = np.abs(cells - bulk).mean(axis=(2, 3))
        assert np.median(off[cut]) < 1.5 * np.median(off[side.found.mask])
        group = zarr.open_group(MemoryStore(), mode="w")
        write_registration(truth.counts, grain, group)
        group.attrs["oddlattice"] = tiled_attributes(grain, None)
        assert np.array_equal(group["tiles"][:], tile)
        assert np.array_equal(Record.of(group).foreign, grain.foreign, equal_nan=True)
        surrounded = cropped(grain).depth_px > SURROUNDED * np.hypot(*grain.frame.vectors_px.T).min()
        corners = np.rint(cropped(grain).nodes_px[:, surrounded]).astype(int)
        assert found.region(number)[corners[0], corners[1]].all()


def test_both_grains_are_analysed(tmp_path: Path) -> None:
    truth = two_grains()
    found = through_the_stages([(truth.counts, truth.pixel_nm)], tmp_path)
    (image,) = found["images"].to_dicts()
    assert image["state"] == "analysed"
    assert image["model"] == "srtio3_001"
    assert image["rotation_deg"] is None
    assert image["grains"] == 2
    assert image["reason"] == ""
    assert set(found["columns"]["grain"]) == {1, 2}
    assert image["cells_analysed"] > 250
    # every column is said to be in the grain in which it is, and none twice
    at = found["columns"].select("row_px", "col_px").to_numpy()
    row, col = np.rint(at).astype(int).T
    grain = found["columns"]["grain"].to_numpy()
    assert right_part(grain, GrainField(*([None] * 5), truth.labels[row, col], *([None] * 5))) == 1  # type: ignore[arg-type]
    key = ["grain", "cell_u", "cell_v", "column"]
    assert found["columns"].select(key).is_duplicated().sum() == 0
    assert found["grains"]["state"].to_list() == ["analysed", "analysed"]
    assert found["grains"]["columns_tested"].sum() == image["columns_tested"]
    # columns are tested up to about one distance between them from the seam
    seam = ndimage.distance_transform_edt(~lines_of(truth.labels))
    row, col = np.clip(np.rint(truth.places_px).astype(int), 0, 399).T
    near = (seam[row, col] > 0.9 * truth.cell_px) & (seam[row, col] < 2 * truth.cell_px)
    near &= ((truth.places_px > 1.5 * truth.cell_px) & (truth.places_px < 399 - 1.5 * truth.cell_px)).all(1)
    hits, _ = cKDTree(at).query(truth.places_px[near])
    assert (hits < 2).mean() > 0.9
    (boundary,) = found["boundaries"].to_dicts()
    assert boundary["sort"] == "grain"
    assert boundary["misorientation_deg"] == pytest.approx(36, abs=0.1)
    assert boundary["length_nm"] == pytest.approx(10.7, abs=0.5)
    (listed,) = found["defects"].filter(pl.col("kind") == "boundary").to_dicts()
    assert (listed["sort"], listed["grain"], listed["p_value"], listed["column"]) == ("grain", None, None, None)
    assert image["defects"] == len(_points(found["defects"]))  # no boundary is counted
    places = truth.places_px[truth.changed]
    hits = [np.hypot(*(at_defect - places).T).min() < 3 for at_defect in _points(found["defects"])]
    assert sum(hits) >= 7
    assert len(hits) - sum(hits) <= 1


def _points(defects: pl.DataFrame) -> np.ndarray:
    return np.asarray(defects.filter(~pl.col("kind").is_in(NO_POINTS)).select("row_px", "col_px").to_numpy())


def test_boundary_and_misorientation_are_told() -> None:
    labels = np.ones((200, 200), np.uint8)
    labels[np.add.outer(np.arange(200), np.arange(200)) > 200] = 2
    labels[:, :20] = 0
    (line,) = lines_between(labels)
    assert line.grains == (1, 2)
    assert line.length_px == pytest.approx(np.sqrt(2) * 180, rel=0.03)
    shear = np.array([[1.0, 0.02], [0.0, 1.01]])
    sigma = np.array([0.002, 0.002])
    for degrees, least in ((4.0, 4.0), (38.0, 38.0), (52.0, 38.0)):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        found = turned(20 * np.eye(2) @ shear, 20 * turn @ shear, (sigma, sigma))
        assert found is not None
        assert found.angle_deg == pytest.approx(least, abs=0.02)
        assert found.area_ratio == pytest.approx(1)
    assert found.sigma_deg == pytest.approx(np.degrees(0.0001), rel=0.02)
    assert turned(20 * np.eye(2), 29 * np.eye(2), (sigma, sigma)) is None


def test_an_image_smaller_than_its_fringes_holds_no_grains() -> None:
    for image in (np.cos(2 * np.pi * np.indices((64, 65))[1] / 200), np.arange(65.0)[:, None] + 65 * np.arange(66.0)):
        assert find_grains(image.astype(np.float32)).count == 0
