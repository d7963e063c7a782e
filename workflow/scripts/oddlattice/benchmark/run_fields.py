"""Fields composed and analysed, by every method."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import polars as pl
import torch
import zarr
from zarr.storage import MemoryStore

from oddlattice.benchmark.crop_pictures import crops_of, published_crops
from oddlattice.benchmark.fields import (
    compose_field,
)
from oddlattice.benchmark.jobs import Job, Setup, cached_kinds, cached_library, cached_model, cached_published
from oddlattice.benchmark.published import (
    PublishedVAE,
    average_near_maximum,
    patches_at,
    predict,
    prepared,
    whole_patches,
)
from oddlattice.benchmark.tables import BULK
from oddlattice.benchmark.truth import column_table, defect_table
from oddlattice.crystal import Crystal
from oddlattice.defects.find import find_in_image
from oddlattice.defects.listing import Judged
from oddlattice.defects.registered import Registered, load_registered
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.tile_image import tiled_attributes, write_registration
from oddlattice.lattice.which_crystal import NoModelError
from oddlattice.model.folder import Model
from oddlattice.numerics.arrays import Array, Float
from oddlattice.predict.infer_image import infer_image
from oddlattice.predict.predictor import Predictor
from oddlattice.process.parent_death import die_with_parent
from oddlattice.storage.groups import values_of

PUBLISHED_BULK = 150  # bulk columns of a field that the published network is asked about: it is slow


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
    if reason := infer_image(source, target, model, predictor, replace(setup.infer, method=predictor.method)):
        return reason
    image = load_registered(source, target, (pixel_nm, pixel_nm))
    return image, find_in_image(image, setup.defects)[0]


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
    library, model = cached_library(setup.library), cached_model(setup.model)
    kinds = cached_kinds(setup.library, setup.model, job.kinds, setup.every)
    field = compose_field(library, model.crystal, job.conditions, job.shape, kinds, job.seed, job.first)
    pixel_nm = job.conditions.pixel_nm
    outcome = Outcome(job, {}, {}, {}, {})
    try:
        found = fit_registration(field.scan.counts, [model.crystal], (pixel_nm, pixel_nm), setup.tile)
    except (NoLatticeError, NoModelError) as error:
        outcome.refused[""] = str(error)
        return outcome
    source = tiled(field.scan.counts, found, pixel_nm)
    tiles = values_of(source, "tiles")
    for method in job.methods:
        if method == "published":
            continue
        predictor = Predictor(model, replace(setup.infer, method=method), 1)
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
        network = cached_published(setup.published)
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
