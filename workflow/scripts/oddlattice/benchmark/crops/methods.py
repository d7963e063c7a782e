"""Crops of one size and any phase: every method behind one interface, one table.

Everything is decided by bulk crops for training; the other sets are only scored. The score of a crop is that of its
oddest column (ours), or of its largest difference (the baselines).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import polars as pl
from scipy.ndimage import gaussian_filter

from oddlattice.benchmark import published
from oddlattice.benchmark.crops.columns import (
    CANVAS_PX,
    Canvas,
    Judge,
    autocorrelation,
    cell_sigma,
    crop_scores,
    find_sites,
    lay_out,
    learn_judges,
    seen_from_crops,
)
from oddlattice.benchmark.crops.lattice import (
    Cell,
    Fit,
    fit_crops,
    joined,
    learn_cell,
    predict,
    scanned_down,
    starting_fit,
    turned,
)
from oddlattice.benchmark.crops.sets import SIDE_PX, TEST, TRAIN
from oddlattice.benchmark.crops.vae import STEPS, Predictor, TrainingSet, train_predictor
from oddlattice.benchmark.separation import auroc
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.intervals import wilson
from oddlattice.predict.methods import COMPONENTS, principal_components

Say = Callable[[str], None]

PUBLISHED_EPOCHS, PUBLISHED_RATE = 20, 1e-3  # 200 and 1e-4 as published, which take hours on two cores
CELL_CROPS = 400  # crops from which the cell is learned, evenly taken
ROUNDS = 3
DIRECTION_CROPS = 100  # crops that tell the direction of the scan
SMOOTH_PX = 2.0  # differences of the baselines are smoothed over about a column before the largest is taken
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


class Method(Protocol):
    """A trained method."""

    def evaluate(self, crops: Float) -> Result:
        """Score crops (n, 64, 64)."""
        ...


def largest_difference(difference: Float) -> Array:
    """Largest absolute difference after smoothing; shape (n,)."""
    smooth = gaussian_filter(difference, (0, SMOOTH_PX, SMOOTH_PX))
    return np.asarray(np.abs(smooth).max(axis=(1, 2)), dtype=np.float64)


@dataclass(frozen=True)
class Template:
    """The mean crop, moved onto each crop by its Fourier phases; ground and brightness fitted."""

    scale: Scale
    cell: Cell | None
    mean: Float

    def evaluate(self, crops: Float) -> Result:
        """Score crops (n, 64, 64)."""
        if self.cell is not None:
            predicted = predict(self.cell, starting_fit(self.cell, crops))
        else:
            level = crops.mean(axis=(1, 2), keepdims=True)
            centred = self.mean - self.mean.mean()
            gain = ((crops - level) * centred).sum((1, 2), keepdims=True) / (centred**2).sum()
            predicted = level + gain * centred
        anm = published.average_near_maximum(self.scale.difference(crops, predicted))
        return Result(largest_difference((crops - predicted) / self.scale.units(crops)), anm)


@dataclass(frozen=True)
class Components:
    """Principal components of bulk crops, each crop over its unit."""

    scale: Scale
    mean: Float
    basis: Float

    def evaluate(self, crops: Float) -> Result:
        """Score crops (n, 64, 64)."""
        units = self.scale.units(crops)
        flat = (crops / units).reshape(len(crops), -1) - self.mean
        rest = (flat - (flat @ self.basis) @ self.basis.T).reshape(crops.shape).astype(np.float32)
        anm = published.average_near_maximum(self.scale.difference(crops, crops - rest * units))
        return Result(largest_difference(rest), anm)


def learn_components(train: Float, scale: Scale) -> Components:
    """As many principal components as the pipeline takes, of all crops: at any phase none of them is quieter."""
    flat = (train / scale.units(train)).reshape(len(train), -1)
    return Components(scale, *principal_components(flat, COMPONENTS))


@dataclass(frozen=True)
class Published:
    """The published network; its score is how far the average near maximum is from that of bulk."""

    scale: Scale
    network: published.PublishedVAE
    middle: float

    def evaluate(self, crops: Float) -> Result:
        """Score crops (n, 64, 64)."""
        patches = self.scale.prepared(crops)
        anm = published.average_near_maximum(patches - published.predict(self.network, patches))
        return Result(np.abs(anm - self.middle), anm)


def learn_published(train: Float, scale: Scale, epochs: int, seed: int, say: Say) -> Published:
    """Train the published network on bulk crops, as they are."""
    network = published.train_published(scale.prepared(train), epochs, seed, say, PUBLISHED_RATE)
    middle = float(Published(scale, network, 0.0).evaluate(train).anm.mean())
    return Published(scale, network, middle)


def scan_rows_first(crops: Float, scanned_down: bool) -> Float:
    """Crops (n, 64, 64) with the scan's fast axis last: what jitters are rows."""
    return crops.transpose(0, 2, 1) if scanned_down else crops


@dataclass(frozen=True)
class OnLattice:
    """Ours: the crop on its own lattice, bulk predicted by the VAE, matched kernels at every column.

    Where `scanned_down`, cell, network and judges are of crops with rows and columns exchanged.
    """

    scale: Scale
    cell: Cell
    predictor: Predictor
    judges: list[Judge]
    workers: int
    scanned_down: bool = False

    def evaluate(self, crops: Float) -> Result:
        """Score crops (n, 64, 64)."""
        crops = scan_rows_first(crops, self.scanned_down)
        parts = [crops[start : start + CHUNK] for start in range(0, len(crops), CHUNK)]
        with ThreadPoolExecutor(self.workers) as pool:
            results = list(pool.map(self._evaluate, parts))
        return Result(np.concatenate([r.score for r in results]), np.concatenate([r.anm for r in results]))

    def _evaluate(self, crops: Float) -> Result:
        fit, _, _ = fit_crops(self.cell, crops)
        of_cell = predict(self.cell, fit)
        canvas = lay_out(self.cell, fit, crops - of_cell)
        drawn = self.predictor.predict(canvas.rest, canvas.seen)
        scores = crop_scores(self.judges, replace(canvas, rest=canvas.rest - drawn))
        beyond = seen_from_crops(canvas, drawn, self.cell, fit) * fit.brightness[:, :1, None]
        predicted = (of_cell + beyond).astype(np.float32)
        return Result(scores, published.average_near_maximum(self.scale.difference(crops, predicted)))


def _fit_all(cell: Cell, crops: Float, workers: int) -> Fit:
    with ThreadPoolExecutor(workers) as pool:
        parts = [crops[start : start + CHUNK] for start in range(0, len(crops), CHUNK)]
        return joined(list(pool.map(lambda part: fit_crops(cell, part)[0], parts)))


def learn_on_lattice(train: Float, scale: Scale, cell: Cell, seed: int, workers: int, say: Say) -> OnLattice:
    """Train ours on bulk crops that share a cell."""
    fit = _fit_all(cell, train, workers)
    canvas = lay_out(cell, fit, train - predict(cell, fit))
    sites = find_sites(cell)
    sigma = cell_sigma(canvas)
    count = canvas.rest.shape[1] // CANVAS_PX
    data = TrainingSet(
        canvas.rest,
        canvas.seen,
        np.tile(sigma**2, (count, count)).astype(np.float32),
        _noise_px(canvas, sigma),
        sites,
        CANVAS_PX,
    )
    predictor = train_predictor(data, seed, STEPS, say)
    difference = canvas.rest - predictor.predict(canvas.rest, canvas.seen)
    return OnLattice(scale, cell, predictor, learn_judges(sites, replace(canvas, rest=difference)), workers)


def _noise_px(canvas: Canvas, sigma: Array) -> float:
    correlation = autocorrelation(canvas, sigma)
    return float(max(1.0, correlation[correlation > 0.05].sum()))


@dataclass(frozen=True)
class OffLattice:
    """Ours where the crops share no lattice: the network on the crops as they are, differences over their spread."""

    scale: Scale
    predictor: Predictor
    mean: Float
    spread: Float

    def predict(self, crops: Float) -> Float:
        """Bulk as predicted [counts]."""
        units = self.scale.units(crops)
        seen = np.ones(crops.shape, dtype=np.bool_)
        return np.asarray((self.predictor.predict(crops / units - self.mean, seen) + self.mean) * units)

    def evaluate(self, crops: Float) -> Result:
        """Score crops (n, 64, 64)."""
        predicted = self.predict(crops)
        smooth = gaussian_filter((crops - predicted) / self.scale.units(crops), (0, SMOOTH_PX, SMOOTH_PX))
        anm = published.average_near_maximum(self.scale.difference(crops, predicted))
        return Result((np.abs(smooth) / self.spread).max(axis=(1, 2)).astype(np.float64), anm)


def learn_off_lattice(train: Float, scale: Scale, seed: int, say: Say) -> OffLattice:
    """Train ours on bulk crops without a lattice."""
    crops = train / scale.units(train)
    mean = crops.mean(axis=0)
    seen = np.ones(crops.shape, dtype=np.bool_)
    variance = np.maximum(gaussian_filter((crops - mean).var(axis=0), SMOOTH_PX), 1e-12).astype(np.float32)
    data = TrainingSet(crops - mean, seen, variance, 1.0, [], SIDE_PX)
    without = OffLattice(scale, train_predictor(data, seed, STEPS, say), mean, np.ones_like(mean))
    smooth = gaussian_filter((train - without.predict(train)) / scale.units(train), (0, SMOOTH_PX, SMOOTH_PX))
    spread = np.sqrt(gaussian_filter((smooth**2).mean(axis=0), SMOOTH_PX))
    return replace(without, spread=np.maximum(spread, 1e-9).astype(np.float32))


def learn_methods(train: Float, epochs: int, seed: int, workers: int, say: Say) -> dict[str, Method]:
    """Train every method on bulk crops (n, 64, 64), by name."""
    scale = find_scale(train)
    cell: Cell | None
    down = False
    try:
        some = train[:: max(1, len(train) // CELL_CROPS)]
        cell, _ = learn_cell(some, ROUNDS)
        down = scanned_down(cell, some[:DIRECTION_CROPS])
        if down:
            cell, _ = learn_cell(scan_rows_first(some, down), ROUNDS)
            say("the scan ran along the columns of the crops: they are exchanged with the rows")
        a, b = (float(np.hypot(*vector)) for vector in cell.vectors_px)
        say(f"lattice: {a:.2f} x {b:.2f} px a cell, {len(find_sites(cell))} columns a cell")
    except NoLatticeError as error:
        cell = None
        say(f"{error}; ours falls back to a convolutional VAE on the crops as they are")
    ours: Method
    if cell is None:
        ours = learn_off_lattice(train, scale, seed, say)
    else:
        ours = learn_on_lattice(scan_rows_first(train, down), scale, cell, seed, workers, say)
        ours, cell = replace(ours, scanned_down=down), turned(cell) if down else cell
    return {
        "template": Template(scale, cell, train.mean(axis=0)),
        "pca": learn_components(train, scale),
        "published": learn_published(train, scale, epochs, seed, say),
        "vae": ours,
    }


# ---- the table


def limit_at(bulk: Array, rate: float) -> float:
    """Score that at most `rate` of bulk crops exceed."""
    return float(np.sort(bulk)[::-1][int(rate * len(bulk) + 1e-9)])


def score_sets(
    name: str, method: Method, sets: Mapping[str, Float], band_width: float
) -> list[dict[str, str | int | float | None]]:
    """Rows of the table of one method: bulk_test and every defect.

    Limits of the false-positive rates are those of bulk_test; the band of the published rule is that of bulk_train.
    """
    band = published.Band.of(method.evaluate(sets[TRAIN]).anm, band_width)
    bulk = method.evaluate(sets[TEST])
    rows: list[dict[str, str | int | float | None]] = []
    for set_name, crops in sets.items():
        if set_name == TRAIN:
            continue
        found = bulk if set_name == TEST else method.evaluate(crops)
        n = len(crops)
        flagged = int(band.outside(found.anm).sum())
        row: dict[str, str | int | float | None] = {"method": name, "set": set_name, "n": n}
        area, sigma = (None, None) if set_name == TEST else auroc(bulk.score, found.score)
        hits = [int((found.score > limit_at(bulk.score, rate)).sum()) for rate in RATES]
        row |= {"auroc": area, "tpr_at_1pct_fpr": hits[0] / n, "tpr_at_0p1pct_fpr": hits[1] / n}
        row |= {"detected_published_rule": flagged / n}
        row |= {"auroc_se": sigma}
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
