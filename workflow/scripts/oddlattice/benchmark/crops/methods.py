"""Crops of one size and any phase: every method of the pipeline, and the published one, on all sets; one table.

Everything is decided by bulk crops for training; the other sets are only scored. The score of a crop is that of its
oddest column; where the crops share no lattice, and of the published network, that of its largest difference.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from scipy.ndimage import gaussian_filter

from oddlattice.benchmark import published
from oddlattice.benchmark.crops.cell import Cell, Fit, joined, predict
from oddlattice.benchmark.crops.columns import (
    Canvas,
    Judge,
    crop_scores,
    find_sites,
    lay_out,
    learn_judges,
    seen_from_crops,
)
from oddlattice.benchmark.crops.fit import fit_crops
from oddlattice.benchmark.crops.learning import learn_cell, scanned_down
from oddlattice.benchmark.crops.sets import TEST, TRAIN
from oddlattice.benchmark.crops.sheet import AT_ONCE, Sheet, beyond_cell, train_network
from oddlattice.benchmark.separation import auroc
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.intervals import wilson
from oddlattice.predict.methods import METHODS, Network
from oddlattice.storage.rows import Row

Say = Callable[[str], None]

PUBLISHED = "published"
PUBLISHED_EPOCHS, PUBLISHED_RATE = 20, 1e-3  # 200 and 1e-4 as published, which take hours on two cores
CELL_CROPS = 400  # crops from which the cell is learned, evenly taken
ROUNDS = 3
DIRECTION_CROPS = 100  # crops that tell the direction of the scan
SMOOTH_PX = 2.0  # differences without a lattice are smoothed over about a column before the largest is taken
CHUNK = 64
RATES = (0.01, 0.001)


# ---- the scale the published rule is told in


@dataclass(frozen=True)
class Scale:
    """Unit of the published method: crops over their own mean, and over the brightest of bulk.

    Attributes
    ----------
    top : float
        99.9th percentile of blurred bulk crops, each over its mean.
    ground : float
        Taken away first [counts]; 0 unless values are negative.
    """

    top: float
    ground: float

    def units(self, crops: Float) -> Float:
        """Unit of each crop [counts]; shape (n, 1, 1)."""
        mean = (crops - self.ground).mean(axis=(1, 2), keepdims=True)
        return np.asarray(np.maximum(mean, 1e-6) * self.top, dtype=np.float32)

    def prepared(self, crops: Float) -> Float:
        """Crops as the published network sees them, in [0, 1]."""
        smooth = gaussian_filter(crops - self.ground, (0, published.BLUR_PX, published.BLUR_PX)) / self.units(crops)
        return np.asarray(np.clip(smooth, 0, 1), dtype=np.float32)

    def difference(self, crops: Float, predicted: Float) -> Float:
        """Difference of crops from predictions in counts, as the published rule takes it."""
        smooth = gaussian_filter(crops - predicted, (0, published.BLUR_PX, published.BLUR_PX))
        return np.asarray(smooth / self.units(crops), dtype=np.float32)


def find_scale(train: Float) -> Scale:
    """The scale of a set of bulk crops."""
    low = float(np.quantile(train, 0.001))
    ground = min(low, 0.0)
    mean = (train - ground).mean(axis=(1, 2), keepdims=True)
    blurred = gaussian_filter(train - ground, (0, published.BLUR_PX, published.BLUR_PX)) / np.maximum(mean, 1e-6)
    return Scale(float(np.quantile(blurred, 0.999)), ground)


# ---- methods


@dataclass(frozen=True)
class Result:
    """What a method says of n crops: the larger `score`, the odder; `anm` is the published score."""

    score: Array
    anm: Array


Evaluate = Callable[[Float], Result]


def learn_published(train: Float, scale: Scale, epochs: int, seed: int, say: Say) -> Evaluate:
    """The published network, trained on bulk crops as they are; its score is how far its own is from that of bulk."""
    network = published.train_published(scale.prepared(train), epochs, seed, say, PUBLISHED_RATE)

    def near_maximum(crops: Float) -> Array:
        patches = scale.prepared(crops)
        return published.average_near_maximum(patches - published.predict(network, patches))

    middle = float(near_maximum(train).mean())

    def evaluate(crops: Float) -> Result:
        anm = near_maximum(crops)
        return Result(np.abs(anm - middle), anm)

    return evaluate


@dataclass(frozen=True)
class Laid:
    """Crops on the lattice they share: how they lie, the cell as they show it [counts], and what they are beside it."""

    fit: Fit
    of_cell: Float
    canvas: Canvas
    sheet: Sheet

    @classmethod
    def of(cls, cell: Cell, crops: Float, workers: int) -> "Laid":
        """Lay crops (n, 64, 64) on a cell."""
        parts = [crops[start : start + CHUNK] for start in range(0, len(crops), CHUNK)]
        with ThreadPoolExecutor(workers) as pool:
            fit = joined(list(pool.map(lambda part: fit_crops(cell, part)[0], parts)))
        of_cell = predict(cell, fit)
        rest = crops - of_cell
        return cls(fit, of_cell, lay_out(cell, fit, rest), Sheet.of(cell, fit, rest))


class OnLattice:
    """Crops that share a lattice: bulk by a method of the pipeline, matched kernels at every column.

    Parameters
    ----------
    train : ndarray of shape (n, 64, 64), float32
        Bulk, rows along the scan's fast axis (see `scan_rows_first`).
    """

    def __init__(self, train: Float, scale: Scale, cell: Cell, seed: int, workers: int, say: Say) -> None:
        self.scale, self.cell, self.workers, self.train = scale, cell, workers, Laid.of(cell, train, workers)
        self.bulk = self.train.sheet.part(slice(0, AT_ONCE))
        self.network: Network = train_network(self.train.sheet, cell, seed, say)
        torch.set_num_threads(workers)
        self.laid: tuple[Float, Laid] = train, self.train

    def learn(self, method: str) -> Evaluate:
        """Learn how bulk scatters about its prediction by a method; what then scores crops."""
        canvas = self.train.canvas
        left = canvas.rest - beyond_cell(method, self.train.sheet, self.network)
        judges = learn_judges(find_sites(self.cell), replace(canvas, rest=left))
        return lambda crops: self._evaluate(method, judges, crops)

    def _evaluate(self, method: str, judges: list[Judge], crops: Float) -> Result:
        if self.laid[0] is not crops:  # one set after the other, each by every method
            self.laid = crops, Laid.of(self.cell, crops, self.workers)
        laid = self.laid[1]
        drawn = beyond_cell(method, laid.sheet, self.network, self.bulk)
        scores = crop_scores(judges, replace(laid.canvas, rest=laid.canvas.rest - drawn))
        beyond = seen_from_crops(laid.canvas, drawn, self.cell, laid.fit) * laid.fit.brightness[:, :1, None]
        predicted = (laid.of_cell + beyond).astype(np.float32)
        return Result(scores, published.average_near_maximum(self.scale.difference(crops, predicted)))


def no_network(_tiles: Float, _mask: Mask) -> Float:
    """What stands for the network where there is none.

    Raises
    ------
    NoLatticeError
        Always.
    """
    raise NoLatticeError("a network needs a lattice that the crops share")


def off_lattice() -> list[str]:
    """Methods that can take a crop for a cell: of any size, and without what its neighbours on the sheet show."""
    return [name for name, method in METHODS.items() if method.any_cell and method.takes_residual]


def learn_off_lattice(method: str, train: Float, scale: Scale) -> Evaluate:
    """Crops that share no lattice: each is one cell of an image; differences over their spread in bulk."""
    bulk = train[:AT_ONCE]

    def predicted(crops: Float) -> Float:
        parts = [crops[start : start + len(bulk) // 2] for start in range(0, len(crops), len(bulk) // 2)]
        return np.concatenate([by_method(np.concatenate([bulk, part]))[len(bulk) :] for part in parts])

    def by_method(crops: Float) -> Float:
        units = crops.mean(axis=(1, 2), keepdims=True) - scale.ground
        tiles = ((crops - scale.ground) / units).reshape(-1, crops.shape[2]).astype(np.float32)
        mask = np.ones((len(crops), 1), np.uint8)
        found = METHODS[method].begin()(tiles, mask, no_network).reshape(crops.shape)
        return np.asarray(found * units + scale.ground, dtype=np.float32)

    def smooth(crops: Float, bulk_of_it: Float) -> Float:
        return np.asarray(gaussian_filter((crops - bulk_of_it) / scale.units(crops), (0, SMOOTH_PX, SMOOTH_PX)))

    off = smooth(train, predicted(train))
    spread = np.maximum(np.sqrt(gaussian_filter((off**2).mean(axis=0), SMOOTH_PX)), 1e-9)

    def evaluate(crops: Float) -> Result:
        found = predicted(crops)
        anm = published.average_near_maximum(scale.difference(crops, found))
        return Result((np.abs(smooth(crops, found)) / spread).max(axis=(1, 2)).astype(np.float64), anm)

    return evaluate


def scan_rows_first(crops: Float, down: bool) -> Float:
    """Crops (n, 64, 64) with the scan's fast axis last: what jitters are rows."""
    return np.ascontiguousarray(crops.transpose(0, 2, 1)) if down else crops


def find_cell(train: Float, say: Say) -> tuple[Cell | None, bool]:
    """The cell that bulk crops share, None where they share none, and whether the scan ran along their columns."""
    some = train[:: max(1, len(train) // CELL_CROPS)]
    try:
        cell, _ = learn_cell(some, ROUNDS)
        down = scanned_down(cell, some[:DIRECTION_CROPS])
        if down:
            cell, _ = learn_cell(scan_rows_first(some, down), ROUNDS)
            say("the scan ran along the columns of the crops: they are exchanged with the rows")
    except NoLatticeError as error:
        say(f"{error}; each crop is taken as a cell of its own, by the methods that can")
        return None, False
    a, b = (float(np.hypot(*vector)) for vector in cell.vectors_px)
    say(f"lattice: {a:.2f} x {b:.2f} px a cell, {len(find_sites(cell))} columns a cell")
    return cell, down


def score_all(
    sets: Mapping[str, Float], methods: Sequence[str], band_width: float, epochs: int, seed: int, workers: int, say: Say
) -> list[Row]:
    """Rows of the table: every method, trained on the bulk crops of `sets`, on every other set."""
    scale = find_scale(sets[TRAIN])
    cell, down = find_cell(sets[TRAIN], say)
    sets = {name: scan_rows_first(crops, down) for name, crops in sets.items()}
    ours = [method for method in methods if method != PUBLISHED and (cell or method in off_lattice())]
    trained: dict[str, Evaluate] = {}
    if cell is not None and ours:
        on = OnLattice(sets[TRAIN], scale, cell, seed, workers, say)
        trained = {method: on.learn(method) for method in ours}
    elif ours:
        trained = {method: learn_off_lattice(method, sets[TRAIN], scale) for method in ours}
    if PUBLISHED in methods:
        trained[PUBLISHED] = learn_published(sets[TRAIN], scale, epochs, seed, say)
    found: dict[str, dict[str, Result]] = {name: {} for name in trained}
    for name, crops in sets.items():
        for method, evaluate in trained.items():
            found[method][name] = evaluate(crops)
        say(f"scored: {name}")
    return [row for name in methods if name in found for row in rows_of(name, found[name], band_width)]


# ---- the table


def limit_at(bulk: Array, rate: float) -> float:
    """Score that at most `rate` of bulk crops exceed."""
    return float(np.sort(bulk)[::-1][int(rate * len(bulk) + 1e-9)])


def rows_of(method: str, found: Mapping[str, Result], band_width: float) -> list[Row]:
    """Rows of the table of one method, by what it says of every set: bulk_test and every defect.

    Limits of the false-positive rates are those of bulk_test; the band of the published rule is that of bulk_train.
    """
    band, bulk = published.Band.of(found[TRAIN].anm, band_width), found[TEST]
    rows: list[Row] = []
    for name, of_set in found.items():
        if name == TRAIN:
            continue
        n, flagged = len(of_set.score), int(band.outside(of_set.anm).sum())
        area, sigma = (None, None) if name == TEST else auroc(bulk.score, of_set.score)
        hits = [int((of_set.score > limit_at(bulk.score, rate)).sum()) for rate in RATES]
        row: Row = {"method": method, "set": name, "n": n, "auroc": area}
        row |= {"tpr_at_1pct_fpr": hits[0] / n, "tpr_at_0p1pct_fpr": hits[1] / n}
        row |= {"detected_published_rule": flagged / n, "auroc_se": sigma}
        for key, count in (("tpr_at_1pct", hits[0]), ("tpr_at_0p1pct", hits[1]), ("published_rule", flagged)):
            row[f"{key}_low"], row[f"{key}_high"] = wilson(count, n)
        rows.append(row)
    return rows


def table_lines(table: pl.DataFrame) -> list[str]:
    """The table as text, in per cent, one line a row."""
    width = max(len(str(name)) for name in [*table["set"], "set"])
    lines = [f"{'method':10} {'set':{width}} {'n':>6} {'AUROC':>7} {'1 %':>7} {'0.1 %':>7} {'rule':>7}"]
    for row in table.iter_rows(named=True):
        area = "" if row["auroc"] is None else f"{row['auroc']:.4f}"
        part = [f"{100 * row[key]:.1f}" for key in ("tpr_at_1pct_fpr", "tpr_at_0p1pct_fpr", "detected_published_rule")]
        lines.append(
            f"{row['method']:10} {row['set']:{width}} {row['n']:6d} {area:>7} " + " ".join(f"{p:>7}" for p in part)
        )
    return lines
