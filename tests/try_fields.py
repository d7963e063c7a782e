"""Crowded and spoilt fields of other crystals than SrTiO3 through the stages: `try_fields.py OUT.csv --seeds final`.

Recipe, seeds and what is counted stand in field_trial.yaml. Every changed column counts that stands far enough from the
rim of what is seen to be tested; every listed point counts, wherever it is.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from scipy.spatial import cKDTree
from scipy.stats import binom

from support.own_crystals import Sample, columns_over, stamp
from support.stages import LIBRARY, through_the_stages

Array = npt.NDArray[Any]
Row = dict[str, Any]

RECIPE = Path(__file__).with_name("field_trial.yaml")
TAILS = ((0.85, 1.0), (0.15, 2.0))  # share of a column's height, and width


@dataclass(frozen=True)
class Field:
    """A scan, the places (n, 2) [px] of all its columns, which are changed, and how far each is from what is unseen."""

    crystal: str
    case: str
    counts: npt.NDArray[np.float32]
    changed_px: Array
    depth_px: Array
    apart_px: float
    shortest_px: float


def _changed(case: Row, places: Array, index: Array, apart_px: float, side: int, rng: np.random.Generator) -> Array:
    """Which columns (n,) are changed."""
    if "share" in case:
        return np.asarray((index == 0) & (rng.random(len(index)) < case["share"]))
    chosen: list[int] = []
    inside = ((places > 0) & (places < side - 1)).all(axis=1) & (index == 0)
    for k in rng.permutation(np.flatnonzero(inside)):
        if len(chosen) < case["count"] and all(np.hypot(*(places[k] - places[m])) > apart_px for m in chosen):
            chosen.append(int(k))
    return np.isin(np.arange(len(index)), chosen)


def _spoilt(counts: Array, case: Row, trial: Row, rng: np.random.Generator) -> tuple[Array, Array]:
    """The scan with its artefact, and where its columns are seen, both (rows, cols)."""
    seen, row = np.ones(counts.shape, dtype=bool), np.arange(len(counts))[:, None]
    col, out = row.T, counts.copy()
    if "step" in case:
        half = len(counts) // 2
        out[half:] = rng.binomial(counts[half:].astype(int), 1 - case["step"])
    if "border_px" in case:
        top, right = case["border_px"]
        seen = (row >= top) & (col < len(counts) - right)
        out = np.where(seen, counts, 0)
    if "line" in case:
        out[case["line"]] = 0
        seen = (row != case["line"]) & (col >= 0)
    if "vacuum_px" in case:
        seen = col + case.get("slant", 0.0) * row < case["vacuum_px"]
        out = np.where(seen, counts, rng.poisson(trial["vacuum_counts"], counts.shape))
    if "flyback" in case:
        fly = case["flyback"]
        for c in range(fly["columns"]):
            source = c + fly["px"] * np.exp(-c / fly["over_px"])
            low = int(source)
            mixed = counts[:, low] * (low + 1 - source) + counts[:, low + 1] * (source - low)
            out[:, c] = mixed * (1 + fly["gain"] * np.exp(-c / fly["gain_px"]))
        seen = (col >= trial["counting"]["flyback_px"]) & (row >= 0)
    return out, seen


def made(crystal: str, case: str, trial: Row, seed: int) -> Field:
    """One field."""
    about, asked, of_field = trial["crystals"][crystal], trial["cases"][case], trial["field"]
    names = list(trial["crystals"]), list(trial["cases"])
    rng = np.random.default_rng([seed, names[0].index(crystal), names[1].index(case), 14])
    sample = Sample(np.array(about["vectors_nm"]), tuple(tuple(c) for c in about["columns"]), about["sigma_nm"])
    side, pixel_nm, angle = of_field["side_px"], of_field["pixel_nm"], rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    vectors = sample.vectors_nm @ turn / pixel_nm
    places, index = columns_over(sample, vectors, side, side / 2 + rng.random(2) @ vectors, 0.8 / pixel_nm)
    changed = _changed(asked, places, index, trial["apart_nm"] / pixel_nm, side, rng)
    height = np.array([c[2] for c in sample.columns])[index] * np.where(changed, asked["factor"], 1.0)
    shift = rng.normal(0, of_field["jitter_pm"] / 1000 / pixel_nm, side)
    image, sigma = np.full((side, side), of_field["background"]), sample.sigma_nm / pixel_nm
    for part, width in TAILS:
        stamp(image, places, height * part, width * sigma, shift)
    counts, seen = _spoilt(rng.poisson(of_field["dose"] * image).astype(np.float64), asked, trial, rng)
    inside = changed & ((places >= 0) & (places < side)).all(axis=1)
    unseen = np.argwhere(~np.pad(seen, 1)) - 1.0
    depth = cKDTree(unseen).query(places[inside])[0]
    apart = float(cKDTree(places).query(places, k=2)[0][:, 1].min())
    shortest = float(min(np.hypot(*(vectors.T @ step)) for step in ([1, 0], [0, 1], [1, 1], [1, -1])))
    return Field(crystal, case, counts.astype(np.float32), places[inside], depth, apart, shortest)


def counted(field: Field, tables: dict[str, pl.DataFrame], trial: Row) -> Row:
    """What became of a field."""
    same = trial["counting"]["same"] * field.apart_px
    known = field.changed_px[field.depth_px > trial["counting"]["rim_vectors"] * field.shortest_px]
    points = tables["defects"].filter(pl.col("kind") != "extended").select("row_px", "col_px").to_numpy().reshape(-1, 2)
    found = int((cKDTree(points).query(known)[0] < same).sum()) if len(points) and len(known) else 0
    real = int((cKDTree(field.changed_px).query(points)[0] < same).sum()) if len(points) else 0
    image = tables["images"].row(0, named=True)
    return {
        "crystal": field.crystal,
        "case": field.case,
        "analysed": image["state"] == "analysed",
        "truth": len(known),
        "found": found,
        "listed": len(points),
        "false": len(points) - real,
        "regions": len(tables["defects"]) - len(points),
        "expected_false": float(image["expected_false"] or 0.0),
    }


def run(trial: Row, seeds: list[int], crystals: list[str], cases: list[str]) -> pl.DataFrame:
    """A row for each field."""
    fields = [made(crystal, case, trial, seed) for crystal in crystals for case in cases for seed in seeds]
    with TemporaryDirectory() as folder:
        pixel_nm = trial["field"]["pixel_nm"]
        tables = through_the_stages([(one.counts, pixel_nm) for one in fields], Path(folder), [LIBRARY])
    of = [{key: table.filter(pl.col("number") == k) for key, table in tables.items()} for k in range(len(fields))]
    return pl.DataFrame([counted(one, mine, trial) for one, mine in zip(fields, of, strict=True)])


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", choices=("development", "final"), default="development")
    parser.add_argument("--crystals", nargs="*", help="of the recipe; all without it")
    parser.add_argument("--cases", nargs="*", help="of the recipe; all without it")
    given = parser.parse_args(arguments)
    trial = yaml.safe_load(RECIPE.read_text())
    names = given.crystals or list(trial["crystals"]), given.cases or list(trial["cases"])
    rows = run(trial, trial["seeds"][given.seeds], *names)
    rows.write_csv(given.out)
    numbers = pl.col("truth", "found", "listed", "false", "regions", "expected_false").sum()
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160, tbl_hide_dataframe_shape=True):
        for keys in (["crystal", "case"], ["case"], ["crystal"]):
            print(rows.group_by(keys, maintain_order=True).agg(pl.col("analysed").sum(), numbers))
    listed, false = int(rows["listed"].sum()), int(rows["false"].sum())
    print(f"found {rows['found'].sum()} of {rows['truth'].sum()}; {false} of {listed} listed are false", end="; ")
    print(f"chance of as many at 5 %: {binom.sf(false - 1, listed, 0.05):.2g}")


if __name__ == "__main__":
    main(sys.argv[1:])
