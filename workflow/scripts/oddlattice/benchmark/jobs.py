"""The fields that the benchmark composes, and what they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.benchmark.fields import (
    detection_conditions,
    varied_conditions,
)
from oddlattice.benchmark.kinds import Kind, detection_kinds, partial_kinds, published_kinds
from oddlattice.benchmark.plans import Plan
from oddlattice.benchmark.published import (
    PublishedVAE,
    load_published,
)
from oddlattice.model.folder import Model, load_model
from oddlattice.run.stage_settings import DefectSettings, InferSettings, ReadSettings, TileSettings
from oddlattice.simulate.columnwise import Conditions
from oddlattice.simulate.library import Library, load_library


@dataclass(frozen=True)
class Setup:
    """What all fields share."""

    library: str
    model: str
    published: str  # file of the published network's weights; "" without it
    every: int  # of the kinds of the detection experiment, every so many
    read: ReadSettings
    tile: TileSettings
    infer: InferSettings
    defects: DefectSettings

    @classmethod
    def of(
        cls, library: str, model: str, published: str, every: int, stages: Mapping[str, Mapping[str, Any]]
    ) -> "Setup":
        """With the sections ``read``, ``tile``, ``infer``, ``defects`` of the config."""
        settings = ReadSettings.of(stages["read"]), TileSettings.of(stages["tile"]), InferSettings.of(stages["infer"])
        return cls(library, model, published, every, *settings, DefectSettings.of(stages["defects"]))


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
def cached_library(card: str) -> Library:
    """The library of a card, loaded once a process."""
    return load_library(Path(card))


@cache
def cached_model(folder: str) -> Model:
    """The model of a folder, loaded once a process."""
    return load_model(Path(folder))


@cache
def cached_published(path: str) -> PublishedVAE:
    """The published network, loaded once a process."""
    return load_published(Path(path))


@cache
def cached_kinds(library: str, model: str, name: str, every: int) -> tuple[Kind, ...]:
    """The kinds of a set by name, none for ""."""
    found = KIND_SETS[name](cached_library(library), cached_model(model).crystal) if name else ()
    return found[::every] if name == "detection" else found


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
