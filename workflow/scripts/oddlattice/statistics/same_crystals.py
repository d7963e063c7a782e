"""Crystals that images show themselves, laid onto each other: which are the same, and which of their sites.

Letters of sites are each image's own, by brightness: noise, another rotation or origin may change them. Where the
tables of all shards are gathered the cells are laid onto each other, and a site gets one name in all images. What two
images do not tell, because several ways to lay the one onto the other fit as well, stays without a name.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import TURNS, column_distance
from oddlattice.lattice.identity import alternatives
from oddlattice.numerics.arrays import Array
from oddlattice.storage.rows import Row

STRETCH, STRETCH_ERROR = 0.08, 0.02  # logarithm of what scan distortion does to a cell at most, and usually
SIZE = 0.08  # logarithm of what headers are wrong by
REACH, PLACE_ERROR = 0.2, 0.05  # of the distance between columns: what one may be off, and usually is
BRIGHTNESS, BRIGHTNESS_ERROR = 0.7, 0.1  # logarithm of brightness: what thickness may change, and usually does
LEAST_BRIGHTNESS = 1e-3  # of the brightest
FAINT = 0.25  # of the brightest: a column that another image need not show
AS_WELL = 6.0  # in chi-square: ways to lay a cell onto another that are not told apart
LETTERS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"


@dataclass(frozen=True)
class Cell:
    """The cell of a grain as its image shows it.

    Attributes
    ----------
    grain : tuple of (str, int)
        image_id and number.
    vectors : ndarray of shape (2, 2)
        [nm]; [px] where `sized` is False.
    places, bright, sigma : ndarray of shape (n, 2), (n,), (n,)
        (u, v); logarithm of brightness, and its error.
    sites : tuple of str
        Without numbers of equivalent columns.
    name : str
        The crystal's, "" where it is not sure.
    weight : int
        Columns tested.
    """

    grain: tuple[str, int]
    vectors: Array
    sized: bool
    places: Array
    bright: Array
    sigma: Array
    sites: tuple[str, ...]
    name: str
    weight: int

    @classmethod
    def of(cls, row: Row, name: str) -> Self:
        """The cell of a row of products.GRAINS."""
        sites, u, v, bright, sigma = zip(*json.loads(row["own_columns"]), strict=True)
        sized, gamma = row["a_nm"] is not None, np.deg2rad(row["gamma_deg"])
        a, b = (row[f"{axis}_{'nm' if sized else 'px'}"] for axis in "ab")
        return cls(
            grain=(str(row["image_id"]), int(row["grain"])),
            vectors=np.array([[a, 0.0], [b * np.cos(gamma), b * np.sin(gamma)]]),
            sized=sized,
            places=np.stack([u, v], 1),
            bright=np.log(np.maximum(bright, LEAST_BRIGHTNESS)),
            sigma=np.array(sigma) / np.maximum(bright, LEAST_BRIGHTNESS),
            sites=tuple(site.rstrip(DIGITS) for site in sites),
            name=name,
            weight=int(row["columns_tested"] or 0),
        )

    @property
    def apart(self) -> float:
        """Distance between the nearest columns, in the unit of `vectors`."""
        return column_distance(self.vectors, self.places)


@dataclass
class Group:
    """Grains of one crystal: the first is the one that the others are laid onto.

    Attributes
    ----------
    onto : dict
        Of each grain, for each column the column of the first that it is; -1 where that is not told.
    brightness : list of (weight, ndarray)
        What the columns of the first are in each grain; nan where a grain does not tell.
    """

    first: Cell
    name: str
    onto: dict[tuple[str, int], npt.NDArray[np.intp]] = field(default_factory=dict)
    brightness: list[tuple[int, Array]] = field(default_factory=list)

    def take(self, cell: Cell, onto: npt.NDArray[np.intp]) -> None:
        """Let a grain be of this crystal."""
        self.onto[cell.grain], self.name = onto, max(self.name, cell.name, key=_open)
        bright = np.full(len(self.first.bright), np.nan)
        bright[onto[onto >= 0]] = np.exp(cell.bright[onto >= 0])
        self.brightness.append((cell.weight, bright))

    def site_names(self) -> list[str]:
        """Name of the site of each column of the first: its element, or a letter by brightness in all grains."""
        sites = self.first.sites
        if not set(sites) <= set(LETTERS):
            return list(sites)
        weight = np.array([max(w, 1) for w, _ in self.brightness], dtype=float)[:, None]
        bright = np.stack([some for _, some in self.brightness])
        mean = np.nansum(weight * bright, 0) / (weight * np.isfinite(bright)).sum(0)
        of_site = {site: float(mean[[s == site for s in sites]].mean()) for site in sites}
        order = sorted(of_site, key=lambda site: -of_site[site])
        return [LETTERS[order.index(site)] for site in sites]


def _open(name: str) -> int:
    """How many crystals a name leaves open; none where there is no name."""
    return len(alternatives(name)) if name else 0


def may_be_one(name: str, other: str) -> bool:
    """Whether crystals of these names may be one: one name leaves open all that the other does, or there is none."""
    if not name or not other:
        return True
    few, many = sorted((alternatives(name), alternatives(other)), key=len)
    return few <= many


def laid_onto(cell: Cell, other: Cell) -> npt.NDArray[np.intp] | None:
    """For each column of a cell the column of another that it is, -1 where that is not told; None: not one crystal.

    A faint column may be missing in `cell`, no column in `other`.
    """
    if len(cell.places) > len(other.places) or not may_be_one(cell.name, other.name):
        return None
    ways: list[tuple[float, npt.NDArray[np.intp]]] = []
    for turn in TURNS:
        bend = np.linalg.inv(other.vectors) @ turn @ cell.vectors
        large, small = np.linalg.svd(bend, compute_uv=False)
        stretch = float(np.log(large / small))
        size = abs(float(np.log(large * small))) / 2
        if stretch > STRETCH or (cell.sized and other.sized and size > SIZE):
            continue
        ways += _ways(cell, other, cell.places @ np.linalg.inv(turn), (stretch / STRETCH_ERROR) ** 2)
    if not ways:
        return None
    best = min(chi2 for chi2, _ in ways)
    likely = np.stack([onto for chi2, onto in ways if chi2 < best + AS_WELL])
    sites = np.array([other.sites.index(site) for site in other.sites])[likely]
    return np.asarray(np.where((sites == sites[0]).all(0), likely[0], -1))


def _ways(cell: Cell, other: Cell, places: Array, start: float) -> list[tuple[float, npt.NDArray[np.intp]]]:
    """How columns at `places` in the other's axes can be laid onto its own, with the chi-square of each way."""
    ways, unit = [], other.apart
    brightest = int(cell.bright.argmax())
    for anchor in other.places:
        off = (places + anchor - places[brightest])[:, None] - other.places
        off = (off - np.rint(off)) @ other.vectors
        onto = np.hypot(off[..., 0], off[..., 1]).argmin(1)
        if len(set(onto.tolist())) < len(onto):
            continue
        away = off[np.arange(len(onto)), onto]
        away = np.linalg.norm(away - away.mean(0), axis=1) / unit
        ratio = cell.bright - other.bright[onto]
        error = np.sqrt(cell.sigma**2 + other.sigma[onto] ** 2 + BRIGHTNESS_ERROR**2)
        ratio = ratio - np.average(ratio, weights=error**-2)
        missing = np.setdiff1d(np.arange(len(other.places)), onto)
        unseen = (other.bright[missing] > np.log(FAINT) + other.bright.max()).any()
        if unseen or away.max() > REACH or (np.abs(ratio) > np.maximum(BRIGHTNESS, 3 * error)).any():
            continue
        chi2 = start + float(((away / PLACE_ERROR) ** 2).sum() + ((ratio / error) ** 2).sum())
        ways.append((chi2, onto))
    return ways


def groups_of(cells: Sequence[Cell]) -> list[Group]:
    """Cells of the same crystal together; those with most columns, names and area come first."""
    found: list[Group] = []
    order = sorted(cells, key=lambda c: (-len(c.places), not c.name, -c.weight, c.grain))
    for cell in order:
        for group in found:
            first = group.first
            onto = laid_onto(cell, first) if may_be_one(cell.name, group.name) else None
            if onto is not None:
                group.take(cell, onto)
                break
        else:
            group = Group(cell, cell.name)
            group.take(cell, np.arange(len(cell.places)))
            found.append(group)
    return sorted(found, key=lambda g: -sum(weight for weight, _ in g.brightness))
