"""Columns of real images of other crystals edited in place, against each image's own scatter.

`edit_real_crystals.py OUT.csv [FILES]`. The middle of each image, SIDE_PX a side, is laid on its own crystal, or all of
the image where the middle shows fewer than LEAST_CELLS cells. In copies of it isolated columns are emptied, halved, or
moved by a tenth of the distance between columns: the image's own mean column (a Gaussian with a tail, times the local
mean) is taken away, or added beside its place, so the noise stays. Copies and images as they are go through the stages
with a made-up pixel size, so that displacements have a length.

The limit is that of `edit_real_scan.limits`: what an observer finds at one false alarm in 1,000 columns, were the
scatter of the image's own readings Gaussian. A copy may read its columns in other units than the image as it is (where
the width of columns is not known well, so is their height). So what an edit adds is the difference of a column's two
readings, each over the scatter of the columns of its site in its own image, edited ones left out. The mean of the
limits of the edits is told; recall has a binomial error beside it.
"""

import argparse
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import hyperspy.api as hs
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.spatial import cKDTree

from edit_real_scan import ALARM_RATE, _beyond, spread
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.own_columns import TAIL_WIDTH
from oddlattice.lattice.own_crystal import OwnCell, register_on_own
from oddlattice.lattice.registration import Registration
from oddlattice.run.stage_settings import DefectSettings
from support.settings import default
from support.stages import through_the_stages

Array = npt.NDArray[Any]
Row = dict[str, Any]

REAL = Path(__file__).parents[2] / "shared/real"
FILES = [*sorted((REAL / "crystals").glob("*.*")), *sorted((REAL / "crystals/mxene").glob("*.tif"))]
EDITS = ("emptied", "half", "moved")
ADDED = ("change", "by_row", "by_col")  # readings over the scatter of their site
PIXEL_NM = 0.01  # made up
MOVED_PART = 0.1  # of the distance between columns
SPACING = 5.0  # distances between columns, from edit to edit
RIM_PX = 30
SIDE_PX, LEAST_CELLS, WHOLE_PX = 512, 100, 2048  # of a part
COPIES = 6
MOST = 45  # edits of a copy
SAME = 0.3  # distances between columns: a tested column so near is the edited one
LEAST_PART = 0.25  # of the brightest column: fainter ones are not edited
Z_CUT = 3.29  # one false alarm in 1,000


@dataclass(frozen=True)
class Scan:
    """A real image on its own crystal."""

    counts: Array
    found: Registration
    own: OwnCell

    @property
    def distance_px(self) -> float:
        """Between the nearest columns."""
        return float(0.2 / self.own.nominal_nm[0])  # nominal: they are 0.2 nm apart

    def columns(self) -> tuple[Array, npt.NDArray[np.intp], Array]:
        """Places without jitter (n, 2) [px], column of each (n,), local mean about each (n,) [counts]."""
        cells = np.argwhere(self.found.mask)
        where = Coordinates(self.found.nodes_px, self.found.row_shift_px, self.found.transposed)
        places = [where.straight_px(cells + (uv % 1.0)) for uv in self.own.columns.places]
        number = np.repeat(np.arange(len(places)), len(cells))
        mean = self.found.local_mean[cells[:, 0], cells[:, 1]] - self.found.pedestal
        return np.concatenate(places), number, np.tile(mean, len(places))

    def column_at(self, place: Array, column: int, mean: float) -> Array:
        """What one column adds to the image [counts]; shape of the image."""
        rows, cols = np.indices(self.counts.shape)
        shift = self.found.row_shift_px
        moved = [rows + shift[None, :], cols] if self.found.transposed else [rows, cols + shift[:, None]]
        away = np.stack([moved[0] - place[0], moved[1] - place[1]], -1)
        seen, total = self.own.columns, np.zeros(self.counts.shape)
        for part, width in ((1 - seen.tail_part, 1.0), (seen.tail_part, TAIL_WIDTH)):
            spread_px2 = seen.spread_px2 * (seen.widths[column] * width) ** 2
            form = np.einsum("...i,ij,...j->...", away, np.linalg.inv(spread_px2), away)
            total += part * np.exp(-form / 2) / (2 * np.pi * np.sqrt(np.linalg.det(spread_px2)))
        area = abs(float(np.linalg.det(self.own.vectors_px)))
        return np.asarray(seen.sign * mean * seen.intensity[column] * area * total)


def read(path: Path, side_px: int) -> Array:
    """The middle of the image of a file [counts], at most `side_px` a side."""
    loaded = hs.load(str(path))
    one = next(s for s in (loaded if isinstance(loaded, list) else [loaded]) if s.data.ndim == 2)
    low = [max((n - side_px) // 2, 0) for n in one.data.shape]
    return np.ascontiguousarray(one.data[low[0] : low[0] + side_px, low[1] : low[1] + side_px], dtype=np.float64)


def laid(path: Path) -> Scan:
    """The middle of an image, or all of it, on its own crystal; raises NoLatticeError where neither shows one."""
    with suppress(NoLatticeError):
        counts = read(path, SIDE_PX)
        middle = Scan(counts, *register_on_own(counts.astype(np.float32)))
        if middle.found.mask.sum() >= LEAST_CELLS:
            return middle
    counts = read(path, WHOLE_PX)
    return Scan(counts, *register_on_own(counts.astype(np.float32)))


def edited(scan: Scan, seed: int) -> tuple[Array, list[str], Array]:
    """A copy with isolated edits, all kinds in turn: counts, kinds, places (n, 2) [px]."""
    rng, (places, number, mean) = np.random.default_rng(seed), scan.columns()
    bright = scan.own.columns.intensity / scan.own.columns.intensity.max()
    counts, kinds, chosen = scan.counts.copy(), list[str](), list[Array]()
    for k in rng.permutation(len(places)):
        rim = min(places[k].min(), (np.array(counts.shape) - 1 - places[k]).min())
        near = min((np.hypot(*(places[k] - x)) for x in chosen), default=np.inf)
        if rim < RIM_PX or near < SPACING * scan.distance_px or bright[number[k]] < LEAST_PART or len(kinds) >= MOST:
            continue
        kind, angle = EDITS[len(kinds) % len(EDITS)], rng.uniform(0, 2 * np.pi)
        reach = int(4 * TAIL_WIDTH * np.sqrt(np.trace(scan.own.columns.spread_px2))) + 2
        low = np.maximum(np.rint(places[k]).astype(int) - reach, 0)
        part = slice(low[0], low[0] + 2 * reach), slice(low[1], low[1] + 2 * reach)
        counts[part] -= (0.5 if kind == "half" else 1.0) * _window(scan, places[k], number[k], mean[k], part)
        if kind == "moved":
            step = MOVED_PART * scan.distance_px * np.array([np.cos(angle), np.sin(angle)])
            counts[part] += _window(scan, places[k] + step, number[k], mean[k], part)
        kinds.append(kind)
        chosen.append(places[k])
    return counts, kinds, np.array(chosen).reshape(-1, 2)


def _window(scan: Scan, place: Array, column: int, mean: float, part: tuple[slice, slice]) -> Array:
    """`Scan.column_at` in a window of the image."""
    shift = scan.found.row_shift_px[part[1] if scan.found.transposed else part[0]]
    found = Registration(**{**vars(scan.found), "row_shift_px": shift})
    corner = np.array([part[0].start, part[1].start])
    return Scan(scan.counts[part], found, scan.own).column_at(place - corner, column, mean)


def limit_of(change: float, moved: float) -> float:
    """Recall of the test at ALARM_RATE of what changes so much, in standard deviations; see `edit_real_scan`."""
    share = default(DefectSettings).shift_share
    missed = 1 - _beyond(ALARM_RATE * (1 - share), change**2, 1)
    return float(1 - missed * (1 - _beyond(ALARM_RATE * share, moved**2, 2)))


def in_own_scatter(columns: pl.DataFrame, edits: Array, distance_px: float) -> pl.DataFrame:
    """Tested columns of an image with `change`, `by_row`, `by_col`: their readings over the scatter of their site.

    Columns at `edits` (n, 2) [px] are left out of the scatter.
    """
    tree = cKDTree(edits if len(edits) else np.full((1, 2), np.inf))
    away, _ = tree.query(columns.select("row_px", "col_px").to_numpy())
    known, told = columns.with_columns(far=pl.Series(away > 2 * distance_px)), []
    for _, own in known.group_by("grain", "site", maintain_order=True):
        far = own.filter(pl.col("far"))
        one, row, col = (spread(far[key].to_numpy()) for key in ("intensity_change", "shift_row_pm", "shift_col_pm"))
        moved = float(np.hypot(row, col) / np.sqrt(2))
        readings = pl.col("intensity_change") / one, pl.col("shift_row_pm") / moved, pl.col("shift_col_pm") / moved
        told.append(own.with_columns(*(e.alias(k) for e, k in zip(readings, ADDED, strict=True))))
    return pl.concat(told)


def edits_of(kinds: list[str], places: Array, copy: pl.DataFrame, bare: pl.DataFrame, distance_px: float) -> list[Row]:
    """Every edit of a copy: whether it is found, and its limit; tables of tested columns: of the copy, and as it is."""
    if not len(copy):
        return [{"edit": kind, "tested": False, "found": None, "limit": None} for kind in kinds]
    tables = in_own_scatter(copy, places, distance_px), in_own_scatter(bare, places, distance_px)
    trees = [cKDTree(table.select("row_px", "col_px").to_numpy()) for table in tables]
    rows: list[Row] = []
    for kind, place in zip(kinds, places, strict=True):
        (off, after), (away, before) = (tree.query(place) for tree in trees)
        if max(off, away) > SAME * distance_px:
            rows.append({"edit": kind, "tested": False, "found": None, "limit": None})
            continue
        row, as_it_is = tables[0].row(int(after), named=True), tables[1].row(int(before), named=True)
        change, by_row, by_col = (row[key] - as_it_is[key] for key in ADDED)
        limit = limit_of(change, float(np.hypot(by_row, by_col)) if kind == "moved" else 0.0)
        rows.append({"edit": kind, "tested": True, "found": abs(row["z"]) >= Z_CUT, "limit": limit})
    return rows


def run(path: Path, seed: int, copies: int) -> pl.DataFrame | None:
    """Recall and limit of each kind of edit in one file; None where it cannot be told."""
    try:
        scan = laid(path)
    except NoLatticeError as error:
        print(f"{path.name}: {error}")
        return None
    made = [edited(scan, 100 * seed + number) for number in range(copies)]
    with TemporaryDirectory() as folder:
        tables = through_the_stages([(one, PIXEL_NM) for one in (scan.counts, *(e[0] for e in made))], Path(folder))
    print(f"{path.name}: {tables['images'].sort('number').select('state', 'reason').rows()}")
    bare, *after = (tables["columns"].filter(pl.col("number") == k) for k in range(copies + 1))
    if not len(bare):
        return None
    told = [
        row
        for (_, kinds, places), columns in zip(made, after, strict=True)
        for row in edits_of(kinds, places, columns, bare, scan.distance_px)
    ]
    every = pl.DataFrame(told, schema={"edit": str, "tested": bool, "found": bool, "limit": float}, orient="row")
    figures = every.group_by("edit", maintain_order=True).agg(
        pl.len().alias("placed"), pl.col("tested").sum(), pl.col("found").mean(), pl.col("limit").mean()
    )
    error = (pl.col("limit") * (1 - pl.col("limit")) / pl.col("tested")).sqrt()
    return figures.select(pl.lit(path.name).alias("image"), pl.all(), error.alias("error"))


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copies", type=int, default=COPIES)
    given = parser.parse_args(arguments)
    found = []
    for path in given.files or FILES:
        if path.suffix == ".csv" or path.is_dir():
            continue
        if (one := run(path, given.seed, given.copies)) is not None:
            found.append(one)
            print(*one.iter_rows(), sep="\n", flush=True)
            pl.concat(found).write_csv(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
