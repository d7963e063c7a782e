"""Rule run_benchmark: every method on composed fields with known defects, through the pipeline's own stages."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import zarr
from zarr.storage import MemoryStore

from cut_tiles import main as cut_tiles
from find_defects import main as find_defects
from infer_differences import Predictor, infer_image
from infer_differences import main as infer_differences
from oddlattice.benchmark.fields import (
    PLANS,
    Field,
    Kind,
    Plan,
    compose_field,
    detection_conditions,
    detection_kinds,
    ideal_per_root_dose,
    partial_kinds,
    published_kinds,
    varied_conditions,
)
from oddlattice.benchmark.page import write_page
from oddlattice.benchmark.published import (
    PublishedVAE,
    average_near_maximum,
    load_published,
    patches_at,
    predict,
    prepared,
    whole_patches,
)
from oddlattice.benchmark.tables import BULK, NEAR, Findings, summarise
from oddlattice.benchmark.truth import column_table, defect_table, file_row
from oddlattice.crystal import CELL_PX, Crystal
from oddlattice.defects.find import find_in_image
from oddlattice.defects.listing import Judged
from oddlattice.defects.registered import Registered, load_registered
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.register import NoModelError, Registration, fit_registration
from oddlattice.lattice.tile_image import settings_from, tiled_attributes, write_registration
from oddlattice.model.folder import Model, load_model
from oddlattice.numerics.arrays import Array, Float
from oddlattice.process.logs import log_to
from oddlattice.process.parent_death import die_with_parent
from oddlattice.process.single_thread import one_thread
from oddlattice.run.stage_settings import DefectSettings, ReadSettings
from oddlattice.simulate.columnwise import Conditions
from oddlattice.simulate.library import Library, load_library
from oddlattice.storage.atomic import whole_file
from oddlattice.storage.groups import values_of
from oddlattice.storage.products import SHARD, table, write_tsv
from read_images import main as read_images

PUBLISHED_BULK = 150  # bulk columns of a field that the published network is asked about: it is slow
CROP_CELLS = 3


@dataclass(frozen=True)
class Setup:
    """What all fields share."""

    library: str
    model: str
    infer: dict[str, Any]
    tile: dict[str, Any]
    defects: DefectSettings
    published: str  # file of the published network's weights; "" without it
    every: int  # of the kinds of the detection experiment, every so many


@dataclass(frozen=True)
class Job:
    """One field to compose and to analyse.

    Attributes
    ----------
    experiment : str
        ``detection``, ``classes`` (the published ones) or ``calibration``.
    kinds : str
        Name of the set of kinds placed; "" for bulk.
    first : int
        The kinds are dealt from this one on.
    keep : bool
        Whether crops for the picture of figure 1 are wanted.
    """

    experiment: str
    number: int
    conditions: Conditions
    shape: tuple[int, int]
    kinds: str
    first: int
    seed: int
    methods: tuple[str, ...]
    keep: bool = False


KIND_SETS = {"detection": detection_kinds, "classes": published_kinds, "calibration": partial_kinds}


@cache
def _library(card: str) -> Library:
    return load_library(Path(card))


@cache
def _model(folder: str) -> Model:
    return load_model(Path(folder))


@cache
def _published(path: str) -> PublishedVAE:
    return load_published(Path(path))


@cache
def _kinds(library: str, model: str, name: str, every: int) -> tuple[Kind, ...]:
    found = KIND_SETS[name](_library(library), _model(model).crystal) if name else ()
    return found[::every] if name == "detection" else found


# ---------------------------------------------------------------- one field


def tiled(counts: Float, found: Registration, pixel_nm: float) -> zarr.Group:
    """What the tile stage makes of an image, in memory."""
    source = zarr.open_group(MemoryStore(), mode="w", zarr_format=3)
    write_registration(counts, found, source)
    source.attrs["oddlattice"] = tiled_attributes(found, (pixel_nm, pixel_nm))
    return source


def analysed(
    source: zarr.Group, model: Model, predictor: Predictor, pixel_nm: float, setup: Setup
) -> tuple[Registered, Judged] | str:
    """A tiled image through the stages infer and defects, in memory; or why it is refused."""
    target = zarr.open_group(MemoryStore(), mode="w", zarr_format=3)
    if reason := infer_image(source, target, model, predictor, setup.infer | {"method": predictor.method}):
        return reason
    image = load_registered(source, target, [pixel_nm, pixel_nm])
    return image, find_in_image(image, setup.defects)[0]


def crops_of(columns: pl.DataFrame, image: Registered, tiles: Float, crystal: Crystal) -> dict[str, Any]:
    """Input, prediction and difference (3, 60, 60) about one column of every kind, and about one of bulk ("").

    Columns whose surroundings are analysed throughout are taken, the first of each kind.
    """
    found: dict[str, Any] = {}
    half = CROP_CELLS * CELL_PX // 2
    offset = {column.site: (column.u, column.v) for column in crystal.tested}
    seen = np.repeat(np.repeat(image.mask, CELL_PX, 0), CELL_PX, 1)
    for row in columns.filter(pl.col("truth") != NEAR).to_dicts():
        top, left = (round(CELL_PX * (row[axis] + at)) - half for axis, at in _axes(offset[row["site"]]))
        part = np.s_[top : top + 2 * half, left : left + 2 * half]
        if row["kind"] in found or min(top, left) < 0 or seen[part].sum() < 4 * half * half:
            continue
        found[row["kind"]] = np.stack([tiles[part], image.prediction[part], image.difference[part]])
    return found


def _axes(place: tuple[float, float]) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("cell_u", place[0]), ("cell_v", place[1])


def with_whole_patches(crystal: Crystal, tiles: Float, columns: pl.DataFrame) -> tuple[pl.DataFrame, Array]:
    """The columns about which the published network has a patch with data throughout, and their places (n, 2) [cells].

    `columns` as of `column_table`.
    """
    offset = {column.site: (column.u, column.v) for column in crystal.tested}
    uv = np.array([np.add((u, v), offset[s]) for s, u, v in columns.select("site", "cell_u", "cell_v").iter_rows()])
    fits = whole_patches(tiles, uv)
    return columns.filter(pl.Series(fits)), uv[fits]


def published_table(image: Float, columns: pl.DataFrame, uv: Array, model: PublishedVAE, seed: int) -> pl.DataFrame:
    """The published score of a patch about every defect and about some bulk columns.

    `image` as of `prepared`; `columns` and `uv` as of `with_whole_patches`.
    """
    rng = np.random.default_rng(seed)
    truth = columns["truth"].to_numpy()
    odd, bulk = np.flatnonzero(truth >= 0), np.flatnonzero(truth == BULK)
    chosen = np.concatenate([odd, rng.permutation(bulk)[:PUBLISHED_BULK]])
    patches = patches_at(image, uv[chosen])
    difference = patches - predict(model, patches)
    return columns[chosen].select("site", "truth", "kind").with_columns(anm=pl.Series(average_near_maximum(difference)))


def published_crops(image: Float, columns: pl.DataFrame, uv: Array, model: PublishedVAE) -> dict[str, npt.NDArray[Any]]:
    """As `crops_of`, by the published network: patches (3, 64, 64) of 2.7 cells, as it sees them."""
    first: dict[str, int] = {}
    for k, (truth, kind) in enumerate(columns.select("truth", "kind").iter_rows()):
        if truth != NEAR:
            first.setdefault(kind, k)
    patches = patches_at(image, uv[list(first.values())])
    predicted = predict(model, patches)
    return dict(zip(first, np.stack([patches, predicted, patches - predicted], axis=1), strict=True))


@dataclass(frozen=True)
class Outcome:
    """What one field gave.

    Attributes
    ----------
    columns, defects : dict of str to DataFrame
        By method; see `column_table` and `defect_table`.
    refused : dict of str to str
        Methods that could not analyse it, and why; "" stands for all of them.
    crops : dict of str to dict
        By method; see `crops_of`.
    """

    job: Job
    columns: dict[str, pl.DataFrame]
    defects: dict[str, pl.DataFrame]
    refused: dict[str, str]
    crops: dict[str, dict[str, Any]]


def run_field(job: Job, setup: Setup) -> Outcome:
    """Compose a field, register it once, and let every method analyse it."""
    torch.set_num_threads(1)
    library, model = _library(setup.library), _model(setup.model)
    kinds = _kinds(setup.library, setup.model, job.kinds, setup.every)
    field = compose_field(library, model.crystal, job.conditions, job.shape, kinds, job.seed, job.first)
    pixel_nm = job.conditions.pixel_nm
    outcome = Outcome(job, {}, {}, {}, {})
    try:
        found = fit_registration(field.scan.counts, [model.crystal], (pixel_nm, pixel_nm), settings_from(setup.tile))
    except (NoLatticeError, NoModelError) as error:
        outcome.refused[""] = str(error)
        return outcome
    source = tiled(field.scan.counts, found, pixel_nm)
    tiles = values_of(source, "tiles")
    for method in job.methods:
        if method == "published":
            continue
        predictor = Predictor(model, setup.infer | {"method": method}, 1)
        result = analysed(source, model, predictor, pixel_nm, setup)
        if isinstance(result, str):
            outcome.refused[method] = result
            continue
        image, judged = result
        outcome.columns[method] = column_table(field, image.coordinates, judged)
        outcome.defects[method] = defect_table(field, image.coordinates, judged)
        if job.keep:
            outcome.crops[method] = crops_of(outcome.columns[method], image, tiles, model.crystal)
    if "published" in job.methods and outcome.columns:
        some = next(iter(outcome.columns.values()))
        whole, seen = with_whole_patches(model.crystal, tiles, some), prepared(tiles)
        network = _published(setup.published)
        outcome.columns["published"] = published_table(seen, *whole, network, job.seed)
        if job.keep:
            outcome.crops["published"] = published_crops(seen, *whole, network)
    return outcome


def run_all(jobs: list[Job], setup: Setup, threads: int) -> Iterator[Outcome]:
    """The outcomes of all jobs, in their order."""
    if threads < 2 or len(jobs) < 4:
        for job in jobs:
            yield run_field(job, setup)
        return
    workers = min(threads, len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn"), die_with_parent, (os.getpid(),)) as pool:
        yield from pool.map(run_field, jobs, [setup] * len(jobs))


# ---------------------------------------------------------------- which fields


def jobs_of(plan: Plan, library: Library, model: Model, methods: tuple[str, ...], seed: int) -> list[Job]:
    """All fields of a plan; every one has a seed of its own, taken from `seed`."""
    jobs: list[Job] = []
    shape = (plan.side_px, plan.side_px)
    seeds = np.random.SeedSequence(seed).generate_state(100_000)  # 32 bits each
    number_of = {name: len(kinds(library, model.crystal)) for name, kinds in KIND_SETS.items()}

    def add(experiment: str, conditions: Conditions, kinds: str, first: int, chosen: tuple[str, ...]) -> None:
        number = len(jobs)
        keep = experiment == "classes" and first == 0
        jobs.append(Job(experiment, number, conditions, shape, kinds, first, int(seeds[number]), chosen, keep))

    def drawn() -> np.random.Generator:
        return np.random.default_rng(int(seeds[-1 - len(jobs)]))

    room = max(1, int((plan.side_px / 31.24 - 5.2) / 5) + 1) ** 2  # about as many defects a field
    for conditions, fields in ((plan.main, plan.main_fields), (plan.other, plan.other_fields)):
        for dose, jitter in conditions:
            for k in range(fields):
                first = (k * room) % number_of["detection"]
                add("detection", detection_conditions(library, dose, jitter, drawn()), "detection", first, methods)
    for k in range(plan.classes_fields):
        at = (k * room) % number_of["classes"]
        add("classes", detection_conditions(library, 400.0, 5.0, drawn()), "classes", at, methods)
    judged = tuple(m for m in methods if m != "published")
    for k in range(plan.calibration_fields):
        kinds = "calibration" if k % 2 else ""
        first = (k * room) % number_of["calibration"]
        add("calibration", varied_conditions(library, drawn()), kinds, first, judged)
    return jobs


# ---------------------------------------------------------------- whole files


def write_dm4(path: Path, counts: Float, pixel_nm: float) -> None:
    """Write a scan as DM4 [counts, nm]; needs nionswift-io."""
    from nion.data import Calibration, DataAndMetadata
    from nionswift_plugin.DM_IO import dm3_image_utils

    image = DataAndMetadata.new_data_and_metadata(
        counts.astype(np.uint16),
        data_descriptor=DataAndMetadata.DataDescriptor(False, 0, 2),
        dimensional_calibrations=[Calibration.Calibration(0.0, pixel_nm, "nm")] * 2,
        intensity_calibration=Calibration.Calibration(0.0, 1.0, "counts"),
        metadata={"DigiScan": {"Signal Name": "HAADF"}},
        timestamp=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),
    )
    with open(path, "wb") as file:
        dm3_image_utils.save_image(image, file, 4)


def whole_files(plan: Plan, setup: Setup, read: dict[str, Any], seed: int) -> pl.DataFrame:
    """Fields written as .dm4 and run through read, tile, infer and defects; one row a file.

    The defects are all kinds of the detection experiment; one is right when a defect is listed within 0.45 cell.
    """
    library, model = _library(setup.library), _model(setup.model)
    kinds = _kinds(setup.library, setup.model, "detection", setup.every)
    fields: list[Field] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "archive").mkdir()
        rows = []
        for k in range(plan.files):
            rng = np.random.default_rng([seed, 77, k])
            dose = float(np.exp(rng.uniform(np.log(200.0), np.log(2000.0))))
            jitter, pixel_nm = float(rng.uniform(2, 6)), float(rng.uniform(0.010, 0.016))
            conditions = replace(
                detection_conditions(library, dose, jitter, rng, pixel_nm), drift_nm=(0.1, -0.1), contamination=0.1
            )
            shape = (plan.side_px, plan.side_px + 64)
            field = compose_field(library, model.crystal, conditions, shape, kinds, int(rng.integers(2**31)), 5 * k)
            path = folder / "archive" / f"field {k:03d}.dm4"
            write_dm4(path, field.scan.counts, conditions.pixel_nm)
            status = path.stat()
            about = {"path": path.name, "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            rows.append({"file_id": f"field-{k:03d}", **about})
            fields.append(field)
        write_tsv(table(rows, SHARD), folder / "shard.tsv")
        read_images(
            folder / "shard.tsv", folder / "archive", folder / "1.zarr", ReadSettings.of(read), folder / "read.log"
        )
        cut_tiles(folder / "1.zarr", [Path(setup.model) / "crystal.yaml"], folder / "2.zarr", setup.tile)
        infer_differences(str(folder / "2.zarr"), [setup.model], str(folder / "3.zarr"), setup.infer, 1)
        out = [str(folder / f"{part}.parquet") for part in ("defects", "images", "columns", "completeness")]
        first, second, third, maps = (str(folder / f"{k}.zarr") for k in (1, 2, 3, 4))
        find_defects(first, second, third, out[0], out[1], out[2], out[3], maps, setup.defects)
        defects, images, columns = (pl.read_parquet(path) for path in out[:3])
    return pl.DataFrame(
        [
            file_row(
                field,
                rows[k],
                *(t.filter(pl.col("image_id") == rows[k]["file_id"]) for t in (defects, images, columns)),
            )
            for k, field in enumerate(fields)
        ],
        infer_schema_length=None,
    )


# ---------------------------------------------------------------- the rule


def ideals(library: Library, crystal: Crystal, kinds: tuple[Kind, ...], pixel_nm: float = 0.0125) -> dict[str, float]:
    """Ideal d' at 1 e/px of every kind under the conditions of detection."""
    conditions = detection_conditions(library, 1.0, 0.0, np.random.default_rng(0), pixel_nm)
    return {
        kind.name: ideal_per_root_dose(library, crystal, replace(conditions, rotation_deg=11.0), kind) for kind in kinds
    }


def main(
    library_card: str,
    model_dir: str,
    published: str,
    out_dir: str,
    settings: dict[str, Any],
    stages: dict[str, dict[str, Any]],
    provenance: dict[str, Any],
    threads: int,
) -> None:
    """Run the benchmark and write its page and its tables.

    Parameters
    ----------
    published : str
        File of the published network's weights, as `train_published` writes it; "" where it is none of the methods.
    settings : dict
        Section `benchmark` of the config: ``size``, ``methods``; and ``seed``.
    stages : dict
        Sections ``read``, ``tile``, ``infer``, ``defects`` of the config.
    provenance : dict
        ``versions`` and ``config``, shown as they are.

    Raises
    ------
    ValueError
        If files are asked for and nionswift-io, which writes .dm4, is not installed.
    """
    plan, methods, seed = PLANS[settings["size"]], tuple(settings["methods"]), int(settings["seed"])
    if plan.files and importlib.util.find_spec("nionswift_plugin") is None:
        raise ValueError(
            "benchmark: found no package nionswift-io; needed to write .dm4 files: pip install nionswift-io"
        )
    library, model = load_library(Path(library_card)), load_model(Path(model_dir))
    kinds = {name: _kinds(library_card, model_dir, name, plan.every) for name in KIND_SETS}
    setup = Setup(
        library_card,
        model_dir,
        stages["infer"],
        stages["tile"],
        DefectSettings.of(stages["defects"]),
        published,
        plan.every,
    )
    jobs = jobs_of(plan, library, model, methods, seed)
    findings = Findings(methods)
    for done, outcome in enumerate(run_all(jobs, setup, threads), 1):
        findings.add(outcome)
        if done % 10 == 0 or done == len(jobs):
            print(f"{done} of {len(jobs)} fields", flush=True)
    files = whole_files(plan, setup, stages["read"], seed)
    ideal = ideals(library, model.crystal, (*kinds["detection"],))
    tables = summarise(findings, kinds, ideal, files, stages["defects"])
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for name, found in tables.items():
        with whole_file(out / f"{name}.csv") as part:
            found.write_csv(part)
    about = {
        "seed": seed,
        "size": settings["size"],
        "published_band_std": stages["defects"]["published_band_std"],
        "library_sha256": library.sha256,
        "model_sha256": model.sha256,
    }
    write_page(out, tables, findings.crops, plan, about | provenance)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.library,
        str(Path(snakemake.input.model).parent),
        str(snakemake.input.get("published", "")),
        str(Path(snakemake.output.page).parent),
        dict(snakemake.params.settings),
        {name: dict(stage) for name, stage in snakemake.params.stages.items()},
        dict(snakemake.params.provenance),
        snakemake.threads,
    )
