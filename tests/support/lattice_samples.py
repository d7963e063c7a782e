"""Crystals, random conditions and counted errors shared by the tests of the tile stage."""

from pathlib import Path

import numpy as np

from oddlattice.crystal import Crystal, crystal_from_dict, load_crystal
from oddlattice.lattice.registration import Registration
from oddlattice.simulate.columnwise import Conditions, Scan

SRTIO3 = load_crystal(Path(__file__).parents[2] / "models" / "srtio3_001" / "crystal.yaml")


def crystal(name: str, a: float, b: float, gamma: float, columns: list[tuple[str, float, float, str]]) -> Crystal:
    """Crystal of single-element columns (site, u, v, element)."""
    found = {
        "name": name,
        "a_nm": a,
        "b_nm": b,
        "gamma_deg": gamma,
        "repeat_nm": 0.4,
        "columns": [{"site": site, "u": u, "v": v, "atoms": {element: 1}} for site, u, v, element in columns],
    }
    return crystal_from_dict(found, Path(name))


MOS2_120 = crystal("mos2_120", 0.316, 0.316, 120, [("Mo", 0, 0, "Mo"), ("S", 2 / 3, 1 / 3, "Ge")])
MOS2_60 = crystal("mos2_60", 0.316, 0.316, 60, [("Mo", 0, 0, "Mo"), ("S", 1 / 3, 1 / 3, "Ge")])
OBLIQUE = crystal("oblique", 0.55, 0.42, 78, [("A", 0, 0, "La"), ("B", 0.4, 0.55, "Ti"), ("C", 0.7, 0.2, "Fe")])


def draw_conditions(rng: np.random.Generator, pixel_nm: float | None = None) -> Conditions:
    """Random conditions over the range an archive holds."""
    return Conditions(
        pixel_nm=pixel_nm or float(rng.uniform(0.010, 0.020)),
        rotation_deg=float(rng.uniform(0, 90)),
        strain=tuple(float(x) for x in rng.uniform(-0.03, 0.03, 4)),  # type: ignore[arg-type]
        thickness_nm=float(rng.uniform(4, 30)),
        thickness_gradient=tuple(float(x) for x in rng.uniform(-0.5, 0.5, 2)),  # type: ignore[arg-type]
        blur_nm=float(rng.uniform(0.03, 0.05)),
        background=float(rng.uniform(0.002, 0.02)),
        contamination=float(rng.uniform(0, 0.3)),
        dose_e_px=float(np.exp(rng.uniform(np.log(50), np.log(5000)))),
        jitter_pm=float(rng.uniform(0, 8)),
        drift_nm=tuple(float(x) for x in rng.uniform(-0.1, 0.1, 2)),  # type: ignore[arg-type]
    )


def frame_error_pm(scan: Scan, found: Registration, crystal: Crystal, pixel_nm: float) -> float:
    """Root mean square distance of the columns in analysed cells from where the frame puts them [pm].

    A column of one kind taken for another is half a cell away and so cannot pass.
    """
    uv = np.array([(c.u, c.v) for c in crystal.columns])[scan.columns]
    away = found.frame.uv_at(scan.places_px) - uv
    cell = np.floor(found.frame.uv_at(scan.places_px)).astype(int) - np.array(found.first)
    tested = np.array([c.tested for c in crystal.columns])[scan.columns]
    known = (cell >= 0).all(1) & (cell < np.array(found.mask.shape)).all(1) & tested
    known[known] = found.mask[cell[known, 0], cell[known, 1]]
    error = (away - np.rint(away))[known] @ found.frame.vectors_px * pixel_nm * 1000
    return float(np.sqrt((error**2).sum(1).mean()))


def true_row_shift_px(conditions: Conditions, rows: int, seed: int) -> np.ndarray:
    """Row shifts that `simulate_scan` draws with this seed and a drawn origin [px]."""
    rng = np.random.default_rng(seed)
    rng.random(2)
    return rng.normal(0.0, conditions.jitter_pm / 1000 / conditions.pixel_nm, rows)
