"""Images of several grains: the recipe of the trial, and the rules by which what is found is held against the truth.

`python -m bench.grains --first SEED --count N` prints the figures. Which seed the figures in the changelog or in an
issue were made with is said beside them.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from oddlattice.defects.kinds import NO_POINTS
from oddlattice.numerics.arrays import Array
from support.grain_fields import SAMPLES, GrainField, column_distance_nm, disorientation_deg, make_grains, middles_of

CLEAR = 8.0  # d' of an ideal observer from which a defect is clear
NEAR = 0.3  # of the distance between columns: a listed column this near to a changed one is it
LEAST_DEG = 5.0
LEAST_AREA_CELLS = 64  # of a grain: about 36 whole cells lie in it
NAMES = sorted(SAMPLES)


def recipe(seed: int) -> GrainField:
    """Image number `seed` of the trial: 2 to 4 grains, of one crystal or of several, 5 degrees apart at least."""
    rng = np.random.default_rng((15, seed))
    count = int(rng.choice([2, 2, 3, 4]))
    first = str(rng.choice(NAMES))
    names = tuple(first if k == 0 or rng.random() < 0.6 else str(rng.choice(NAMES)) for k in range(count))
    while True:
        turns = tuple(float(x) for x in rng.uniform(0, 180, count))
        pairs = [(i, j) for i in range(count) for j in range(i) if names[i] == names[j]]
        if all(disorientation_deg(names[i], turns[i], turns[j]) > LEAST_DEG for i, j in pairs):
            break
    return _made(names, turns, rng, seed)


def low_angle(seed: int) -> GrainField:
    """Two grains of one crystal, 2 to 5 degrees apart."""
    rng = np.random.default_rng((16, seed))
    name, turn = str(rng.choice(NAMES)), float(rng.uniform(0, 180))
    return _made((name, name), (turn, turn + float(rng.uniform(2, 5))), rng, seed)


def single(seed: int) -> GrainField:
    """One crystal."""
    rng = np.random.default_rng((17, seed))
    return _made((str(rng.choice(NAMES)),), (float(rng.uniform(0, 180)),), rng, seed)


def at_seams(seed: int) -> GrainField:
    """As `recipe`, with changed columns up to half a cell from the boundaries."""
    truth = recipe(seed)
    rng = np.random.default_rng((18, seed))
    return _made(truth.names, truth.rotations_deg, rng, seed, from_line_cells=0.5)


def pair(seed: int) -> GrainField:
    """Two grains of one crystal, 5 degrees apart at least; every second scan is sheared by 2 %."""
    rng = np.random.default_rng((19, seed))
    name = str(rng.choice(NAMES))
    while True:
        turns = (float(rng.uniform(0, 180)), float(rng.uniform(0, 180)))
        if disorientation_deg(name, *turns) > LEAST_DEG:
            break
    return _made((name, name), turns, rng, seed, shear=0.02 * (seed % 2))


def _made(
    names: tuple[str, ...],
    turns: tuple[float, ...],
    rng: np.random.Generator,
    seed: int,
    from_line_cells: float = 1.5,
    shear: float | None = None,
) -> GrainField:
    side = int(rng.integers(480, 641))
    nearest = min(column_distance_nm(SAMPLES[name]) for name in names)
    pixel_nm = max(nearest / rng.uniform(8, 13), 0.008)
    middles = middles_of(len(names), rng)
    cells_px2 = np.array([SAMPLES[name].area_nm2 for name in names]) / pixel_nm**2
    side = max(side, int(np.sqrt((LEAST_AREA_CELLS * cells_px2 / shares(middles)).max())))
    drawn = float(rng.choice([0.0, rng.uniform(-0.02, 0.02)]))
    dose = float(np.exp(rng.uniform(np.log(150), np.log(1200))))
    jitter_pm = float(rng.uniform(2, 6))
    return make_grains(
        names,
        turns,
        side_px=side,
        pixel_nm=float(pixel_nm),
        dose=dose,
        jitter_pm=jitter_pm,
        shear=drawn if shear is None else shear,
        from_line_cells=from_line_cells,
        middles=middles,
        seed=seed,
    )


KINDS = {"recipe": recipe, "low": low_angle, "single": single, "seam": at_seams, "pair": pair}


def shares(middles: Array) -> Array:
    """Part of the image that each grain takes."""
    pixels = (np.stack(np.indices((64, 64)), -1).reshape(-1, 2) + 0.5) / 64
    return np.bincount(cKDTree(middles).query(pixels)[1], minlength=len(middles)) / len(pixels)


@dataclass
class Score:
    """How far a label map is from the truth.

    Attributes
    ----------
    right, counted : int
        Pixels more than a cell from the true line, and those of them in the right grain.
    line_cells : ndarray
        Distance of each pixel of the found line from the true one [cells].
    grains, found : int
    """

    right: int
    counted: int
    line_cells: Array
    grains: int
    found: int


def lines_of(labels: np.ndarray) -> np.ndarray:
    """Pixels at which two grains meet, what is no grain (0) left out."""
    edge = np.zeros(labels.shape, dtype=bool)
    for axis in range(2):
        a, b = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        np.moveaxis(edge, axis, 0)[:-1] |= (a != b) & (a > 0) & (b > 0)
    return edge


def score_labels(found: np.ndarray, truth: GrainField) -> Score:
    """Hold a label map (rows, cols), 0 no grain, against the truth; grains are matched by their common area."""
    true = truth.labels
    common = np.zeros((true.max() + 1, found.max() + 1))
    np.add.at(common, (true, found), 1)
    first, second = linear_sum_assignment(-common[1:, 1:])
    match = {int(b) + 1: int(a) + 1 for a, b in zip(first, second, strict=True)}
    named = np.vectorize(lambda k: match.get(k, 0))(np.arange(found.max() + 1))[found]
    line = lines_of(true)
    away = ndimage.distance_transform_edt(~line) if line.any() else np.full(true.shape, np.inf)
    far = away > truth.cell_px
    return Score(
        int((named == true)[far].sum()),
        int(far.sum()),
        away[lines_of(found)] / truth.cell_px if line.any() else np.empty(0),
        int(true.max()),
        int(found.max()),
    )


@dataclass
class Listed:
    """Defects of one image or of many: clear ones, those of them listed, all listed points, false ones among them."""

    clear: int = 0
    hit: int = 0
    listed: int = 0
    false: int = 0
    seam: int = 0
    regions: int = 0
    missed: list[str] = field(default_factory=list)

    def add(self, other: "Listed") -> None:
        """Count another image's, too."""
        for key in ("clear", "hit", "listed", "false", "seam", "regions"):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.missed += other.missed


def score_defects(defects: pl.DataFrame, truth: GrainField) -> Listed:
    """Point defects outside regions, matched one to one to the changed columns nearest to them.

    `seam` of the false ones are within a cell of the true line; `regions` are listed as extended.
    """
    points = defects.filter(~pl.col("kind").is_in(NO_POINTS) & ~pl.col("in_region").fill_null(False))
    at = points.select("row_px", "col_px").to_numpy().astype(float)
    changed = truth.places_px[truth.changed]
    near = np.array([NEAR * column_distance_nm(SAMPLES[n]) / truth.pixel_nm for n in truth.names])
    reach = near[truth.grain[truth.changed] - 1]
    taken = np.zeros(len(changed), dtype=bool)
    false, seam = 0, 0
    away = ndimage.distance_transform_edt(~lines_of(truth.labels)) if len(truth.names) > 1 else None
    for place in at:
        apart = np.hypot(*(changed - place).T)
        fits = (apart < reach) & ~taken
        if fits.any():
            taken[np.flatnonzero(fits)[apart[fits].argmin()]] = True
            continue
        false += 1
        r, c = np.clip(np.rint(place).astype(int), 0, np.array(truth.counts.shape) - 1)
        seam += int(away is not None and away[r, c] < truth.cell_px)
    clear = truth.d_ideal[truth.changed] >= CLEAR
    missed = [f"{truth.names[g - 1]} grain {g}" for g in truth.grain[truth.changed][clear & ~taken]]
    regions = defects.filter(pl.col("kind") == "extended").height
    return Listed(int(clear.sum()), int((clear & taken).sum()), len(at), false, seam, regions, missed)


def nearest_places(defects: pl.DataFrame, truth: GrainField) -> Array:
    """Distance of each listed defect from the nearest changed column [px]."""
    at = defects.select("row_px", "col_px").to_numpy().astype(float)
    return np.asarray(cKDTree(truth.places_px[truth.changed]).query(at)[0])


def through_pipeline(seeds: list[int], kind: str = "recipe") -> Listed:
    """Defects of these images of the trial as the stages list them."""
    from support.stages import through_the_stages

    total = Listed()
    for seed in seeds:
        truth = KINDS[kind](seed)
        start = time.process_time()
        with TemporaryDirectory() as folder:
            found = through_the_stages([(truth.counts, truth.pixel_nm)], Path(folder))
        one = score_defects(found["defects"], truth)
        row = found["images"].row(0, named=True)
        total.add(one)
        print(
            seed,
            "+".join(truth.names),
            row["state"],
            f"clear {one.hit}/{one.clear} listed {one.listed} false {one.false} (seam {one.seam})",
            f"regions {one.regions}",
            f"{time.process_time() - start:.0f} s",
            row["reason"][:100],
            flush=True,
        )
    return total


def main() -> None:
    """Print the figures of some images."""
    parser = argparse.ArgumentParser(prog="bench.grains", description=__doc__)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--kind", choices=tuple(KINDS), default="recipe")
    given = parser.parse_args()
    total = through_pipeline(list(range(given.first, given.first + given.count)), given.kind)
    print(f"clear {total.hit}/{total.clear}, false {total.false}/{total.listed} (seam {total.seam})", total.missed)


if __name__ == "__main__":
    main()
