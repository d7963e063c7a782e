"""Pixels per cell follow the columns, not the cell: a long cell and an oblique one go through all stages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from oddlattice.crystal import Crystal, px_per_cell_of
from oddlattice.defects.find import find_in_image
from oddlattice.defects.registered import load_registered
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.tile_image import tiled_attributes, write_registration
from oddlattice.model.folder import load_model
from oddlattice.predict.infer_image import infer_image
from oddlattice.predict.predictor import Predictor
from oddlattice.run.stage_settings import DefectSettings, InferSettings
from oddlattice.simulate.columnwise import Conditions, Defect, simulate_scan
from support.lattice_samples import MOS2_120, SRTIO3, crystal
from support.settings import default

MODEL = Path(__file__).parents[2] / "models/srtio3_001"
PIXEL_NM = 0.0125
#: As YBCO along [100]: five columns on a line, 0.2 nm apart, and as many between the lines.
LONG = crystal(
    "long", 0.39, 1.17, 90,
    [("A", 0, 0.0, "Ba"), ("B", 0.5, 0.17, "Cu"), ("C", 0, 0.34, "Y"), ("D", 0.5, 0.52, "Cu"), ("E", 0, 0.7, "La")],
)  # fmt: skip
OBLIQUE = crystal("oblique", 0.31, 0.62, 75, [("A", 0, 0, "La"), ("B", 0.5, 0.3, "Sr"), ("C", 0.1, 0.62, "Zr")])


def test_pixels_per_cell_are_counted_from_the_distance_between_columns() -> None:
    def of(known: Crystal) -> tuple[int, int]:
        return px_per_cell_of(known.vectors_nm, np.array([(c.u, c.v) for c in known.columns]))

    assert of(SRTIO3) == of(MOS2_120) == (20, 20)  # 10 px from Sr to O; nearly so from Mo to S
    line = crystal("line", 0.4, 1.2, 90, [("A", 0, 0, "Ba"), ("B", 0.5, 0, "O")])
    assert of(line) == (20, 60)
    assert of(crystal("small", 0.3, 0.3, 90, [("A", 0, 0, "Fe")])) == (10, 10)


def grain() -> zarr.Group:
    return zarr.open_group(MemoryStore(), mode="w", zarr_format=3)


@pytest.mark.parametrize(("known", "px_per_cell"), [(LONG, (20, 60)), (OBLIQUE, (16, 32))])
def test_a_cell_that_is_not_square_goes_through_all_stages(known: Crystal, px_per_cell: tuple[int, int]) -> None:
    known = replace(known, px_per_cell=px_per_cell)
    conditions = Conditions(pixel_nm=PIXEL_NM, rotation_deg=12, dose_e_px=2000, jitter_pm=2)
    at = ((0, 0), (3, -2), (-4, 1), (5, 2))
    emptied = tuple(
        Defect(cell, column, "vacancy-like", factor=0.0) for column, cell in enumerate(at[: len(known.columns)])
    )
    scan = simulate_scan(known, conditions, (600, 900), emptied, seed=5)
    found = fit_registration(scan.counts, [known], (PIXEL_NM, PIXEL_NM))
    assert found.px_per_cell == px_per_cell
    source, target = grain(), grain()
    write_registration(scan.counts, found, source)
    source.attrs["oddlattice"] = tiled_attributes(found, (PIXEL_NM, PIXEL_NM))
    n_u, n_v = found.mask.shape
    assert source["tiles"].shape == (n_u * px_per_cell[0], n_v * px_per_cell[1])
    shipped = load_model(MODEL)
    model = replace(shipped, crystal=known)
    settings = default(InferSettings, method="template", device="cpu")
    assert infer_image(source, target, model, Predictor(model, settings, 1), settings) == ""
    image = load_registered(source, target, [PIXEL_NM, PIXEL_NM])
    judged = find_in_image(image, default(DefectSettings))[0]
    assert sum(len(site.cells) for site in judged.kinds) > 0.75 * found.mask.sum() * len(known.columns)
    listed = image.coordinates.seen_px(np.array([d.uv for d in judged.defects if d.kind != "extended"]))
    uv = np.array([(c.u, c.v) for c in known.columns])
    for defect in emptied:
        place = scan.origin_px + (np.array(defect.cell) + uv[defect.column]) @ scan.vectors_px
        away = np.hypot(*(listed - place).T)
        nearest = judged.defects[int(away.argmin())]
        assert away.min() < 2.0 and nearest.column == defect.column, (defect, away.min())
        assert nearest.change < -0.8
    assert len(listed) <= len(emptied) + 2
