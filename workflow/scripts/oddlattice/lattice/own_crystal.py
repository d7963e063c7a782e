"""The crystal that an image itself shows: its cell, its columns, and what they are called.

Nothing but the image is asked. Cell and names are the same whatever the rotation of the scan or the corner of the
field: the reduced cell with an angle of at least 90 degrees, a brightest column at its corner; columns that the cell's
own symmetry turns into each other share a site, and sites are A, B, C by brightness.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import OWN, TURNS, Crystal, column_distance, crystal_from_dict, px_per_cell_of
from oddlattice.lattice.fourier import Lattice, NoLatticeError, describe, find_lattice, reduced
from oddlattice.lattice.framing import Framing
from oddlattice.lattice.measure import OnLattice, measured_on
from oddlattice.lattice.own_columns import Coefficients, Columns, find_columns
from oddlattice.lattice.reflections import (
    LatticeMap,
    coefficients,
    generated,
    lattice_map,
    noise_at,
)
from oddlattice.lattice.register import USUAL, fit_registration
from oddlattice.lattice.registration import Registration
from oddlattice.numerics.arrays import Array
from oddlattice.run.stage_settings import TileSettings

LONGEST_FREQUENCY = 0.42  # [cycles/px], of the image and of the map
STRONG_POWER = 0.05  # of the strongest peak's power over background; weaker ones do not say what repeats
SEEN_POWER, SEEN_PART = 10.0, 0.01  # over noise, and of the largest coefficient: a coefficient so large is seen
BEYOND_SEEN = 1.1  # frequencies are used up to so many times the highest that is seen
ALONE = 2.2  # a coefficient seen at so many times the frequency of all others is hum of the scan
RIGHT_ANGLE_DEG = 2.5  # an angle so near 90 degrees is one
SAME_STRETCH = 1.12  # of the cell, by scan distortion, under which a symmetry may still be one of the crystal
SAME_LENGTH = 1.03  # vectors whose lengths differ by less are not told apart by them
SAME_SIGMAS, SAME_PLACE_WIDTHS, SAME_PART = 3.0, 0.25, 0.03  # what a symmetry may leave: errors, widths, intensity
NOMINAL_NM = 0.2


@dataclass(frozen=True)
class OwnCell:
    """The cell of an image as it shows itself.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Right-handed lattice vectors as rows, (row, col) [px].
    cell : ndarray of shape (2, 2), int
        The vectors in steps of the lattice on which the image was registered.
    origin : ndarray of shape (2,)
        (u, v) of the cell's corner, a column, in that lattice.
    columns : Columns
        Places as fractions of `vectors_px` from the corner; the brightest first.
    sites : tuple of str
        Name of each column.
    """

    vectors_px: Array
    cell: npt.NDArray[np.int64]
    origin: Array
    columns: Columns
    sites: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns, each its own: the site, and a number where a site has several columns."""
        several = {site for site in self.sites if self.sites.count(site) > 1}
        return [
            f"{site}{self.sites[: k + 1].count(site)}" if site in several else site for k, site in enumerate(self.sites)
        ]

    @property
    def nominal_nm(self) -> tuple[float, float]:
        """A pixel size to reckon with where none is known: neighbouring columns are then NOMINAL_NM apart."""
        size = NOMINAL_NM / column_distance(self.vectors_px, self.columns.places)
        return size, size

    def crystal(self, pixel_nm: tuple[float, float]) -> Crystal:
        """The cell as a crystal, with as many pixels as the distance between its columns asks for."""
        found = crystal_from_dict(self.as_dict(pixel_nm), Path("own"))
        return replace(found, px_per_cell=px_per_cell_of(self.vectors_px, self.columns.places))

    def as_dict(self, pixel_nm: tuple[float, float]) -> dict[str, Any]:
        """The cell as `crystal.yaml` states one; see `crystal.crystal_from_dict`."""
        a, b, gamma = describe(self.vectors_px * np.array(pixel_nm))
        bright = self.columns.intensity / self.columns.intensity.max()
        sigma = self.columns.intensity_sigma / self.columns.intensity.max()
        return {
            "name": OWN,
            "a_nm": round(a, 6),
            "b_nm": round(b, 6),
            "gamma_deg": round(gamma, 4),
            "columns": [
                {
                    "site": site,
                    "u": round(float(u), 5) % 1.0,
                    "v": round(float(v), 5) % 1.0,
                    "brightness": round(float(part), 4),
                    "brightness_sigma": round(float(error), 4),
                    "tested": True,
                }
                for site, (u, v), part, error in zip(self.names, self.columns.places, bright, sigma, strict=True)
            ],
        }


def find_own_cell(found: LatticeMap) -> OwnCell | None:
    """Cell and columns of a map; None where no column stands out of the noise."""
    steps = found.smallest_cell
    vectors = reduced(steps @ found.vectors_px)
    steps = np.rint(vectors @ np.linalg.inv(found.vectors_px)).astype(np.int64)
    columns = find_columns(seen_coefficients(found, steps))
    return None if columns is None else named(columns, vectors, steps)


def seen_coefficients(found: LatticeMap, cell: npt.NDArray[np.int64]) -> Coefficients:
    """Coefficients of a cell of the map's lattice, up to the highest frequency at which it shows anything."""
    vectors = cell @ found.vectors_px
    limit = min(
        LONGEST_FREQUENCY,
        *(LONGEST_FREQUENCY * n / np.hypot(*v) for n, v in zip(found.px, found.vectors_px, strict=True)),
    )
    reach = [int(limit * np.hypot(*v)) + 1 for v in vectors]
    grid = [(h, k) for h in range(reach[0] + 1) for k in range(-reach[1], reach[1] + 1) if h > 0 or k > 0]
    orders = np.array(grid)
    frequency = np.hypot(*(orders @ np.linalg.inv(vectors).T).T)
    orders, frequency = orders[frequency < limit], frequency[frequency < limit]
    at = orders @ np.linalg.inv(cell).T
    size = coefficients(found, at)
    noise = noise_at(found, found.beyond_cell, at)
    seen = (np.abs(size) ** 2 > SEEN_POWER * 2 * noise**2) & (np.abs(size) > SEEN_PART * np.abs(size).max())
    used = frequency <= BEYOND_SEEN * highest_seen(frequency[seen], float(frequency.min()))
    return Coefficients(orders[used], size[used], noise[used], vectors)


def highest_seen(frequencies: Array, lowest: float) -> float:
    """Highest of the frequencies (n,) at which something is seen, up to a gap; the `lowest` there is if nothing is.

    Columns damp their waves the more, the higher these are.
    """
    rising = np.sort(frequencies) if len(frequencies) else np.array([lowest])
    gaps = np.flatnonzero(rising[1:] > ALONE * rising[:-1])
    return float(rising[gaps[0]] if len(gaps) else rising[-1])


# ---------------------------------------------------------------- symmetry and names


def named(columns: Columns, vectors_px: Array, steps: npt.NDArray[np.int64]) -> OwnCell:
    """Columns with their sites, in the cell and from the corner that are the same whatever the rotation or origin."""
    site_of = sites(columns, vectors_px)
    first = np.flatnonzero(site_of == 0)
    tried = []
    for turn in _bases(vectors_px):
        for corner in first:
            places = (columns.places - columns.places[corner]) @ np.linalg.inv(turn)
            tried.append((_signature(places, columns.intensity), turn, columns.places[corner]))
    best = min(value for value, _, _ in tried)
    limit = best + 0.02 * float(columns.intensity.sum())
    # what is left to choose from looks alike: a points along +row as well as it can
    _, turn, corner = max((t for t in tried if t[0] <= limit), key=lambda t: round(float((t[1] @ vectors_px)[0, 0]), 6))
    places = (columns.places - corner) @ np.linalg.inv(turn)
    places = (places + 5e-3) % 1.0 - 5e-3
    order = np.lexsort((places[:, 1].round(2), places[:, 0].round(2), np.abs(places).sum(1) > 1e-9, site_of))
    kept = replace(
        columns,
        places=places[order],
        intensity=columns.intensity[order],
        place_sigma=columns.place_sigma[order],
        intensity_sigma=columns.intensity_sigma[order],
        widths=columns.widths[order],
    )
    names = tuple(_letter(int(k)) for k in site_of[order])
    return OwnCell(turn @ vectors_px, turn @ steps, corner @ steps, kept, names)


def _bases(vectors_px: Array) -> list[npt.NDArray[np.int64]]:
    """Right-handed bases of a lattice that may be its own: shortest, angle at least 90 degrees, a the shorter one."""
    shapes = [(turn, *describe(turn @ vectors_px)) for turn in TURNS if round(np.linalg.det(turn)) == 1]
    shapes = [entry for entry in shapes if entry[3] > 90 - RIGHT_ANGLE_DEG]
    shortest = min(a for _, a, _, _ in shapes)
    shapes = [entry for entry in shapes if entry[1] < SAME_LENGTH * shortest]
    other = min(b for _, _, b, _ in shapes)
    return [turn for turn, _, b, _ in shapes if b < SAME_LENGTH * other]


def _letter(number: int) -> str:
    """A to Z, then AA, AB, ..."""
    return chr(ord("A") + number) if number < 26 else _letter(number // 26 - 1) + _letter(number % 26)


def _signature(places: Array, intensity: Array) -> float:
    """A number that differs between cells that are not the same but turned or moved."""
    u, v = 2 * np.pi * places.T
    return float(intensity @ (np.cos(u - 0.7) + 0.7 * np.cos(v - 1.4) + 0.4 * np.cos(u + v - 0.4)))


def _stretch(turn: Array, vectors_px: Array) -> float:
    """Ratio of the principal stretches between a cell and the same cell turned."""
    large, small = np.linalg.svd(np.linalg.inv(vectors_px) @ turn @ vectors_px, compute_uv=False)
    return float(large / small)


def sites(columns: Columns, vectors_px: Array) -> npt.NDArray[np.int64]:
    """Number of the site of each column, 0 the brightest: columns that a symmetry of the cell maps on each other."""
    count = len(columns.intensity)
    joined = np.arange(count)
    for turn in TURNS:
        if _stretch(turn, vectors_px) > SAME_STRETCH**2:
            continue
        moved = columns.places @ turn
        for k in range(count):
            onto = _mapped(columns, moved + columns.places[k] - moved[0], vectors_px)
            if onto is not None:
                for i, j in enumerate(onto):
                    joined[joined == joined[i]] = joined[j]
    groups = np.unique(joined)
    brightness = [columns.intensity[joined == g].mean() for g in groups]
    rank = {int(groups[i]): n for n, i in enumerate(np.argsort(brightness)[::-1])}
    return np.array([rank[int(g)] for g in joined])


def _mapped(columns: Columns, places: Array, vectors_px: Array) -> npt.NDArray[np.int64] | None:
    """Which columns lie at these places, one at each and as bright; None if not every one does."""
    apart = columns.places[None] - places[:, None]
    apart = (apart - np.rint(apart)) @ vectors_px
    away = np.hypot(apart[..., 0], apart[..., 1])
    onto = away.argmin(1)
    if len(set(onto.tolist())) < len(onto):
        return None
    error = np.linalg.norm(columns.place_sigma @ np.abs(vectors_px), axis=1)
    width = np.sqrt(np.trace(columns.spread_px2) / 2)
    reach = np.maximum(SAME_SIGMAS * np.hypot(error, error[onto]), SAME_PLACE_WIDTHS * width)
    bright, sigma = columns.intensity, columns.intensity_sigma
    differ = np.abs(bright - bright[onto])
    limit = SAME_SIGMAS * np.hypot(sigma, sigma[onto]) + SAME_PART * bright
    fits = (away[np.arange(len(onto)), onto] < reach) & (differ < limit)
    return onto if fits.all() else None


# ---------------------------------------------------------------- an image on its own crystal


def register_on_own(
    image: Any,
    pixel_nm: tuple[float, float] | None = None,
    settings: TileSettings | None = None,
    lattice: Lattice | None = None,
    again: Callable[[LatticeMap], OwnCell | None] | None = None,
    framing: Framing | None = None,
) -> tuple[Registration, OwnCell]:
    """Lay an image on the crystal that it shows itself.

    It is registered on what its strongest reflections repeat; there its true cell is found, and its columns; then it is
    registered on these.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.
    pixel_nm : tuple of float, optional
        Header's pixel size (row, col) [nm].
    settings : TileSettings, optional
    lattice : Lattice, optional
        Coarse lattice, when it is known.
    again : callable, optional
        Lays a cell that is known on the image's map; None where it shows another one, which is then found.
    framing : Framing, optional
        That of the image, where more than one lattice is tried on it.

    Raises
    ------
    NoLatticeError
        The image shows no lattice, or no columns on it.
    """
    settings = settings or USUAL
    lattice, framing = strongest_lattice(lattice or find_lattice(image)), framing or Framing(image)
    first = fit_registration(image, [], pixel_nm, settings, lattice=lattice, framing=framing)
    found = lattice_map(image, first)
    own = again(found) if again is not None else None
    if own is None:
        steps = found.smallest_cell
        if round(abs(float(np.linalg.det(steps)))) > 1:
            lattice = replace(lattice, vectors_px=reduced(steps @ first.frame.vectors_px))
            first = fit_registration(image, [], pixel_nm, settings, lattice=lattice, framing=framing)
            found = lattice_map(image, first)
        own = find_own_cell(found)
    if own is None:
        raise NoLatticeError("no lattice: what repeats shows no columns above its noise")
    return on_own_cell(image, own, first, lattice, pixel_nm, framing), own


def on_own_cell(
    image: Any,
    own: OwnCell,
    first: Registration,
    lattice: Lattice,
    pixel_nm: tuple[float, float] | None,
    framing: Framing | None = None,
) -> Registration:
    """An image, registered on what it repeats (`first`), in the cell that was found on that."""
    frame = first.frame.in_cell(own.cell).moved(own.origin @ np.linalg.inv(own.cell))
    crystal = own.crystal(pixel_nm or own.nominal_nm)
    flattener = (framing or Framing(image)).flattener(frame.period_px)
    on = OnLattice.of(image, frame, flattener, crystal)
    return replace(measured_on(on, lattice, known=first), sign=own.columns.sign)


def strongest_lattice(lattice: Lattice) -> Lattice:
    """The lattice that the strongest of the peaks span: weaker ones may be the hum of the scan."""
    orders = np.rint(lattice.peaks @ lattice.vectors_px.T)
    strong = lattice.powers >= STRONG_POWER * lattice.powers.max()
    if np.linalg.matrix_rank(orders[strong]) < 2:
        return lattice
    cell = np.linalg.inv(generated(orders[strong])).T
    return replace(lattice, vectors_px=reduced(cell @ lattice.vectors_px))
