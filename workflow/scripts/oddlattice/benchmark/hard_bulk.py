"""Hard bulk: small fields in which conditions change fast or many columns are odd, in the lattice frame.

A field is made of an expected image of every cell (columns with tails, by Fourier synthesis), changed column by column,
counted with Poisson noise and divided by its local mean, as the tile stage leaves an image. So the prediction of bulk
alone is measured. The recipe and the seeds below were written down before any network was trained for it; the
development half is what a width or a switch may be tuned on.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.ndimage import gaussian_filter, map_coordinates

from oddlattice.crystal import CELL_PX, PX_PER_CELL, Column, Crystal
from oddlattice.defects.kernels import estimates, make_kernel
from oddlattice.defects.noise import estimate_noise
from oddlattice.lattice.cell_statistics import LOCAL_MEAN_CELLS
from oddlattice.lattice.columns import as_cells, column_cells, mean_cell
from oddlattice.lattice.shapes import fit_shapes
from oddlattice.model.simulated_bulk import column_stamp, mean_cells
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.predict.methods import METHODS
from oddlattice.predict.own_residual import own_residual
from oddlattice.process.parent_death import die_with_parent
from oddlattice.storage.rows import Row

Predict = Callable[[Float, Mask], Float]

SEEDS = {"development": 4_130_001, "test": 4_130_002}
SIDES = (6, 8, 10, 12)  # cells: fields of 36 to 144 cells
STRATA = (
    "quiet",
    "wedge",
    "step",
    "bend",
    "defocus",
    "contamination",
    "5 % odd",
    "15 % odd",
    "30 % odd",
    "wedge, 15 % odd",
    "wedge, bend, defocus",
)
PLANTED = 0.08  # part of a column that is added or taken away
IDEAL_DPRIME = 8.0  # of that change in the first column: it sets the dose
WEDGE_PER_CELL = 1 / 15  # thickness changes by 50 % up and down within 15 cells
STEP = 0.5  # of the thickness
BEND = 0.022  # elongation of the columns at the field's ends [nm]
DEFOCUS = 0.5  # part by which the columns are wider at the field's end
ODD_SHIFT = 0.35  # largest part by which a population's columns are brighter or darker
SPACING_CELLS = 3  # between planted defects
READ_OUT = 0.5  # noise of the detector [electrons]
RESAMPLES = 2000
RESIDUAL_CELLS = 3.0  # width of `template`'s own residual, tuned on the development half
COMPARED = {
    "stratum": pl.String,
    "method": pl.String,
    "fields": pl.Int64,
    "defects": pl.Int64,
    "efficiency": pl.Float64,
    "efficiency_template": pl.Float64,
    "ahead": pl.Float64,
    "ahead_low": pl.Float64,
    "ahead_high": pl.Float64,
}

#: a [nm], b [nm], gamma [deg]; u, v, brightness of the columns. None of them is a motif that training draws.
CELLS: dict[str, tuple[tuple[float, float, float], tuple[tuple[float, float, float], ...]]] = {
    "perovskite [001]": ((0.390, 0.390, 90.0), ((0.0, 0.0, 1.0), (0.5, 0.5, 0.72))),
    "perovskite [110]": ((0.390, 0.552, 90.0), ((0.0, 0.0, 1.0), (0.5, 0.0, 0.2), (0.5, 0.5, 0.75))),
    "hexagonal sheet": ((0.316, 0.316, 120.0), ((0.0, 0.0, 1.0), (2 / 3, 1 / 3, 0.45))),
    "dumbbells": ((0.458, 0.648, 90.0), ((0.0, 0.0, 1.0), (0.0, 0.25, 0.85), (0.5, 0.5, 1.0), (0.5, 0.75, 0.85))),
    "fluorite [001]": ((0.383, 0.383, 90.0), ((0.0, 0.0, 1.0), (0.5, 0.5, 0.15))),
    "body-centred": ((0.287, 0.287, 90.0), ((0.0, 0.0, 1.0),)),
    "oblique": ((0.42, 0.36, 78.0), ((0.0, 0.0, 1.0), (0.42, 0.53, 0.5))),
    "wurtzite": ((0.319, 0.518, 90.0), ((0.0, 0.0, 1.0), (0.5, 0.5, 1.0))),
}


def crystal_of(name: str) -> Crystal:
    """A crystal of the suite."""
    (a, b, gamma), columns = CELLS[name]
    made = tuple(Column(chr(65 + k), u, v, {}, 0.008, True, bright) for k, (u, v, bright) in enumerate(columns))
    return Crystal(name, a, b, gamma, 0.4, made)


@dataclass(frozen=True)
class Planted:
    """A defect of known contrast.

    Attributes
    ----------
    column : int
    cell : tuple of int
    part : float
        Of the column's intensity that is added; negative: taken away.
    dprime : float
        Of an observer who knows bulk, signal and place.
    """

    column: int
    cell: tuple[int, int]
    part: float
    dprime: float


@dataclass(frozen=True)
class HardField:
    """A field as the tile stage leaves it.

    Attributes
    ----------
    tiles : ndarray of shape (U * 20, V * 20), float32
    planted : tuple of Planted
    bulk : ndarray of shape (columns, U, V), bool
        Columns that are not odd, in cells without a planted defect.
    """

    crystal: Crystal
    tiles: Float
    planted: tuple[Planted, ...]
    bulk: npt.NDArray[np.bool_]

    @property
    def mask(self) -> Mask:
        """All cells are analysed."""
        return np.ones(self.bulk.shape[1:], dtype=np.uint8)


@dataclass(frozen=True)
class Conditions:
    """Conditions in every cell (U, V): thickness and width of the columns (factors), bend (U, V, 2) [nm], dirt."""

    thickness: Array
    width: Array
    bend: Array
    dirt: Array


def conditions_of(stratum: str, side: int, rng: np.random.Generator) -> Conditions:
    """Conditions of a stratum; what it does not name is constant."""
    angle = rng.uniform(0, 2 * np.pi)
    u, v = np.meshgrid(np.arange(side) - (side - 1) / 2, np.arange(side) - (side - 1) / 2, indexing="ij")
    along = u * np.cos(angle) + v * np.sin(angle)
    part = along / max(np.abs(along).max(), 1e-9)  # -1 to 1 over the field
    thickness, width = np.ones((side, side)), np.ones((side, side))
    bend, dirt = np.zeros((side, side, 2)), np.zeros((side, side))
    if "wedge" in stratum:
        thickness = np.clip(1 + WEDGE_PER_CELL * along, 0.4, 1.6)
    if "step" in stratum:
        edge = rng.uniform(-0.3, 0.3) * side
        thickness = np.where(along > edge, 1 + STEP * rng.choice([-1.0, 1.0]), 1.0)
    if "bend" in stratum:
        turn = rng.uniform(0, 2 * np.pi)
        bend = BEND * part[..., None] * np.array([np.cos(turn), np.sin(turn)])
    if "defocus" in stratum:
        width = 1 + DEFOCUS * (part + 1) / 2
    if "contamination" in stratum:
        centre = rng.uniform(-0.3, 0.3, 2) * side
        reach = rng.uniform(1.5, 3.0)
        dirt = rng.uniform(0.5, 1.5) * np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / (2 * reach**2))
    return Conditions(thickness, width, bend, dirt)


def odd_part(stratum: str) -> float:
    """Part of one site's columns that a stratum makes odd."""
    return next((float(word.split(" %")[0]) / 100 for word in stratum.split(", ") if "% odd" in word), 0.0)


class _Columns:
    """The columns of a field under its conditions, one image at a time."""

    def __init__(self, crystal: Crystal, conditions: Conditions, rng: np.random.Generator) -> None:
        self.crystal, self.shape = crystal, conditions.thickness.shape
        n, k = conditions.thickness.size, len(crystal.columns)
        bright = np.array([column.brightness for column in crystal.columns])
        grows = rng.uniform(0.6, 1.3, k)  # each column's own response to thickness
        bend = conditions.bend.reshape(n, 2)
        channels = np.exp(-rng.uniform(0.2, 0.8, k) * (np.hypot(*bend.T)[:, None] / BEND) ** 2)
        self.weights = bright * conditions.thickness.reshape(n, 1) ** grows * channels
        thickest = 0.115 * np.sqrt(crystal.area_nm2 / k)  # columns about as wide as they are resolved
        round_nm2 = (thickest * rng.uniform(0.9, 1.2) * conditions.width.reshape(n)) ** 2
        stretched = bend[:, :, None] * bend[:, None, :] * 1.5
        self.covariance_nm2 = np.repeat((round_nm2[:, None, None] * np.eye(2) + stretched)[:, None], k, axis=1)
        self.tail = np.full(n, rng.uniform(0.05, 0.25))
        self.ground = rng.uniform(0.05, 0.4) * bright.sum() * (1 + conditions.dirt.reshape(n) * 3)

    def bulk(self) -> Array:
        """Expected bulk (U * 20, V * 20)."""
        found = mean_cells(self.crystal, self.weights, self.covariance_nm2, self.tail, np.zeros((len(self.tail), 2)))
        flat = np.zeros((self.shape[0] * CELL_PX, self.shape[1] * CELL_PX))
        as_cells(flat, PX_PER_CELL)[:] = (found + self.ground[:, None, None]).reshape(*self.shape, CELL_PX, CELL_PX)
        return flat

    def added(self, column: int, cell: tuple[int, int], part: float) -> tuple[tuple[slice, slice], Array]:
        """What `part` of one more column adds, on the patch of 2 x 2 cells about its cell's corner side (40, 40)."""
        k = cell[0] * self.shape[1] + cell[1]
        place = np.array([[self.crystal.columns[column].u - 0.5, self.crystal.columns[column].v - 0.5]])
        stamp = column_stamp(self.crystal, place, self.covariance_nm2[k, column][None])[0]
        top, left = (CELL_PX * c + CELL_PX // 2 for c in cell)  # in an image with a rim of one cell
        where = slice(top, top + 2 * CELL_PX), slice(left, left + 2 * CELL_PX)
        return where, self.weights[k, column] * (1 - self.tail[k]) * part * stamp


def compose(stratum: str, name: str, side: int, seed: int) -> HardField:
    """A field of a stratum."""
    rng = np.random.default_rng(seed)
    crystal = crystal_of(name)
    columns = _Columns(crystal, conditions_of(stratum, side, rng), rng)
    expected = np.pad(columns.bulk(), CELL_PX)  # columns at the field's edge reach over it
    bulk = np.ones((len(crystal.columns), side, side), dtype=np.bool_)
    visible = [k for k, column in enumerate(crystal.columns) if column.brightness > 0.3]
    cells = [(u, v) for u in range(1, side - 1, SPACING_CELLS) for v in range(1, side - 1, SPACING_CELLS)]
    planted = [(int(rng.choice(visible)), cell, float(rng.choice([-PLANTED, PLANTED]))) for cell in cells]
    site = int(rng.choice(visible))
    odd = rng.random((side, side)) < odd_part(stratum)
    odd[tuple(np.array(cells).T)] = False
    shift = float(rng.choice([-1.0, 1.0])) * ODD_SHIFT
    for u, v in np.argwhere(odd):
        where, change = columns.added(site, (int(u), int(v)), shift * rng.uniform(0.6, 1.0))
        expected[where] += change
    bulk[site] &= ~odd
    signals = [columns.added(*defect) for defect in planted]
    first = columns.added(visible[0], cells[0], PLANTED)
    scale = IDEAL_DPRIME**2 / float((first[1] ** 2 / np.maximum(expected[first[0]], 1e-3)).sum())
    found = []
    for (column, cell, part), (where, change) in zip(planted, signals, strict=True):
        dprime = float(
            np.sqrt(((scale * change) ** 2 / (scale * np.maximum(expected[where], 1e-3) + READ_OUT**2)).sum())
        )
        found.append(Planted(column, cell, part, dprime))
        bulk[:, cell[0], cell[1]] = False
        expected[where] += change
    electrons = rng.poisson(np.maximum(expected[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX], 0) * scale)
    counts = electrons + rng.normal(0, READ_OUT, electrons.shape)
    return HardField(crystal, divided(counts), tuple(found), bulk)


def divided(counts: Array) -> Float:
    """Counts over their local mean, which follows the cells over LOCAL_MEAN_CELLS."""
    means = as_cells(counts, PX_PER_CELL).mean(axis=(2, 3))
    weight = gaussian_filter(np.ones_like(means), LOCAL_MEAN_CELLS, mode="constant")
    smooth = gaussian_filter(means, LOCAL_MEAN_CELLS, mode="constant") / weight
    lines = [(np.arange(n * CELL_PX) + 0.5) / CELL_PX - 0.5 for n in means.shape]
    at = np.meshgrid(*lines, indexing="ij")
    return np.asarray(counts / map_coordinates(smooth, at, order=1, mode="nearest"), dtype=np.float32)


@dataclass(frozen=True)
class Score:
    """Of one field: sum over planted defects of the signed score in units of bulk's scatter, and of the ideal d'."""

    seen: float
    ideal: float
    defects: int
    bulk: int


def score(field: HardField, predict: Predict) -> Score:
    """How planted defects stand out of bulk: the kernel's estimate, less bulk's mean, over the scatter of bulk."""
    prediction = predict(field.tiles, field.mask)
    difference = field.tiles - prediction
    noise = estimate_noise(difference, field.mask)
    shapes = {s.site: s for s in fit_shapes(mean_cell(prediction, field.mask), field.crystal.columns)}
    seen = ideal = 0.0
    defects = number = 0
    for k, column in enumerate(field.crystal.columns):
        mine = [p for p in field.planted if p.column == k]
        ideal, defects = ideal + sum(p.dprime for p in mine), defects + len(mine)
        shape = shapes.get(column.site)
        if shape is None or not mine:
            continue  # what cannot be tested counts as missed
        cells = column_cells(field.mask, shape)
        kernel = make_kernel(shape, noise, field.crystal.vectors_nm * 1000)
        z = estimates(difference, shape, kernel, cells)[:, 0] / noise.level[cells[:, 0], cells[:, 1]]
        sound = field.bulk[k][cells[:, 0], cells[:, 1]]
        if sound.sum() < 8:
            continue
        number += int(sound.sum())
        of = {(int(u), int(v)): value for (u, v), value in zip(cells, z, strict=True)}
        middle, spread = float(z[sound].mean()), float(z[sound].std(ddof=1))
        seen += sum(np.sign(p.part) * (of[p.cell] - middle) / spread for p in mine if p.cell in of)
    return Score(float(seen), float(ideal), defects, number)


def fields_of(half: str, per_stratum: int) -> list[tuple[str, str, int, int]]:
    """Stratum, crystal, side and seed of every field of a half, ``development`` or ``test``."""
    jobs, names = [], list(CELLS)
    for s, stratum in enumerate(STRATA):
        for k in range(per_stratum):
            seed = int(np.random.SeedSequence([SEEDS[half], s, k]).generate_state(1)[0])
            jobs.append((stratum, names[k % len(names)], SIDES[(k // len(names)) % len(SIDES)], seed))
    return jobs


def scores_of(jobs: Sequence[tuple[str, str, int, int]], methods: dict[str, Predict]) -> list[Row]:
    """A row for each field and method: stratum, crystal, side, seed, method, seen, ideal, defects, bulk."""
    rows: list[Row] = []
    for stratum, name, side, seed in jobs:
        field = compose(stratum, name, side, seed)
        about = {"stratum": stratum, "crystal": name, "side": side, "seed": seed}
        rows += [about | {"method": method} | vars(score(field, predict)) for method, predict in methods.items()]
    return rows


def compared(scores: Sequence[Row], method: str, baseline: str = "template", seed: int = 0) -> list[Row]:
    """Efficiency of a method and of the baseline in each stratum, and their difference with its paired 95 % interval.

    Efficiency is the sum of scores over the sum of ideal d'. Fields are drawn again with replacement, both methods on
    the same ones.
    """
    rows: list[Row] = []
    for stratum in dict.fromkeys(row["stratum"] for row in scores):
        here = [row for row in scores if row["stratum"] == stratum]
        mine, theirs = ({row["seed"]: row for row in here if row["method"] == name} for name in (method, baseline))
        seen, base, ideal = (
            np.array([of[key][k] for key in mine]) for of, k in ((mine, "seen"), (theirs, "seen"), (mine, "ideal"))
        )
        drawn = np.random.default_rng(seed).integers(0, len(mine), (RESAMPLES, len(mine)))
        low, high = np.quantile((seen - base)[drawn].sum(1) / ideal[drawn].sum(1), [0.025, 0.975])
        rows.append(
            {
                "stratum": stratum,
                "method": method,
                "fields": len(mine),
                "defects": sum(row["defects"] for row in mine.values()),
                "efficiency": float(seen.sum() / ideal.sum()),
                f"efficiency_{baseline}": float(base.sum() / ideal.sum()),
                "ahead": float((seen - base).sum() / ideal.sum()),
                "ahead_low": float(low),
                "ahead_high": float(high),
            }
        )
    return rows


def predicted_by(method: str, tiles: Float, mask: Mask) -> Float:
    """A method's prediction of one field, by what needs no model of the crystal."""
    raw = METHODS[method].begin()(tiles, mask, lambda seen, _: seen)
    if not METHODS[method].takes_residual:
        return raw
    return np.asarray(raw + own_residual(tiles - raw, mask, RESIDUAL_CELLS), dtype=np.float32)


def _scored(job: tuple[str, str, int, int], methods: Sequence[str]) -> list[Row]:
    return scores_of([job], {method: partial(predicted_by, method) for method in methods})


def hard_bulk_table(per_stratum: int, methods: Sequence[str], threads: int) -> pl.DataFrame:
    """The test half, `per_stratum` fields of each stratum: methods for any cell against `template` (`compared`)."""
    measured = [name for name in methods if name in METHODS and METHODS[name].any_cell]
    others = [name for name in measured if name != "template"]
    if not others or "template" not in measured:
        return pl.DataFrame(schema=COMPARED)
    jobs = fields_of("test", per_stratum)
    with ProcessPoolExecutor(max(1, threads), get_context("spawn"), die_with_parent, (os.getpid(),)) as pool:
        rows = [row for found in pool.map(partial(_scored, methods=measured), jobs) for row in found]
    return pl.DataFrame([row for name in others for row in compared(rows, name)], schema=COMPARED)
