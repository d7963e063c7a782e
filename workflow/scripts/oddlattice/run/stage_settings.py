"""The settings of each stage: one class a section of config.yaml, where the defaults and the units stand.

The schema has checked the values before a stage sees them; the science takes them from here by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


class _Section:
    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Self:
        """Settings from a section of the checked config; TypeError where a key is missing or unknown."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in section.items()})

    def as_dict(self) -> dict[str, Any]:
        """The section again, as it is written beside results."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


@dataclass(frozen=True)
class ReadSettings(_Section):
    """`read`: which signals and frames of a file become images, and what a file may cost."""

    detectors: str | tuple[str, ...]
    frames: str
    virtual_dark_field: tuple[float, float]
    min_px: int
    timeout_s: float
    memory_mb: int


@dataclass(frozen=True)
class TileSettings(_Section):
    """`tile`: what decides whether a lattice is a crystal's."""

    length_tolerance: float
    strain_tolerance: float
    content_minimum: float


@dataclass(frozen=True)
class InferSettings(_Section):
    """`infer`: how bulk is predicted, on what device, and when an image is not of the model's crystal."""

    method: str
    device: str
    batch: int
    precision: str
    smooth_cells: float
    misfit_limit: float


@dataclass(frozen=True)
class DefectSettings(_Section):
    """`defects`: which columns are listed."""

    fdr: float
    shift_share: float
    published_threshold: float
    extended_columns: int
    published_band_std: float
    fdr_over: str = "image"  # of the gathered tables alone: shards are not told


@dataclass(frozen=True)
class StatisticsSettings(_Section):
    """`statistics`: how images are compared."""

    group_by: str


@dataclass(frozen=True)
class ReportSettings(_Section):
    """`report`: what the pages point out."""

    density_stands_out: float


@dataclass(frozen=True)
class TrainSettings(_Section):
    """`train`: what a model is trained on, and how long."""

    name: str
    source: str
    library: str
    bulk: tuple[Mapping[str, Any], ...]
    steps: int
    batch: int
    latent: int
    channels: tuple[int, int, int]
    basis: int
    crystal: str | Mapping[str, Any] | None = None  # the one key that may be left out: models/<name>/crystal.yaml then


@dataclass(frozen=True)
class BenchmarkSettings(_Section):
    """`benchmark`: which methods are measured on how many fields."""

    size: str
    methods: tuple[str, ...]
    library: str


#: The class of each section that a stage takes.
SECTIONS = {
    "read": ReadSettings,
    "tile": TileSettings,
    "infer": InferSettings,
    "defects": DefectSettings,
    "statistics": StatisticsSettings,
    "report": ReportSettings,
    "train": TrainSettings,
    "benchmark": BenchmarkSettings,
}
