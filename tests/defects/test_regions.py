"""Extended defects become regions with an area: the kernels, and composed fields through the stages."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddlattice.benchmark.jobs import Setup
from oddlattice.benchmark.run_fields import analysed, tiled
from oddlattice.crystal import CELL_PX
from oddlattice.defects.listing import Defect, Judged
from oddlattice.defects.regions import broken_cells, crowded_cells, extended_regions, gap_cells, loudness
from oddlattice.defects.registered import Registered
from oddlattice.lattice.register import fit_registration
from oddlattice.model.folder import load_model
from oddlattice.predict.predictor import Predictor
from oddlattice.run.settings import load_yaml
from support.extended_fields import FIELDS, compose_extended, perfect

ROOT = Path(__file__).parents[2]
WHOLE = np.ones((20, 20), np.uint8)
LINE = (np.arange(20 * CELL_PX) + 0.5) / CELL_PX
WAVE = 1 + 0.5 * np.cos(2 * np.pi * LINE)
PREDICTION = np.outer(WAVE, WAVE).astype(np.float32)


def z_of(level: np.ndarray) -> np.ndarray:
    """A z map whose cells have mean squares near `level`."""
    noise = np.random.default_rng(1).standard_normal((len(level) * CELL_PX, level.shape[1] * CELL_PX))
    return (noise * np.sqrt(np.kron(level, np.ones((CELL_PX, CELL_PX))))).astype(np.float32)


# ---- kernels


def test_a_loud_band_is_a_region_and_a_loud_column_is_none() -> None:
    level = np.ones((20, 20))
    level[5:8] = 4.0  # a boundary
    level[13:15, 9:11] = 50.0  # the four cells about one odd column
    loud = broken_cells(z_of(level), PREDICTION, WHOLE)
    assert loud[6].all() and loud[5:8].mean() > 0.85 and not loud[10:].any() and not loud[:4].any()


def test_loudness_is_a_median_of_analysed_cells() -> None:
    mask = WHOLE.copy()
    mask[:, 10:] = 0
    level = np.where(mask > 0, 1.0, 100.0)
    found = loudness(z_of(level), PREDICTION, mask)
    assert np.isnan(found[:, 10:]).all()
    assert found[:, :10] == pytest.approx(1.0, abs=0.2)


def test_a_slowly_varying_background_or_contrast_is_no_region() -> None:
    level = np.ones((20, 20))
    hill = np.exp(-((LINE[:, None] - 10) ** 2 + (LINE - 10) ** 2) / 18)
    root = np.sqrt(PREDICTION)
    slow = 3 * hill * (root - 1 / root)
    assert not broken_cells((z_of(level) + slow).astype(np.float32), PREDICTION, WHOLE).any()
    turned = np.roll(slow, CELL_PX // 4, axis=(0, 1))  # the same, but of columns beside their places
    assert broken_cells((z_of(level) + turned).astype(np.float32), PREDICTION, WHOLE).sum() > 10


def test_gaps_inside_count_and_the_specimens_edge_does_not() -> None:
    mask, inside, brightness = WHOLE.copy(), WHOLE.copy(), np.ones((20, 20))
    inside[:2] = 0  # beyond the image
    mask[:4] = 0
    brightness[:4] = 0.2  # vacuum
    mask[10:13, 5:9] = 0  # a hole
    brightness[10:13, 5:9] = 0.1
    mask[17, 17] = 0  # a single cell
    found = gap_cells(mask, inside, brightness)
    assert found.sum() == 12 and found[10:13, 5:9].all()
    brightness[2:4] = 0.9  # another grain
    assert gap_cells(mask, inside, brightness).sum() == 12 + 40


def test_vacuum_is_none_whatever_the_detector_adds_and_what_stands_beside_it() -> None:
    """A thin particle and a thick one, vacuum of 0.9 about them, and matter in it that is no crystal."""
    inside = np.ones((40, 40), np.uint8)
    mask, level, counts = np.zeros((40, 40), np.uint8), np.full((40, 40), 1.5), np.full((40, 40), 0.9)
    mask[5:20, 5:20] = mask[22:40, 22:40] = 1
    level[:21, :21] = 1.0  # the local mean is continued from the nearest crystal
    counts += np.random.default_rng(1).normal(0, 0.005, counts.shape)
    counts[4:21, 4:21] = 0.97  # the particle's rim, which is seen half
    counts[mask > 0] = level[mask > 0]
    counts[28:38, 4:14] = 1.3
    found = gap_cells(mask, inside, counts / level, level, 0.95)
    assert found.sum() == 10 * 10 - 4 and found[29:37, 5:13].all()  # a median cuts the corners
    other = gap_cells(mask, inside, np.full(mask.shape, 0.99), level, 0.95)
    assert other.sum() == (mask == 0).sum()  # another phase


def test_defects_beside_a_region_belong_to_it() -> None:
    region = np.zeros((20, 20), dtype=bool)
    region[10:13, 5:9] = True
    beside = Defect((9.5, 6.0), "Ti", "heavier", 1.0, z=6.0, p=1e-9, q=1e-6, anm=0.3)
    apart = Defect((5.0, 6.0), "Sr", "lighter", 1.0, z=-5.0, p=1e-6, q=1e-3)
    found, taken = extended_regions([beside, apart], region)
    assert [d.in_region for d in found[:2]] == [True, False] and replace(found[0], in_region=False) == beside
    assert (found[2].kind, found[2].cells, found[2].uv, found[2].z) == ("extended", 12, (11.5, 7.0), 6.0)
    assert taken.sum() == 5 * 6 and taken[9:14, 4:10].all()
    assert extended_regions([beside, apart], np.zeros_like(region))[0] == [beside, apart]


# ---- composed fields through the stages


def through_the_stages(name: str) -> tuple[Any, Registered, Judged]:
    """A composed field, registered, predicted and judged with the shipped settings."""
    field = compose_extended(FIELDS.get(name, perfect))
    model = load_model(ROOT / "models/srtio3_001")
    pixel_nm = (field.pixel_nm, field.pixel_nm)
    found = fit_registration(field.counts, [model.crystal], pixel_nm)
    setup = Setup.of("", "", "", 1, load_yaml(ROOT / "config.yaml"))
    result = analysed(
        tiled(field.counts, found, field.pixel_nm), model, Predictor(model, setup.infer, 1), field.pixel_nm, setup
    )
    assert not isinstance(result, str), result
    return field, *result


@pytest.mark.parametrize(
    ("name", "least_cells", "most_cells"),
    [
        ("antiphase boundary", 20, 200),
        ("dislocation", 8, 24),
        ("grain boundary", 100, 300),
        ("second phase", 50, 130),
        ("hole", 40, 110),
        ("contamination", 40, 110),
    ],
)
def test_an_extended_defect_is_a_region_and_not_many_points(name: str, least_cells: int, most_cells: int) -> None:
    field, image, judged = through_the_stages(name)
    regions = [defect for defect in judged.defects if defect.kind == "extended"]
    points = [defect for defect in judged.defects if defect.kind != "extended" and not defect.in_region]
    assert len(regions) == 1
    assert least_cells <= regions[0].cells <= most_cells
    assert len(points) <= 5  # some are false discoveries
    at = image.coordinates.seen_px(np.array([defect.uv for defect in points]).reshape(-1, 2))
    row, col = np.rint(at).astype(int).T
    assert field.odd[row, col].sum() == 0  # none in the defect itself


def test_perfect_crystal_has_no_region() -> None:
    _, _, judged = through_the_stages("perfect")
    assert [defect.kind for defect in judged.defects if defect.kind == "extended"] == []


# ---- distances and memory


HEXAGON_PM = np.array([[320.0, 0.0], [-160.0, 320.0 * np.sqrt(0.75)]])  # 120 degrees: neighbours along a + b as well


def displaced(u: float, v: float, angle: float = 0.0) -> Defect:
    shift = (30 * float(np.cos(angle)), 30 * float(np.sin(angle)))
    return Defect((u, v), "S2", "displaced", 1.0, p=1e-9, q=1e-6, shift_pm=shift)


def test_neighbours_are_told_by_the_metric_of_the_lattice() -> None:
    """On a hexagonal lattice a column at (1, 1) is as near as one at (1, 0); one at (1, -1) is not."""
    along = [displaced(5.0 + k, 5.0 + k) for k in range(8)]
    across = [displaced(5.0 + k, 15.0 - k) for k in range(8)]
    assert crowded_cells(along, (20, 20), HEXAGON_PM, 8).sum() == 8
    assert not crowded_cells(across, (20, 20), HEXAGON_PM, 8).any()
    square = np.diag([390.0, 390.0])
    assert not crowded_cells(along, (20, 20), square, 8).any()


def test_displacements_without_one_reason_are_no_region() -> None:
    square = np.diag([390.0, 390.0])
    strain = [displaced(3.0 + k, 5.0) for k in range(12)]
    assert crowded_cells(strain, (20, 20), square, 8).sum() == 12
    each_its_own = [displaced(3.0 + k, 5.0, 2.5 * k) for k in range(12)]
    assert not crowded_cells(each_its_own, (20, 20), square, 8).any()
    odd = [Defect((3.0 + k, 5.0), "Sr", "vacancy-like", 1.0, p=1e-9, shift_pm=(0.0, 0.0)) for k in range(12)]
    assert not crowded_cells(odd, (20, 20), square, 8).any()


def test_many_regions_cost_no_memory() -> None:
    cells = np.zeros((800, 800), dtype=bool)
    for k in range(484):
        row, col = 10 + 36 * (k // 22), 10 + 36 * (k % 22)
        cells[row : row + 3, col : col + 3] = True
    tracemalloc.start()
    found, taken = extended_regions([Defect((11.0, 11.0), "Sr", "lighter", 1.0, p=1e-9)], cells)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 485 and found[0].in_region and taken.sum() == 484 * 25
    assert peak < 60e6, peak  # a mask for each would be 310 MB


def test_what_a_columns_shape_leaves_is_no_broken_lattice() -> None:
    """Cells from which strong changes were taken out may keep a fifth of them."""
    level = np.ones((20, 20))
    level[5:9, 5:9] = 5.0
    left, removed = z_of(level), np.zeros((20 * CELL_PX, 20 * CELL_PX), np.float32)
    assert broken_cells(left, PREDICTION, WHOLE, removed).sum() > 9
    removed[5 * CELL_PX : 9 * CELL_PX, 5 * CELL_PX : 9 * CELL_PX] = 20 * z_of(np.ones((4, 4)))
    assert not broken_cells(left, PREDICTION, WHOLE, removed).any()
