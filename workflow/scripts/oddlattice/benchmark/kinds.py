"""Kinds of defects that the benchmark places."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from oddlattice.crystal import Crystal
from oddlattice.defects.kind_probabilities import EMPTY_BELOW
from oddlattice.simulate.columnwise import Defect
from oddlattice.simulate.compose import AtomDefect, difference_image, find_change, library_conditions
from oddlattice.simulate.library import Library

THICKNESS_CELLS = 20  # of the fields on which detection is measured
PARTIAL = (0.85, 0.7, 0.5, 1.3)  # factors on a column's own image, for intervals of the intensity change
PUBLISHED_SHIFT = 7 / 23.8  # displacement in the published method's data [cells]


@dataclass(frozen=True)
class Kind:
    """One kind of defect.

    Attributes
    ----------
    name, site, family : str
        `family` is ``vacancy``, ``substitution``, ``displaced`` or ``partial``.
    defect : Defect
        In cell (0, 0); a displacement gets its direction when it is placed.
    atoms : int
        Atoms changed; 0 for a displacement.
    shift_pm : float
    whole : bool
        Whether all atoms are changed.
    change : float
        Change of the column's own image in intensity, by least squares on the library's images.
    """

    name: str
    site: str
    family: str
    defect: Defect
    atoms: int
    shift_pm: float
    whole: bool
    change: float

    @property
    def called(self) -> str:
        """What the pipeline should call it."""
        if self.family == "displaced":
            return "displaced"
        return "heavier" if self.change > 0 else "vacancy-like" if self.change < EMPTY_BELOW else "lighter"


def _change_of(library: Library, crystal: Crystal, defect: Defect) -> float:
    conditions = library_conditions(library)
    own = -library.planes(library.differences[f"{crystal.columns[defect.column].site}-empty"], THICKNESS_CELLS)
    added = difference_image(library, crystal, conditions, defect, THICKNESS_CELLS)
    return float((added * own).sum() / (own * own).sum())


def _kind(library: Library, crystal: Crystal, name: str, family: str, defect: Defect, **more: Any) -> Kind:
    about: dict[str, Any] = {"atoms": 0, "shift_pm": float(np.hypot(*defect.shift_pm)), "whole": False} | more
    change = 0.0 if family == "displaced" else _change_of(library, crystal, defect)
    return Kind(name, crystal.columns[defect.column].site, family, defect, change=change, **about)


def detection_kinds(library: Library, crystal: Crystal) -> tuple[Kind, ...]:
    """The library's defects, each once, in a specimen of THICKNESS_CELLS cells."""
    found: dict[str, Kind] = {}
    column_of = {column.site: index for index, column in enumerate(crystal.columns) if column.tested}
    for change in library.changes.values():
        if change.site not in column_of:
            continue
        column, atoms = column_of[change.site], change.atoms or THICKNESS_CELLS
        whole = atoms == THICKNESS_CELLS
        if change.change == "displaced":
            defect = Defect((0, 0), column, "displaced", shift_pm=(0.0, change.shift_pm))
            kind = _kind(library, crystal, f"{change.site} moved {change.shift_pm:g} pm", "displaced", defect)
        elif change.change == "empty":
            defect = Defect((0, 0), column, "vacancy", factor=0.0)
            kind = _kind(library, crystal, f"{change.site} empty", "vacancy", defect, atoms=atoms, whole=True)
        else:
            family, part = ("substitution", f"{change.by} for") if change.by else ("vacancy", "missing")
            atomic = AtomDefect((0, 0), column, family, of=change.of, by=change.by, changed=change.atoms)
            name = f"{change.site} {part} {atoms}" if change.by else f"{change.site} {atoms} {part}"
            name = f"{change.by} on {change.site}, {'all' if whole else atoms}" if change.by else name
            find_change(library, atomic, change.site, THICKNESS_CELLS)
            kind = _kind(library, crystal, name, family, atomic, atoms=atoms, whole=whole)
        found.setdefault(kind.name, kind)
    return tuple(found.values())


def trial_defects(library: Library, crystal: Crystal) -> list[dict[str, Any]]:
    """The same as a model lists them, to be put into the images it analyses; see `trials.Trial`."""
    return [
        {
            "name": kind.name,
            "site": kind.site,
            "kind": kind.called,
            "atoms": kind.atoms,
            "of_atoms": THICKNESS_CELLS if kind.atoms else 0,
            "thickness_nm": round(THICKNESS_CELLS * library.cell_nm[2], 4),
            "change": round(kind.change, 4),
            "shift_pm": kind.shift_pm,
        }
        for kind in detection_kinds(library, crystal)
    ]


def published_kinds(library: Library, crystal: Crystal) -> tuple[Kind, ...]:
    """The six classes of the published method: whole columns emptied, exchanged, and moved by 0.29 cell."""
    whole = [kind for kind in detection_kinds(library, crystal) if kind.whole]
    shift_pm = 1000 * PUBLISHED_SHIFT * crystal.a_nm
    moved = [
        _kind(
            library,
            crystal,
            f"{column.site} moved {shift_pm:.0f} pm",
            "displaced",
            Defect((0, 0), index, "displaced", shift_pm=(0.0, shift_pm)),
        )
        for index, column in enumerate(crystal.columns)
        if column.tested
    ]
    return (*whole, *moved)


def partial_kinds(library: Library, crystal: Crystal) -> tuple[Kind, ...]:
    """Columns with part of their own image missing or added, and displaced ones: their truth is a number."""
    found = []
    for index, column in enumerate(crystal.columns):
        if not column.tested:
            continue
        for factor in (*PARTIAL, 0.0):
            name = f"{column.site} {'+' if factor > 1 else '−'}{100 * abs(factor - 1):.0f} %"
            found.append(_kind(library, crystal, name, "partial", Defect((0, 0), index, "partial", factor=factor)))
        for shift_pm in (10.0, 20.0, 40.0):
            defect = Defect((0, 0), index, "displaced", shift_pm=(0.0, shift_pm))
            found.append(_kind(library, crystal, f"{column.site} moved {shift_pm:g} pm", "displaced", defect))
    return tuple(found)
