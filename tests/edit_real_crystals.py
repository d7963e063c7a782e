"""Columns of real images of other crystals edited in place, against each image's own scatter.

`edit_real_crystals.py OUT.csv [FILES]`. The middle of each image, at most SIDE_PX a side, is laid on its own crystal.
In copies of it isolated columns are emptied, halved, or moved by a tenth of the distance between columns: the image's
own mean column (a Gaussian with a tail, times the local mean) is taken away, or added beside its place, so the noise
stays. Copies and images as they are go through the stages with a made-up pixel size, so that displacements have a
length. The limit is that of `edit_real_scan.limits`: what an observer finds at one false alarm in 1,000 columns, were
the scatter of the image's own readings Gaussian.
"""

import argparse
import sys
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
PIXEL_NM = 0.01  # made up
MOVED_PART = 0.1  # of the distance between columns
SPACING = 5.0  # distances between columns, from edit to edit
RIM_PX = 30
SIDE_PX = 512  # of a part
COPIES = 2
MOST = 45  # edits of a copy
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


def read(path: Path) -> Array:
    """The middle of the image of a file [counts]."""
    loaded = hs.load(str(path))
    one = next(s for s in (loaded if isinstance(loaded, list) else [loaded]) if s.data.ndim == 2)
    low = [max((n - SIDE_PX) // 2, 0) for n in one.data.shape]
    return np.ascontiguousarray(one.data[low[0] : low[0] + SIDE_PX, low[1] : low[1] + SIDE_PX], dtype=np.float64)


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


def limit_of(change: float, scatter: float, moved: float, shift: float) -> float:
    """Recall of the test at ALARM_RATE in Gaussian scatter; see `edit_real_scan`."""
    share = default(DefectSettings).shift_share
    missed = 1 - _beyond(ALARM_RATE * (1 - share), (change / scatter) ** 2, 1)
    return float(1 - missed * (1 - _beyond(ALARM_RATE * share, (moved / shift) ** 2, 2)))


def edits_of(kinds: list[str], places: Array, tables: list[pl.DataFrame], distance_px: float) -> list[Row]:
    """Every edit of a copy: whether it is found, and its limit; tables of tested columns: of the copy, and as it is."""
    trees = [cKDTree(table.select("row_px", "col_px").to_numpy()) for table in tables]
    sites = {site: some for (site,), some in tables[1].group_by("site")}
    rows: list[Row] = []
    for kind, place in zip(kinds, places, strict=True):
        (off, after), (away, before) = (tree.query(place) for tree in trees)
        if max(off, away) > 0.3 * distance_px:
            rows.append({"edit": kind, "tested": False, "found": None, "limit": None})
            continue
        row, bare = tables[0].row(int(after), named=True), tables[1].row(int(before), named=True)
        own = sites[bare["site"]]
        shift = np.sqrt(np.mean([spread(own[f"shift_{axis}_pm"].to_numpy()) ** 2 for axis in ("row", "col")]))
        by = np.array([row[f"shift_{axis}_pm"] - bare[f"shift_{axis}_pm"] for axis in ("row", "col")])
        change = row["intensity_change"] - bare["intensity_change"]
        moved = float(np.hypot(*by)) if kind == "moved" else 0.0
        limit = limit_of(change, spread(own["intensity_change"].to_numpy()), moved, float(shift))
        rows.append({"edit": kind, "tested": True, "found": abs(row["z"]) >= Z_CUT, "limit": limit})
    return rows


def run(path: Path, seed: int) -> pl.DataFrame | None:
    """Recall and limit of each kind of edit in one file; None where it cannot be told."""
    counts = read(path)
    try:
        scan = Scan(counts, *register_on_own(counts.astype(np.float32)))
    except NoLatticeError as error:
        print(f"{path.name}: {error}")
        return None
    copies = [edited(scan, 100 * seed + copy) for copy in range(COPIES)]
    with TemporaryDirectory() as folder:
        tables = through_the_stages([(one, PIXEL_NM) for one in (counts, *(copy[0] for copy in copies))], Path(folder))
    bare, *after = (tables["columns"].filter(pl.col("number") == k) for k in range(COPIES + 1))
    if min(map(len, (bare, *after))) == 0:
        print(f"{path.name}: {tables['images']['state'].to_list()} {tables['images']['reason'].to_list()}")
        return None
    made = [
        edits_of(kinds, places, [table, bare], scan.distance_px)
        for (_, kinds, places), table in zip(copies, after, strict=True)
    ]
    told = pl.DataFrame([row for rows in made for row in rows]).group_by("edit", maintain_order=True)
    figures = pl.len().alias("placed"), pl.col("tested").sum(), pl.col("found").mean(), pl.col("limit").mean()
    return told.agg(*figures).select(pl.lit(path.name).alias("image"), pl.all())


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    found = []
    for path in given.files or FILES:
        if path.suffix == ".csv" or path.is_dir():
            continue
        if (one := run(path, given.seed)) is not None:
            found.append(one)
            print(*one.iter_rows(), sep="\n", flush=True)
            pl.concat(found).write_csv(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
