"""What the library of crystals says of the crystal that an image shows itself: names of sites, a ruler, a sentence."""

from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.crystal import Crystal
from oddlattice.lattice.crystal_views import load_library
from oddlattice.lattice.identity import Identity, identify
from oddlattice.lattice.origin import column_weights
from oddlattice.lattice.own_crystal import OwnCell
from oddlattice.lattice.pixel_size import DISAGREEMENT, PixelNm, by_lattice_nm, mean_nm
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.seen_cell import Observed

SEEN_SIGMAS = 4.0  # a column fainter than so many errors of its brightness is not counted on
FAINTEST_PART = 0.05  # of the brightest column: tails of bright ones hide what is fainter
LEAST_ERROR = 0.01  # relative, of a column's brightness
FAR_OFF, FITTING_PART = 0.1, 0.05  # of a length; probability of crystals that are less off, for a header to be doubted
LIKELY_PART = 0.95  # candidates that hold so much of the probability are likely
ABOUT = 0.05  # of a length: sizes of a class that differ by no more from their mean are better than a wrong header
HELD = 0.5  # probability that the library holds the crystal, to doubt a header by it
TEN = 10.0  # ångström in a nanometre
LISTED = 6  # candidates that are told
ALIKE_PART = 0.05  # of the mean cell's variance; less does not tell two columns of a crystal apart
LIKELY = 0.25  # of the likeliest crystal's probability; a model's crystal less likely is not the image's
ON_PLACE_PX, ON_BRIGHTNESS, ON_FLOOR = 0.2, 0.03, 0.3  # errors on a model's crystal, and what would not be seen there
DIGITS = "0123456789"


def observed_of(own: OwnCell, header_nm: PixelNm | None) -> tuple[Observed, list[int]]:
    """What an image shows, for `identity.identify`, and which of its columns count: those well above their noise."""
    columns = own.columns
    kept = [int(k) for k in np.flatnonzero(columns.intensity > SEEN_SIGMAS * columns.intensity_sigma)]
    kept = kept or [int(columns.intensity.argmax())]
    square = np.array(header_nm) / mean_nm(header_nm) if header_nm is not None else np.ones(2)
    vectors = own.vectors_px * square
    bright, sigma = columns.intensity[kept], columns.intensity_sigma[kept]
    place_sigma = columns.place_sigma[kept] * np.linalg.norm(vectors, axis=1)
    floor = max(FAINTEST_PART, (SEEN_SIGMAS + 1) * float(np.median(columns.intensity_sigma) / bright.max()))
    seen = Observed(
        vectors_px=vectors,
        places=columns.places[kept] % 1.0,
        brightness=bright,
        place_sigma_px=float(np.median(place_sigma)),
        brightness_sigma=max(float(np.median(sigma / bright)), LEAST_ERROR),
        pixel_nm=None if header_nm is None else mean_nm(header_nm),
        floor=min(floor, 0.5),
        dark=columns.sign < 0,
    )
    return seen, kept


def identify_own(own: OwnCell, header_nm: PixelNm | None, libraries: Sequence[str | Path]) -> Identity:
    """The crystal of an image, its sites for every column of `own`.

    Parameters
    ----------
    own : OwnCell
    header_nm : tuple of float or None
        Pixel size (row, col) that the file states [nm].
    libraries : sequence of path
        Crystal libraries; the shipped one, and that of the user's files.
    """
    seen, kept = observed_of(own, header_nm)
    found = identify(seen, load_library(tuple(Path(path) for path in libraries)))
    sites = [""] * len(own.sites)
    for place, site in zip(kept, found.sites, strict=True):
        sites[place] = site
    return replace(found, sites=tuple(sites))


def is_of(crystal: Crystal, found: Registration, header_nm: PixelNm | None, libraries: Sequence[str | Path]) -> bool:
    """Whether an image that is laid on a model's crystal is of it, told by what lattice and network do not see.

    A cell whose columns are all alike is too large. Of the crystals that the libraries hold the model's must be among
    the likely ones; without a pixel size they must leave no others than its class, for cells of many crystals have its
    shape. A crystal that is in no library is believed.
    """
    if found.origin_fit is None or found.origin_fit.explained - found.origin_fit.second < ALIKE_PART:
        return False
    if not libraries or not crystal.known_as:
        return True
    library = load_library(tuple(Path(path) for path in libraries))
    if crystal.known_as not in {entry.name for entry in library.entries}:
        return True
    weights = column_weights(found.mean_cell, crystal, found.origin_fit.blur_nm)
    seen = Observed(
        vectors_px=found.frame.vectors_px * (np.array(header_nm) / mean_nm(header_nm) if header_nm else np.ones(2)),
        places=np.array([(column.u, column.v) for column in crystal.tested]),
        brightness=np.maximum([weights[column.site] for column in crystal.tested], 1e-3),
        place_sigma_px=ON_PLACE_PX,
        brightness_sigma=ON_BRIGHTNESS,
        pixel_nm=None if header_nm is None else mean_nm(header_nm),
        floor=ON_FLOOR,
    )
    who = identify(seen, library)
    of_it = sum(one.probability for one in who.candidates if one.entry.name == crystal.known_as)
    likely = of_it >= LIKELY * max((one.probability for one in who.candidates), default=0.0) > 0
    return likely and (header_nm is not None or who.kind in ("crystal", "class"))


def named_sites(letters: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns: the element where it is known, numbered as the image's own site (``A1``, ``A2``) is.

    Where sites of different letters have one element, the letter follows it. A column whose element is not known keeps
    its letter, and so do all where columns of one own site got two elements.
    """
    by_letter: dict[str, set[str]] = {}
    for letter, name in zip(letters, names, strict=True):
        by_letter.setdefault(letter.rstrip(DIGITS), set()).add(name)
    if any(len(found) > 1 for found in by_letter.values()):
        return tuple(letters)
    element = {letter: next(iter(found)) for letter, found in by_letter.items()}
    every = list(element.values())

    def told(letter: str) -> str:
        base = letter.rstrip(DIGITS)
        name = element[base]
        if not name:
            return letter
        return f"{name}-{letter}" if every.count(name) > 1 else name + letter.removeprefix(base)

    return tuple(told(letter) for letter in letters)


def ruler_nm(found: Identity, header_nm: PixelNm | None) -> PixelNm | None:
    """Pixel size (row, col) to measure by [nm]; None where none is known.

    By the crystal's lattice constants; where these are not known for certain the header's, but for one that is wrong:
    then about that of the crystals of the class, if they are of about one size.
    """
    if found.pixel_nm is not None:
        return by_lattice_nm(found.pixel_nm, header_nm)
    if not is_wrong(found, header_nm):
        return header_nm
    size, off = _about_nm(found)
    return by_lattice_nm(size, header_nm) if off <= ABOUT else None


def is_wrong(found: Identity, header_nm: PixelNm | None) -> bool:
    """Whether the crystal is known, or its class, and comes in no size near the one that the header says."""
    if header_nm is None or found.kind not in ("crystal", "class"):
        return False
    return bool((np.abs(mean_nm(header_nm) / np.array(found.sizes_nm) - 1) > FAR_OFF).all())


def is_in_another_unit(found: Identity, header_nm: PixelNm) -> bool:
    """Whether the header is wrong by the ten of a unit; by another factor a lattice so large may be a moire."""
    size = ruler_nm(found, header_nm) if is_wrong(found, header_nm) else None
    return size is not None and abs(log(mean_nm(header_nm) / mean_nm(size) / TEN)) < ABOUT


def _about_nm(found: Identity) -> tuple[float, float]:
    """Mean pixel size by the likely candidates of a class [nm], and how far the farthest is from it, as a part."""
    chances = np.array([one.probability for one in found.candidates])
    before = np.cumsum(chances) - chances
    likely = before < LIKELY_PART * chances.sum()
    sizes = np.array(found.sizes_nm)[likely]
    mean = float(np.average(sizes, weights=chances[likely]))
    return mean, float(np.abs(sizes / mean - 1).max())


def header_warning(found: Identity, header_nm: PixelNm | None) -> list[str]:
    """A sentence where the header disagrees with the crystal, or with every crystal that the image looks like."""
    if header_nm is None:
        return []
    header = mean_nm(header_nm)
    if found.pixel_nm is None:
        return _of_a_class(found, header_nm) if is_wrong(found, header_nm) else _no_size_fits(found, header)
    apart = abs(header / found.pixel_nm - 1)
    if apart <= DISAGREEMENT:
        return []
    said = f"header says {header * 1000:.2f} pm/px, the lattice of {found.name} says {found.pixel_nm * 1000:.2f} pm/px"
    wrong = ": the header is wrong" if is_wrong(found, header_nm) else ""
    return [f"{said} ({100 * apart:.1f} %){wrong}; the lattice is used"]


def _of_a_class(found: Identity, header_nm: PixelNm) -> list[str]:
    """A sentence where the header is wrong by all crystals of a class."""
    size, off = _about_nm(found)
    said = f"header says {1000 * mean_nm(header_nm):.2f} pm/px, the lattice of {found.name} says"
    used = f"lengths are by the lattice, good to {100 * off:.0f} %" if off <= ABOUT else "no length in nm is told"
    return [f"{said} about {1000 * size:.2f} pm/px: the header is wrong; {used}"]


def _no_size_fits(found: Identity, header: float) -> list[str]:
    """A sentence where the library holds what an image looks like, and none of it in the size that the header says."""
    chances = np.array([one.probability for one in found.candidates])
    sizes = np.array(found.sizes_nm)
    if 1 - found.none < HELD or chances[np.abs(header / sizes - 1) <= FAR_OFF].sum() > FITTING_PART:
        return []
    likely = sizes[chances >= 0.1 * chances.max()] * 1000
    names = ", ".join(f"{one.entry.crystal} {one.entry.axis}" for one in found.candidates[:3])
    said = f"header says {header * 1000:.2f} pm/px; what the image looks like ({names}) says"
    return [
        f"{said} {likely.min():.2f} to {likely.max():.2f} pm/px: the header may be wrong, and with it every length",
    ]


def identity_attributes(found: Identity) -> dict[str, Any]:
    """What a grain's attributes say of the crystal: its name or none, and the candidates."""
    return {
        "kind": found.kind,
        "name": found.name,
        "probability": round(found.probability, 4),
        "none_of_the_library": round(found.none, 4),
        "candidates": [
            {"crystal": one.entry.crystal, "axis": one.entry.axis, "probability": round(one.probability, 4)}
            for one in found.candidates[:LISTED]
        ],
    }
