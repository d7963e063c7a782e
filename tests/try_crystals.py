"""Twelve crystals by multislice, none trained on, through the stages: `try_crystals.py OUT.csv --seeds final`.

Structures, kinds, doses and seeds stand in crystal_trial.yaml. Each field holds isolated columns that lost intensity,
gained it or were moved, each by as much as an ideal observer sees at d' of 4 to 10 in that field's expected counts.
How far the test puts it out of bulk, over the ideal d', is its efficiency: z of the intensity, in the change's
direction, or of a displacement the square root of chi-square less one (two degrees of freedom; unbiased far from 0).
A column that was not tested counts nothing. The images of the library are kept in `--cache`.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from scipy import stats
from scipy.spatial import cKDTree

from oddlattice.benchmark.fields import ideal_per_root_dose
from oddlattice.benchmark.kinds import Kind
from oddlattice.crystal import Crystal, crystal_from_dict
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.simulate.columnwise import Conditions, Defect, Scan
from oddlattice.simulate.compose import compose_scan, library_conditions
from oddlattice.simulate.configurations import simulate_library
from oddlattice.simulate.library import Library, load_library, recipe_sha256, save_library
from support.stages import LIBRARY, through_the_stages

Array = npt.NDArray[Any]
Row = dict[str, Any]

RECIPE = Path(__file__).with_name("crystal_trial.yaml")
PARTS = 60  # of a cell's sides, in which the recipe tells places
TRIED_PM = 20.0  # displacement by which the ideal observer is asked


def library_recipe(name: str, trial: Row) -> Row:
    """The recipe of one crystal as `simulate.library` has it."""
    one = trial["common"] | trial["crystals"][name]
    atoms = [[atom[0], *(n / PARTS for n in atom[1:])] for atom in one["atoms"]]
    sites = [{"site": s, "u": u / PARTS, "v": v / PARTS, "symmetry": "1"} for s, (u, v) in one["sites"].items()]
    kept = ("microscope", "thickness_cells", "cells", "grid_px", "slices_per_cell", "cell_px", "phonons", "seed")
    return {key: one[key] for key in kept} | {
        "name": name,
        "structure": {"cell_nm": one["cell_nm"], "atoms": atoms},
        "zone_axis": [0, 0, 1],
        "rms_nm": dict.fromkeys(sorted({atom[0] for atom in atoms}), one["rms_nm"]),
        "sites": sites,
        "defects": [{"site": site, "change": "empty"} for site in one["sites"]],
    }


def group_of(generators: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """All operations (su, sv, tu, tv) [60ths] that generators make, identity first."""
    found = [(1, 1, 0, 0)]
    for su, sv, tu, tv in found:
        for gu, gv, hu, hv in generators:
            new = (su * gu, sv * gv, (gu * tu + hu) % PARTS, (gv * tv + hv) % PARTS)
            if new not in found:
                found.append(new)
    return found


def _flipped(image: Array, axis: int) -> Array:
    """Images (t, m, n) mirrored about the pixel in their middle."""
    return np.roll(np.flip(image, axis), 1 - image.shape[axis] % 2, axis)


def whole_cell(library: Library, generators: list[list[int]]) -> Library:
    """The library with its bulk averaged over the symmetry, and the differences of every column of the cell."""
    operations = group_of(generators)
    at = np.arange(PARTS)
    rows = [[(s * at + t) % PARTS for s, t in ((su, tu), (sv, tv))] for su, sv, tu, tv in operations]
    bulk = np.mean([library.bulk[:, r][:, :, c] for r, c in rows], axis=0, dtype=np.float64)
    sites, differences = [], {}
    for site in library.recipe["sites"]:
        own, seen = library.differences[f"{site['site']}-empty"], set[tuple[int, int]]()
        for su, sv, tu, tv in operations:
            u, v = (round(su * site["u"] * PARTS) + tu) % PARTS, (round(sv * site["v"] * PARTS) + tv) % PARTS
            if (u, v) in seen:
                continue
            seen.add((u, v))
            name = f"{site['site']}{chr(96 + len(seen))}"
            turned = own if su > 0 else _flipped(own, 1)
            differences[f"{name}-empty"] = turned if sv > 0 else _flipped(turned, 2)
            sites.append({"site": name, "u": u / PARTS, "v": v / PARTS, "symmetry": "1"})
    recipe = library.recipe | {"sites": sites, "defects": [{"site": s["site"], "change": "empty"} for s in sites]}
    return replace(library, recipe=recipe, bulk=bulk.astype(np.float32), differences=differences)


def library_of(name: str, trial: Row, cache: Path) -> Library:
    """Multislice of one crystal, from the cache where it is there."""
    recipe = library_recipe(name, trial)
    cache.mkdir(parents=True, exist_ok=True)
    card = cache / f"{recipe_sha256(recipe)[:16]}.yaml"
    if not card.exists():
        save_library(simulate_library(recipe, cache), card.with_suffix(".safetensors"), card, {})
    return whole_cell(load_library(card), trial["crystals"][name]["symmetry"])


def crystal_of(library: Library) -> Crystal:
    """The columns that are changed, as a crystal."""
    a, b, c = library.cell_nm
    columns = [{key: site[key] for key in ("site", "u", "v")} for site in library.recipe["sites"]]
    about = {"name": library.recipe["name"], "a_nm": a, "b_nm": b, "gamma_deg": 90.0, "repeat_nm": c}
    return crystal_from_dict(about | {"columns": columns}, Path(library.recipe["name"]))


@dataclass(frozen=True)
class Field:
    """A composed scan, and of each of its defects the kind and the ideal observer's d'."""

    name: str
    scan: Scan
    kinds: list[str]
    ideal: Array
    pixel_nm: float
    stated: bool  # whether the file states its pixel size

    @property
    def places_px(self) -> Array:
        """Places (n, 2) of the defects."""
        at = zip(self.scan.cells.tolist(), self.scan.columns.tolist(), strict=True)
        number = {(u, v, k): n for n, ((u, v), k) in enumerate(at)}
        return self.scan.places_px[[number[(*d.cell, d.column)] for d in self.scan.defects]]


def _tried(column: int, site: str, **change: Any) -> Kind:
    """A change by which the ideal observer is asked."""
    defect = Defect((0, 0), column, "tried", **change)
    return Kind(site, site, "", defect, 0, float(np.hypot(*defect.shift_pm)), False, 0.0)


def unit_dprimes(library: Library, crystal: Crystal, conditions: Conditions) -> dict[str, tuple[float, float]]:
    """d' at 1 e/px of half a loss and of TRIED_PM, by site; columns of one site are alike."""
    found: dict[str, tuple[float, float]] = {}
    for k, column in enumerate(crystal.columns):
        if column.site[:-1] not in found:
            tried = _tried(k, column.site, factor=0.5), _tried(k, column.site, shift_pm=(0.0, TRIED_PM))
            half, moved = (ideal_per_root_dose(library, crystal, conditions, kind, 1) for kind in tried)
            found[column.site[:-1]] = (half, moved)
    return found


def planned(
    scan: Scan,
    crystal: Crystal,
    trial: Row,
    strength: dict[str, tuple[float, float]],
    pixel_nm: float,
    rng: np.random.Generator,
) -> list[Defect]:
    """Isolated defects, their kinds in turn, each as strong as the d' drawn for it asks."""
    asked, most = trial["defects"], trial["defects"]["most"]
    rim, spacing = asked["rim_nm"] / pixel_nm, asked["spacing_nm"] / pixel_nm
    sides = np.array(scan.counts.shape)
    taken, defects = list[Array](), list[Defect]()
    for n in rng.permutation(len(scan.places_px)):
        place = scan.places_px[n]
        if min(place.min(), (sides - 1 - place).min()) < rim or any(np.hypot(*(place - x)) < spacing for x in taken):
            continue
        column = int(scan.columns[n])
        half, moved = strength[crystal.columns[column].site[:-1]]
        kind, goal = asked["kinds"][len(defects) % len(asked["kinds"])], rng.uniform(*asked["dprime"])
        change, length, angle = 0.5 * goal / half, TRIED_PM * goal / moved, rng.uniform(0, 2 * np.pi)
        if (length > most["displaced_pm"]) if kind == "displaced" else (change > most[kind]):
            continue
        about: Row = {"factor": 1 + change * (1 if kind == "heavier" else -1)}
        if kind == "displaced":
            about = {"shift_pm": (length * float(np.cos(angle)), length * float(np.sin(angle)))}
        taken.append(place)
        defects.append(Defect((int(scan.cells[n, 0]), int(scan.cells[n, 1])), column, kind, **about))
    return defects


def field_of(name: str, library: Library, trial: Row, seed: int, stated: bool) -> Field:
    """One field of a crystal."""
    rng, asked = np.random.default_rng([seed, sorted(trial["crystals"]).index(name)]), trial["field"]
    crystal, thickness = crystal_of(library), float(np.mean(library.thickness_cells))
    pixel_nm, slope = float(rng.uniform(*asked["pixel_nm"])), asked["thickness_gradient"] * (thickness > 1)
    conditions = library_conditions(
        library,
        pixel_nm=pixel_nm,
        thickness_nm=thickness * library.cell_nm[2],
        thickness_gradient=(slope, -slope),
        jitter_pm=asked["jitter_pm"],
        drift_nm=(asked["drift_nm"], -asked["drift_nm"]),
        rotation_deg=float(rng.uniform(*asked["rotation_deg"])),
        background=asked["background"] * float(library.planes(library.bulk, thickness).mean()),
        dose_e_px=1.0,
    )
    strength = unit_dprimes(library, crystal, conditions)
    root = trial["defects"]["half_loss_dprime"] / float(np.median([half for half, _ in strength.values()]))
    conditions = replace(conditions, dose_e_px=root**2)
    shape, origin = (asked["side_px"],) * 2, tuple(float(x) for x in asked["side_px"] / 2 + rng.uniform(-5, 5, 2))
    made = library, crystal, conditions, shape
    bulk = compose_scan(*made, (), seed, origin)
    at_dose = {site: (half * root, moved * root) for site, (half, moved) in strength.items()}
    scan = compose_scan(*made, tuple(planned(bulk, crystal, trial, at_dose, pixel_nm, rng)), seed, origin)
    field = Field(name, scan, [d.kind for d in scan.defects], np.empty(0), pixel_nm, stated)
    pixels = np.stack(np.indices(shape), -1).reshape(-1, 2)
    nearest = cKDTree(field.places_px).query(pixels)[1]
    signal = (scan.expected.astype(float) - bulk.expected).ravel() ** 2 / bulk.expected.ravel()
    return replace(field, ideal=np.sqrt(np.bincount(nearest, signal, len(scan.defects))))


def separation(kind: str, column: Row) -> float:
    """How far the test puts a tested column out of bulk, in the direction of its change."""
    if kind == "displaced":
        chi2 = -2 * np.log(max(2 * stats.norm.sf(column["z_shift"]), 1e-300))
        return float(np.sqrt(max(chi2 - 1, 0.0)))
    return float(column["z_intensity"]) * (1 if kind == "heavier" else -1)


def counted(field: Field, tables: dict[str, pl.DataFrame], trial: Row) -> tuple[Row, list[Row]]:
    """What became of a field, and of each of its defects."""
    rules, places = trial["counting"], field.places_px
    same, far = rules["same_nm"] / field.pixel_nm, rules["bulk_nm"] / field.pixel_nm
    image, columns = tables["images"].row(0, named=True), tables["columns"]
    at = columns.select("row_px", "col_px").to_numpy().reshape(-1, 2)
    listed = (
        tables["defects"].filter(~pl.col("kind").is_in(NO_POINTS)).select("row_px", "col_px").to_numpy().reshape(-1, 2)
    )
    about = {"crystal": field.name, "state": image["state"], "model": image["model"] or "", "named": image["crystal"]}
    defects = []
    tested, hits = (cKDTree(x) if len(x) else None for x in (at, listed))
    for place, kind, ideal in zip(places, field.kinds, field.ideal, strict=True):
        away, which = tested.query(place) if tested is not None else (np.inf, 0)
        score = separation(kind, columns.row(int(which), named=True)) if away < same else 0.0
        found = hits is not None and hits.query(place)[0] < same
        of_it: Row = {"crystal": field.name, "kind": kind, "ideal": ideal, "score": score}
        defects.append(of_it | {"found": bool(found), "tested": away < same})
    rim, side = rules["rim_nm"] / field.pixel_nm, field.scan.counts.shape[0]
    fit = ((field.scan.places_px > rim) & (field.scan.places_px < side - 1 - rim)).all(1)
    there = cKDTree(at).query(field.scan.places_px[fit])[0] < same if len(at) else np.zeros(1)
    away = cKDTree(places).query(listed)[0] if len(listed) else np.empty(0)
    bulk = int((cKDTree(places).query(at)[0] > far).sum()) if len(at) else 0
    about |= {"fit": int(fit.sum()), "fit_tested": int(there.sum()), "listed": len(listed), "bulk": bulk}
    return about | {"false": int((away > same).sum()), "alarms": int((away > far).sum())}, defects


def summary(fields: pl.DataFrame, defects: pl.DataFrame) -> pl.DataFrame:
    """A row for each crystal, and one for all."""
    rows = []
    for name in [*fields["crystal"].unique(maintain_order=True), "all"]:
        f, d = (x if name == "all" else x.filter(pl.col("crystal") == name) for x in (fields, defects))
        by_kind = {k: d.filter(pl.col("kind") == k) for k in ("lighter", "heavier", "displaced")}
        rows.append(
            {
                "crystal": name,
                "defects": len(d),
                "efficiency": d["score"].sum() / d["ideal"].sum(),
                **{k: x["score"].sum() / max(x["ideal"].sum(), 1e-9) for k, x in by_kind.items()},
                "found": d["found"].mean(),
                "tested": f["fit_tested"].sum() / f["fit"].sum(),
                "listed": int(f["listed"].sum()),
                "false": int(f["false"].sum()),
                "alarms_per_1000": 1000 * f["alarms"].sum() / max(int(f["bulk"].sum()), 1),
                "model": "/".join(f["model"].unique(maintain_order=True)),
            }
        )
    return pl.DataFrame(rows)


def run(trial: Row, names: list[str], seeds: list[int], cache: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of fields and of defects."""
    fields, defects = [], []
    for name in names:
        library = library_of(name, trial, cache)
        made = [field_of(name, library, trial, seed, k % 2 == 0) for k, seed in enumerate(seeds)]
        scans = [(one.scan.counts, one.pixel_nm if one.stated else None) for one in made]
        with TemporaryDirectory() as folder:
            tables = through_the_stages(scans, Path(folder), [LIBRARY])
        for number, one in enumerate(made):
            mine = {key: table.filter(pl.col("number") == number) for key, table in tables.items()}
            row, some = counted(one, mine, trial)
            fields.append(row)
            defects += some
    return pl.DataFrame(fields), pl.DataFrame(defects)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", choices=("development", "final"), default="development")
    parser.add_argument("--crystals", nargs="*", help="of the recipe; all without it")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/oddlattice_crystals"))
    given = parser.parse_args(arguments)
    trial = yaml.safe_load(RECIPE.read_text())
    fields, defects = run(trial, given.crystals or list(trial["crystals"]), trial["seeds"][given.seeds], given.cache)
    table = summary(fields, defects)
    table.write_csv(given.out)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, tbl_hide_dataframe_shape=True):
        print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
