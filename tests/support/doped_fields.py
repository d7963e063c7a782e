"""Scans of SrTiO3 [001] in which a share of the Sr columns is changed, at random; through the stages, in memory."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oddlattice.benchmark.jobs import Setup
from oddlattice.benchmark.run_fields import analysed, tiled
from oddlattice.defects.listing import Judged
from oddlattice.defects.registered import Registered
from oddlattice.lattice.register import fit_registration
from oddlattice.model.folder import load_model
from oddlattice.predict.predictor import Predictor
from oddlattice.run.settings import load_yaml

ROOT = Path(__file__).parents[2]
CELL_NM, PIXEL_NM, REACH_NM, RIM_PX = 0.3905, 0.0125, 0.32, 62
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Doped:
    """A scan and the places (n, 2) of its changed columns [px]."""

    counts: npt.NDArray[np.float32]
    changed_px: Array


def doped_scan(share: float, factor: float, seed: int, tail: float = 0.15, side_px: int = 480) -> Doped:
    """A share of the Sr columns scatters `factor` times as much; `tail` of each height is a Gaussian twice as wide.

    600 electrons a pixel at the Sr columns, 3 pm of row jitter.
    """
    rng = np.random.default_rng([seed, 14])
    turn = np.deg2rad(3 + 11 * seed)
    a = CELL_NM / PIXEL_NM * np.array([np.cos(turn), np.sin(turn)])
    b = np.array([-a[1], a[0]])
    line = np.arange(-40.0, 41.0)
    jitter = rng.normal(0.0, 0.003 / PIXEL_NM, side_px)
    image, changed = np.full((side_px, side_px), 0.25), []
    reach = REACH_NM / PIXEL_NM
    for fraction, height, sigma_px in ((0.0, 1.0, 4.2), (0.5, 0.48, 4.0)):
        u, v = np.meshgrid(line + fraction, line + fraction, indexing="ij")
        places = (side_px / 2 + 5 + u[..., None] * a + v[..., None] * b).reshape(-1, 2)
        for row, col in places[((places > -reach) & (places < side_px + reach)).all(axis=1)]:
            odd = fraction == 0.0 and rng.random() < share
            if odd:
                changed.append((row, col))
            rows = np.arange(max(int(row - reach), 0), min(int(row + reach) + 1, side_px))
            cols = np.arange(max(int(col - reach), 0), min(int(col + reach) + 1, side_px))
            square = (rows[:, None] - row) ** 2 + (cols[None, :] + jitter[rows, None] - col) ** 2
            bell = (1 - tail) * np.exp(-square / (2 * sigma_px**2)) + tail * np.exp(-square / (8 * sigma_px**2))
            image[np.ix_(rows, cols)] += height * (factor if odd else 1.0) * bell
    return Doped(rng.poisson(600 * image).astype(np.float32), np.array(changed).reshape(-1, 2))


@cache
def _stages() -> tuple[Predictor, Setup]:
    setup = Setup.of("", "", "", 1, load_yaml(ROOT / "config.yaml"))
    return Predictor(load_model(ROOT / "models/srtio3_001"), setup.infer, 1), setup


def judged(scan: Doped) -> tuple[Registered, Judged]:
    """The scan registered, predicted and judged with the shipped settings."""
    predictor, setup = _stages()
    model = load_model(ROOT / "models/srtio3_001")
    found = fit_registration(scan.counts, [model.crystal], (PIXEL_NM, PIXEL_NM))
    result = analysed(tiled(scan.counts, found, PIXEL_NM), model, predictor, PIXEL_NM, setup)
    assert not isinstance(result, str), result
    return result


@dataclass(frozen=True)
class Score:
    """How many changed columns were tested and found, how many were listed, and of these false and RIM_PX inside.

    At the rim the local mean is known less well than a list of false ones would need.
    """

    tested: int
    found: int
    listed: int
    false: int
    regions: int


def score(scan: Doped, rim_px: float = RIM_PX) -> Score:
    """What the stages make of a scan."""
    image, found = judged(scan)
    points = [d for d in found.defects if d.kind != "extended"]
    listed = image.coordinates.seen_px(np.array([d.uv for d in points]).reshape(-1, 2))
    sites = [site.cells[site.tested] + (site.shape.u, site.shape.v) for site in found.kinds]
    tested = image.coordinates.seen_px(np.concatenate(sites))
    apart = lambda first, second: np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
    near = 0.3 * CELL_NM / PIXEL_NM
    known = scan.changed_px[apart(scan.changed_px, tested).min(axis=1) < near]
    hit = (apart(known, listed) < near).any(axis=1)
    real = (apart(listed, scan.changed_px) < near).any(axis=1)
    inner = np.minimum(listed, np.array(scan.counts.shape) - 1 - listed).min(axis=1) > rim_px
    return Score(len(known), int(hit.sum()), len(listed), int((~real & inner).sum()), len(found.defects) - len(points))
