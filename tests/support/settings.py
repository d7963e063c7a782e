"""The settings of a stage as config.yaml has them, single ones changed."""

from pathlib import Path
from typing import Any, TypeVar

from oddlattice.run.settings import load_yaml
from oddlattice.run.stage_settings import SECTIONS

ROOT = Path(__file__).parents[2]
Section = TypeVar("Section")


def default(section: type[Section], **changes: Any) -> Section:
    """Settings of `section`, e.g. ``default(DefectSettings, fdr=0.1)``."""
    (name,) = (key for key, known in SECTIONS.items() if known is section)
    made: Section = section.of(load_yaml(ROOT / "config.yaml")[name] | changes)  # type: ignore[attr-defined]
    return made
