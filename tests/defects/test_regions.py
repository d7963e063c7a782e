"""Extended defects become regions with an area: the kernels, and composed fields through the stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddlattice.benchmark.jobs import Setup
from oddlattice.benchmark.run_fields import analysed, tiled
from oddlattice.crystal import CELL_PX
from oddlattice.defects.listing import Defect, Judged
from oddlattice.defects.regions import extended_regions, gap_cells, loud_cells, loudness
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
    loud = loud_cells(z_of(level), PREDICTION, WHOLE)
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
    assert not loud_cells((z_of(level) + slow).astype(np.float32), PREDICTION, WHOLE).any()
    turned = np.roll(slow, CELL_PX // 4, axis=(0, 1))  # the same, but of columns beside their places
    assert loud_cells((z_of(level) + turned).astype(np.float32), PREDICTION, WHOLE).sum() > 10


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


def test_defects_beside_a_region_belong_to_it() -> None:
    region = np.zeros((20, 20), dtype=bool)
    region[10:13, 5:9] = True
    beside = Defect((9.5, 6.0), "Ti", "heavier", 1.0, z=6.0, p=1e-9, q=1e-6, anm=0.3)
    apart = Defect((5.0, 6.0), "Sr", "lighter", 1.0, z=-5.0, p=1e-6, q=1e-3)
    found = extended_regions([beside, apart], region)
    assert found[0] == apart and len(found) == 2
    assert (found[1].kind, found[1].cells, found[1].uv, found[1].z) == ("extended", 12, (11.5, 7.0), 6.0)
    assert extended_regions([beside, apart], np.zeros_like(region)) == [beside, apart]


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
        ("dislocation", 4, 300),
        ("grain boundary", 100, 300),
        ("second phase", 50, 130),
        ("hole", 40, 110),
        ("contamination", 40, 110),
    ],
)
def test_an_extended_defect_is_a_region_and_not_many_points(name: str, least_cells: int, most_cells: int) -> None:
    field, image, judged = through_the_stages(name)
    regions = [defect for defect in judged.defects if defect.kind == "extended"]
    points = [defect for defect in judged.defects if defect.kind != "extended"]
    assert len(regions) == 1
    assert least_cells <= regions[0].cells <= most_cells
    assert len(points) <= 5  # some are false discoveries
    at = image.coordinates.seen_px(np.array([defect.uv for defect in points]).reshape(-1, 2))
    row, col = np.rint(at).astype(int).T
    assert field.odd[row, col].sum() == 0  # none in the defect itself


def test_perfect_crystal_has_no_region() -> None:
    _, _, judged = through_the_stages("perfect")
    assert [defect.kind for defect in judged.defects if defect.kind == "extended"] == []
