"""Known defects that are put into every image: what a model lists, for completeness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trial:
    """A known defect.

    Attributes
    ----------
    name, site, kind : str
        `kind` is what a listed defect would be called.
    atoms, of_atoms : int
        Atoms changed, of so many in the column; 0 where the column is changed as a whole.
    thickness_nm : float
        Of the specimen in which `change` holds.
    change : float
        Relative intensity change of the column.
    shift_pm : float
    """

    name: str
    site: str
    kind: str
    atoms: int
    of_atoms: int
    thickness_nm: float
    change: float
    shift_pm: float


def plain_trials(sites: Sequence[str]) -> list[Trial]:
    """Trials for a crystal of which no library of defects is known: columns emptied, halved, displaced."""
    return [
        Trial(f"{site} {name}", site, kind, 0, 0, 0.0, change, shift_pm)
        for site in sites
        for name, kind, change, shift_pm in (
            ("empty", "vacancy-like", -1.0, 0.0),
            ("−50 %", "lighter", -0.5, 0.0),
            ("−20 %", "lighter", -0.2, 0.0),
            ("+50 %", "heavier", 0.5, 0.0),
            ("moved 10 pm", "displaced", 0.0, 10.0),
            ("moved 20 pm", "displaced", 0.0, 20.0),
        )
    ]


def trials_of(meta: Mapping[str, Any], sites: Sequence[str]) -> list[Trial]:
    """The trials that a model.yaml lists, or plain ones."""
    listed = meta.get("trial_defects")
    return [Trial(**entry) for entry in listed] if listed else plain_trials(sites)
