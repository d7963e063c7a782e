"""Who is it: the crystal of an image, by its lattice and its columns, against a library of crystals and axes.

Each crystal and axis is a hypothesis, and so is "none of these": a lattice of any shape with columns anywhere. Their
likelihoods are those of the cell's shape (scan distortion), its length (headers may lie) and its columns (places and
brightness). What the image cannot tell apart is named as a class.
"""

import re
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np

from oddlattice.lattice.crystal_views import Entry, Library
from oddlattice.lattice.match_views import Match, best_matches
from oddlattice.lattice.seen_cell import Observed, SeenCell, lattice_name

SURE = 0.9  # probability from which on a crystal is named
FAINT_CANDIDATE = 0.01  # a candidate below this is not listed
ALONE_LEAST = 0.95  # a candidate that holds so much, the others being that faint, is named alone
FAINT_MEMBER = 0.003  # a class takes in every candidate above this
CLASS_PART = 0.99  # and more until it holds this much of what the library explains
LONE_PART = 0.95  # the same where one column a cell leaves nothing but a length
MANY, MANY_FAMILIES = 6, 3  # a class of more crystals is said by its families, of more families not at all
FAMILIES_BY_SHAPE = 2  # nor where only the shape of the cell is known, of more than these
UNKNOWN_PRIOR = 0.5  # ASSUME: so many images show a crystal that the library does not hold
#: The same of two columns a cell: by chance they look like one of the library oftener than a probability tells. Of
#: 3,000 random cells eight were named from 0.9 on, all of them of two columns, and four from here on.
SURE_OF_TWO = 0.97
EITHER = re.compile(", | or ")


@dataclass(frozen=True)
class Candidate:
    """A crystal along an axis, and how likely it is."""

    entry: Entry
    probability: float
    match: Match


@dataclass(frozen=True)
class Identity:
    """What an image's crystal is, as far as the image tells.

    Attributes
    ----------
    kind : str
        ``crystal``: one, named; ``class``: one of several that look alike; ``lattice``: only the kind of lattice is
        known, of a single column without a length; ``unknown``.
    name : str
        Name of the crystal or class; "" where it is unknown.
    probability : float
        Of that name; of the best candidate where it is unknown.
    candidates : tuple of Candidate
        The most likely first, down to a hundredth.
    none : float
        Probability that the library does not hold the crystal.
    sites : tuple of str
        Name of each column of the image; "" where it is not known.
    pixel_nm : float or None
        Pixel size by the crystal's lattice constants; None where the members of a class differ.
    sizes_nm : tuple of float
        The same by the lattice constants of each candidate.
    """

    kind: str
    name: str
    probability: float
    candidates: tuple[Candidate, ...]
    none: float
    sites: tuple[str, ...]
    pixel_nm: float | None
    sizes_nm: tuple[float, ...] = ()


def identify(seen: Observed, library: Library) -> Identity:
    """The crystal of an image.

    Parameters
    ----------
    seen : Observed
    library : Library
        See `crystal_views.load_library`.
    """
    cell = SeenCell.of(seen)
    matches = best_matches(cell, library)
    totals = np.full(len(library.entries), -np.inf)
    for number, (total, _) in matches.items():
        totals[number] = total
    logs = np.append(totals + np.log((1 - UNKNOWN_PRIOR) * library.prior), log(UNKNOWN_PRIOR) + cell.log_unknown())
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    order = [int(k) for k in np.argsort(-weights[:-1], kind="stable") if weights[k] > 0.001]
    found = [Candidate(library.entries[k], float(weights[k]), matches[k][1]) for k in order]
    who = _named(seen, cell, found, float(weights[-1]))
    return replace(who, sizes_nm=tuple(_pixel_nm(cell, one.match) for one in who.candidates))


def _named(seen: Observed, cell: "SeenCell", found: list[Candidate], none: float) -> Identity:
    """Name one candidate, a class, or nothing."""
    lone = len(cell.places) == 1
    members = _members(found, (1 - none) * (LONE_PART if lone else CLASS_PART), 1.0 if lone else FAINT_MEMBER)
    total = sum(member.probability for member in members)
    listed = tuple(one for one in found if one.probability >= FAINT_CANDIDATE)
    unnamed = ("",) * len(seen.places)
    by_length = seen.pixel_nm is not None and lattice_name(cell.shape) in ("square", "hexagonal")
    poor = lone and not (total > SURE and by_length)
    families = len({one.entry.family for one in members})
    many = families > MANY_FAMILIES and len(members) > MANY if seen.pixel_nm else families > FAMILIES_BY_SHAPE
    if poor or (total > SURE and many):
        special = 1 - none * cell.part_of_no_special_shape()
        if special > SURE:
            return Identity("lattice", cell.described(), special, listed, none, unnamed, None)
    if total <= (SURE_OF_TWO if len(cell.places) == 2 else SURE) or many:
        return Identity("unknown", "", found[0].probability if found else 0.0, listed, none, unnamed, None)
    kind = "crystal" if len(members) == 1 else "class"
    return Identity(kind, label(members), total, listed, none, _sites(cell, members), _ruler(cell, members))


def _members(found: list[Candidate], enough: float, faint: float) -> list[Candidate]:
    """The best candidate alone where the others hardly count, else all that make up `enough`, and those not `faint`."""
    if found and found[0].probability >= ALONE_LEAST and all(one.probability < FAINT_CANDIDATE for one in found[1:]):
        return found[:1]
    members: list[Candidate] = []
    for one in found:
        if sum(member.probability for member in members) >= enough and one.probability < faint:
            break
        members.append(one)
    return members


def label(members: list[Candidate]) -> str:
    """Name of a class: crystals by axis where they are few, else axes by family; the same whichever is likeliest."""
    names: dict[str, dict[str, None]] = {}
    if len(members) <= MANY:
        for one in members:
            names.setdefault(one.entry.axis, {})[one.entry.crystal] = None
        return "; ".join(f"{_either(sorted(crystals))} {axis}" for axis, crystals in sorted(names.items()))
    for one in members:
        names.setdefault(one.entry.family or one.entry.crystal, {})[one.entry.axis] = None
    return "; ".join(f"{family} {_either(sorted(axes))}" for family, axes in sorted(names.items()))


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def alternatives(name: str) -> frozenset[tuple[str, str]]:
    """Each crystal or family, with its axis, that a name given by `label` leaves open."""
    found = set()
    for part in name.split("; "):
        crystals, _, axes = part.partition(" [")
        found |= {(one, axis) for one in EITHER.split(crystals) for axis in EITHER.split(f"[{axes}" if axes else "")}
    return frozenset(found)


def _sites(cell: "SeenCell", members: list[Candidate]) -> tuple[str, ...]:
    """Names of the image's columns on which all members agree."""
    said = []
    for one in members:
        view = one.match.view
        names = [one.entry.sites[view.origin[k]] if k >= 0 else "" for k in one.match.partner]
        said.append([names[k] for k in cell.of_column])
    return tuple(names[0] if len(set(names)) == 1 else "" for names in zip(*said, strict=True))


def _ruler(cell: "SeenCell", members: list[Candidate]) -> float | None:
    """Pixel size by the members' lattice constants [nm], where they agree to half a per cent."""
    sizes = np.array([_pixel_nm(cell, one.match) for one in members])
    weights = np.array([one.probability for one in members])
    mean = float(sizes @ weights / weights.sum())
    return mean if np.abs(sizes / mean - 1).max() < 0.005 else None


def _pixel_nm(cell: "SeenCell", match: Match) -> float:
    return float(sqrt(match.view.area_nm2 / abs(np.linalg.det(match.cell @ cell.given_px))))
