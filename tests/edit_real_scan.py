"""Columns of a real scan edited in place, through the stages, against the limit: `edit_real_scan.py OUT.csv`.

Each copy of the scan gets a few dozen isolated edits of all kinds; it is written as .emd, read, tiled, inferred and
judged with the shipped settings. An edit adds the image's own mean column, scaled or moved, so the noise of what is
taken away stays.

The limit. What an edit truly reads is told, without noise, by the difference of its column's readings in the copy and
in the scan as it is: the part of the column that is edited, wide tails left out, and of a column moved by 50 pm the
part of first order, which is less than 50 pm, and a loss of intensity besides. Let c and d be the mean change and
displacement so read, s and t the scatter (t: rms of one direction) of the readings of the image's own columns. If it
is Gaussian, a column that changed is found, at one false alarm in 1,000 columns, when |N(c / s, 1)| is above 3.29,
and one that moved anywhere when the non-central chi-square of two degrees of freedom, (d / t)^2 + (c / s)^2, is above
13.8: one who looks for moved columns knows of their loss of intensity. The test asks both questions of each column
and shares the false alarms out between them (`defects.shift_share`): 3.35 for 3.29, and 17.0 for 13.8, and either
will do (`limit_both`).

Counting noise leans: few electrons scatter farther up than down. Who allows as many false alarms above as below asks
more of a bright column than of a dark one (`limit_lean`: Pearson III with the skewness of the image's own columns; s is
their standard deviation without what lies beyond 3.5 of it, of which 788 columns tell 2.5 %, and the median of
deviations 4).
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from scipy import stats
from scipy.spatial import cKDTree

import infer_differences
from cut_tiles import main as cut_tiles
from find_defects import main as find_defects
from oddlattice.crystal import Crystal, load_crystal
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.defects.null import robust_normal
from oddlattice.numerics.intervals import wilson
from oddlattice.run.stage_settings import DefectSettings, InferSettings, ReadSettings, TileSettings
from read_images import main as read_images
from support.raw_files import shard_of, write_ncem
from support.real_columns import RealScan, change_at, lay_on_lattice, read_counts
from support.stages import TABLES

Array = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models/srtio3_001"
SCAN = ROOT.parent / "shared/real/images/Acquisition_18.emd"
EDITS: dict[str, dict[str, float]] = {
    "emptied": {"to": 0.0},
    "weakened by 60 %": {"to": 0.4},
    "weakened by 30 %": {"to": 0.7},
    "brightened by 50 %": {"to": 1.5},
    "moved by 50 pm": {"to": 1.0, "moved_pm": 50.0},
}
SPACING_CELLS = 3.5
RIM_CELLS = 2.5
SAME_CELLS, NEAR_CELLS = 0.3, 1.6  # so near a place is the edited column's; farther columns are bulk
ALARM_RATE = 0.001
OUTLIER = 3.5  # standard deviations: no bulk, where its skewness is asked for


@dataclass(frozen=True)
class Copy:
    """An edited scan: counts, and what was done where."""

    counts: Array
    kinds: list[tuple[str, str]]  # edit and site
    places_px: Array


def edited(scan: RealScan, crystal: Crystal, number: int, seed: int) -> Copy:
    """The scan with isolated edits, all kinds in turn; copies differ in places and kinds."""
    rng = np.random.default_rng([seed, number])
    side = float(np.sqrt(abs(np.linalg.det(scan.vectors_px))))
    todo = [(site, k) for site, places in scan.places_px.items() for k in range(len(places))]
    todo = [todo[k] for k in rng.permutation(len(todo))]
    menu = [(edit, site) for edit in EDITS for site in scan.places_px]
    counts, chosen, kinds = scan.counts.copy(), [], []
    for site, k in todo:
        place = scan.places_px[site][k]
        rim = min(place.min(), (np.array(counts.shape) - 1 - place).min())
        near = min((float(np.hypot(*(place - other))) for other in chosen), default=np.inf)
        if rim < RIM_CELLS * side or near < SPACING_CELLS * side:
            continue
        turn = [edit for edit, of in menu if of == site]
        edit = turn[(sum(of == site for _, of in kinds) + number) % len(turn)]
        part, added = change_at(scan, crystal, site, k, angle=float(rng.uniform(0, 2 * np.pi)), **EDITS[edit])
        counts[part] += added
        chosen.append(place)
        kinds.append((edit, site))
    return Copy(counts, kinds, np.array(chosen).reshape(-1, 2))


def through_the_pipeline(images: list[Array], pixel_nm: tuple[float, float]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables of defects and of tested columns of scans written as .emd, `image` being their number."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "archive").mkdir()
        for number, counts in enumerate(images):
            whole = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
            write_ncem(folder / "archive" / f"copy {number:02d}.emd", whole, pixel_nm)
        files = shard_of(folder / "archive", folder / "shard.tsv")
        read_images(
            folder / "shard.tsv",
            folder / "archive",
            folder / "1.zarr",
            ReadSettings.of(config["read"]),
            folder / "read.log",
        )
        cut_tiles(folder / "1.zarr", [MODEL / "crystal.yaml"], folder / "2.zarr", TileSettings.of(config["tile"]))
        settings = InferSettings.of(config["infer"])
        infer_differences.main(str(folder / "2.zarr"), [str(MODEL)], str(folder / "3.zarr"), settings, 1)
        out = {part: str(folder / f"{part}.parquet") for part in TABLES}
        stores = [str(folder / f"{k}.zarr") for k in (1, 2, 3)]
        find_defects(*stores, out, str(folder / "4.zarr"), DefectSettings.of(config["defects"]))
        states = pl.read_parquet(out["images"])
        if (states["state"] != "analysed").any():
            raise SystemExit(f"found images that are {states['state'].to_list()}; needed analysed ones")
        number_of = {file_id: int(path[5:7]) for file_id, path in files.items()}
        tables = []
        for part in ("defects", "columns"):
            found = pl.read_parquet(out[part])
            numbers = [number_of[str(image).split("-")[0]] for image in found["image_id"]]
            tables.append(found.with_columns(image=pl.Series(numbers, dtype=pl.Int64)))
    return tables[0], tables[1]


def spread(values: Array) -> float:
    """Robust standard deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def limits(bare: pl.DataFrame, signal: pl.DataFrame) -> pl.DataFrame:
    """Scatter and the limits of recall for each edit and site.

    Parameters
    ----------
    bare : DataFrame
        Tested columns of the scan as it is.
    signal : DataFrame
        Per `edit` and `site` the mean `change` (of a column) and displacement `moved` [pm] that an edit adds.
    """
    rows: list[tuple[object, ...]] = []
    share = yaml.safe_load((ROOT / "config.yaml").read_text())["defects"]["shift_share"]
    for edit, site, change, moved in signal.select("edit", "site", "change", "moved").iter_rows():
        here = bare.filter(pl.col("site") == site)
        intensity = spread(here["intensity_change"].to_numpy())
        shift = np.sqrt(np.mean([spread(here[f"shift_{axis}_pm"].to_numpy()) ** 2 for axis in ("row", "col")]))
        displaced = "moved_pm" in EDITS[edit]
        away = np.array([(change / intensity) ** 2, (moved / shift) ** 2 if displaced else 0.0])
        best = float(_beyond(ALARM_RATE, away.sum(), 2 if displaced else 1))
        missed = (1 - _beyond(ALARM_RATE * (1 - share), away[0], 1)) * (1 - _beyond(ALARM_RATE * share, away[1], 2))
        reads, scatter = (moved, shift) if displaced else (change, intensity)
        lean = _beyond_leaning(ALARM_RATE * (1 - share), here["intensity_change"].to_numpy(), change)
        lean = 1 - (1 - lean) * (1 - _beyond(ALARM_RATE * share, away[1], 2))
        rows.append((edit, site, reads, float(scatter), best, float(1 - missed), lean))
    schema = ["edit", "site", "reads", "scatter", "limit", "limit_both", "limit_lean"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _beyond_leaning(rate: float, readings: Array, change: float) -> float:
    """Chance that one of these readings, with a change added, passes what half of `rate` of them do on either side."""
    middle, scatter = robust_normal(readings)
    z = (readings - middle) / scatter
    bulk = stats.pearson3(float(stats.skew(z[np.abs(z) < OUTLIER])))
    low, high = bulk.ppf(rate / 2), bulk.isf(rate / 2)
    return float(bulk.sf(high - change / scatter) + bulk.cdf(low - change / scatter))


def _beyond(rate: float, away: float, directions: int) -> float:
    """Chance that a non-central chi-square passes the cut that so much of a central one passes."""
    return float(stats.ncx2.sf(stats.chi2.isf(rate, directions), directions, max(away, 1e-12)))


def _added(column: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """What an edit adds to the readings of its column: change, and displacement [pm]."""
    by_row, by_col = (column[f"shift_{axis}_pm"] - before[f"shift_{axis}_pm"] for axis in ("row", "col"))
    change = column["intensity_change"] - before["intensity_change"]
    return {"change": change, "moved": float(np.hypot(by_row, by_col))}


def table_of(
    copies: list[Copy], defects: pl.DataFrame, columns: pl.DataFrame, bare: pl.DataFrame, side: float
) -> pl.DataFrame:
    """Recall of every edit: listed by the pipeline, and by p-value at one false alarm in 1,000 unedited columns.

    Parameters
    ----------
    side : float
        Of a cell [px].
    """
    of, p_bulk, listed_bulk, listed_far = [], [], 0, 0
    bare_tree = cKDTree(bare.select("row_px", "col_px").to_numpy())
    for number, copy in enumerate(copies):
        tested = columns.filter(pl.col("image") == number)
        listed = defects.filter((pl.col("image") == number) & ~pl.col("kind").is_in(NO_POINTS))
        tree = cKDTree(copy.places_px)
        away, which = tree.query(tested.select("row_px", "col_px").to_numpy())
        bulk = away > NEAR_CELLS * side
        p_bulk.append(tested["p_value"].to_numpy()[bulk])
        far, hit = (
            tree.query(listed.select("row_px", "col_px").to_numpy()) if len(listed) else (np.empty(0), np.empty(0))
        )
        listed_bulk += int((far > SAME_CELLS * side).sum())
        listed_far += int((far > NEAR_CELLS * side).sum())
        found = set(hit[far <= SAME_CELLS * side].astype(int).tolist())
        for k, (edit, site) in enumerate(copy.kinds):
            here = np.flatnonzero((which == k) & (away < SAME_CELLS * side) & (tested["site"] == site).to_numpy())
            off, same = bare_tree.query(copy.places_px[k])
            if len(here) and off < SAME_CELLS * side:
                row, before = tested.row(int(here[0]), named=True), bare.row(int(same), named=True)
                about = {"edit": edit, "site": site, "listed": k in found, "p": row["p_value"]}
                of.append(about | _added(row, before))
    bulk_p = np.concatenate(p_bulk)
    cut = float(np.sort(bulk_p)[int(ALARM_RATE * len(bulk_p))])  # so many unedited columns are below it
    every = pl.DataFrame(of)
    signal = every.group_by("edit", "site").agg(pl.col("change", "moved").mean())
    limit = {(row["edit"], row["site"]): row for row in limits(bare, signal).to_dicts()}
    rows = []
    for (edit, site), here in every.group_by("edit", "site", maintain_order=True):
        n, hits, seen = len(here), int((here["p"] < cut).sum()), int(here["listed"].sum())
        low, high = wilson(hits, n)
        rows.append(
            {"n": n, "recall": hits / n, "recall_low": low, "recall_high": high, "listed": seen / n}
            | limit[str(edit), str(site)]
        )
    columns_of = ["edit", "site", "n", "reads", "scatter", "limit", "limit_both", "limit_lean"]
    columns_of += ["recall", "recall_low", "recall_high", "listed"]
    order = {edit: k for k, edit in enumerate(EDITS)}
    rows.sort(key=lambda row: (order[str(row["edit"])], str(row["site"])))
    print(
        f"{len(copies)} copies, {len(bulk_p)} unedited columns far from edits: cut at p < {cut:.2g} "
        f"(nominal {ALARM_RATE:g}); listed by the pipeline and not edited: "
        f"{1000 * listed_bulk / len(columns):.2f} in 1,000 columns, "
        f"{1000 * listed_far / len(bulk_p):.2f} in 1,000 of those far from edits"
    )
    return pl.DataFrame(rows).select(columns_of)


def run(scan_path: Path, copies: int, seed: int) -> pl.DataFrame:
    """The table of recalls for so many edited copies of a scan."""
    crystal = load_crystal(MODEL / "crystal.yaml")
    scan = lay_on_lattice(scan_path, crystal)
    _, header_nm = read_counts(scan_path)
    made = [edited(scan, crystal, number, seed) for number in range(copies)]
    defects, columns = through_the_pipeline([*(copy.counts for copy in made), scan.counts], header_nm)
    bare = columns.filter(pl.col("image") == copies)
    of_copies = columns.filter(pl.col("image") < copies), defects.filter(pl.col("image") < copies)
    side = float(np.sqrt(abs(np.linalg.det(scan.vectors_px))))
    return table_of(made, of_copies[1], of_copies[0], bare, side)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scan", type=Path, default=SCAN, help="an NCEM .emd of SrTiO3 [001]")
    parser.add_argument("--copies", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if not given.scan.is_file():
        parser.error(f"{given.scan}: found no such file; needed a scan of SrTiO3 [001] as NCEM .emd")
    table = run(given.scan, given.copies, given.seed)
    table.write_csv(given.out)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
