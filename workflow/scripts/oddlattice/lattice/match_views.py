"""How likely the crystals of a library would show what an image shows: all ways to lay each on its cell."""

from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.crystal_views import MULTIPLES, STEPS, Library, View
from oddlattice.lattice.projection import nearest
from oddlattice.lattice.seen_cell import KIND_PART, KIND_SLOPE, SeenCell, header_density, seen_chance, strain_density
from oddlattice.numerics.arrays import Array

MULTIPLE_PRIOR = (0.85, 0.05, 0.05, 0.05)  # an image's cell may be one to four of the crystal's
LARGEST_STRAIN = 0.09
PLACE_REACH = 4.2  # standard errors within which a column is the predicted one
LIKE_PART = 0.05  # scatter of like columns
DARK_PART = 0.7  # the same where columns are dark: no law is assumed
MISSED, STRAY = 0.01, 0.01  # a predicted column that is not there; one that no prediction explains


@dataclass(frozen=True)
class Match:
    """One way to lay an entry on an image.

    Attributes
    ----------
    log_likelihood : float
    view : View
    cell : ndarray of shape (2, 2)
        The view's lattice vectors in units of the image's: rows; view vectors = cell @ image vectors.
    partner : ndarray of shape (n,), int
        Column of the view that each column of the image is; -1 for none.
    """

    log_likelihood: float
    view: View
    cell: Array
    partner: npt.NDArray[np.intp]


def best_matches(cell: SeenCell, library: Library) -> dict[int, tuple[float, Match]]:
    """Log likelihood (summed over the ways it may lie) and best match of every entry that fits lattice and number."""
    n = len(cell.places)
    strain = np.arccosh(1 + np.abs(library.shapes - cell.shape) ** 2 / (2 * library.shapes.imag * cell.shape.imag)) / 2
    enough = np.where(n == 1, library.columns == 1, library.columns > 1) & (n >= 0.7 * library.columns)
    enough &= MULTIPLES[library.sublattice] <= cell.most_cells
    near = np.flatnonzero((strain < LARGEST_STRAIN) & enough & (n <= library.columns + n // 6))
    groups = library.view[near] * len(MULTIPLES) + library.sublattice[near]
    found: dict[int, list[Match]] = {}
    for group in np.unique(groups):
        rows = near[groups == group]
        view, sublattice = library.views[library.view[rows[0]]], int(library.sublattice[rows[0]])
        match = match_view(cell, view, sublattice, library.changes[rows], strain[rows])
        if match is not None:
            found.setdefault(view.entry, []).append(match)
    return {
        number: (
            float(np.logaddexp.reduce([one.log_likelihood for one in matches])),
            max(matches, key=lambda one: one.log_likelihood),
        )
        for number, matches in found.items()
    }


def match_view(
    cell: SeenCell, view: View, sublattice: int, changes: npt.NDArray[np.int64], strain: Array
) -> Match | None:
    """All ways to lay cells of a view on the image's cell; None where its columns do not fit.

    Parameters
    ----------
    sublattice : int
        Index of the cells' lattice in `crystal_views.SUBLATTICES`.
    changes : ndarray of shape (b, 2, 2)
        Integer matrices from the view's vectors to cells of that lattice.
    strain : ndarray of shape (b,)
    """
    multiple = int(MULTIPLES[sublattice])
    pixel_nm = sqrt(multiple * view.area_nm2 / cell.area_px)
    base = log(view.prior) + log(MULTIPLE_PRIOR[multiple - 1] / int((multiple == MULTIPLES).sum()))
    base += float(np.log1p(-seen_chance(view.hidden, cell.seen.floor)).sum())
    kinds = np.unique(view.kinds, return_index=True)[1]
    base += float(np.log(seen_chance(view.brightness[kinds], cell.seen.floor)).sum())
    if cell.seen.pixel_nm is not None:
        base += float(np.log(header_density(log(cell.seen.pixel_nm / pixel_nm))))
    shape = base + np.log(0.5 * strain_density(strain, 2))
    if len(cell.places) == 1:
        lone = np.zeros(1, dtype=np.intp)
        total = float(np.logaddexp.reduce(shape))
        return Match(total, view, _cell_on(cell, changes[int(shape.argmax())]), lone)
    chosen, times = _unlike(np.concatenate([changes, -changes]), view.turns)
    signed = np.concatenate([changes, -changes])[chosen]
    logs = np.concatenate([shape, shape])[chosen] + np.log(times / 2)
    return _best_of(cell, view, sublattice, signed, logs[:, None], pixel_nm)


def _unlike(changes: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], Array]:
    """Matrices that no symmetry of the columns turns into each other: one of each sort, and how many it has."""
    weights = 1000 ** np.arange(4, dtype=np.int64)
    codes = ((changes[:, None] @ turns[None]).reshape(len(changes), len(turns), 4) + 500) @ weights
    _, chosen, times = np.unique(codes.min(axis=1), return_index=True, return_counts=True)
    return chosen, times.astype(np.float64)


def _cell_on(cell: SeenCell, change: npt.NDArray[np.int64]) -> Array:
    """The view's vectors in units of the vectors the image was given with."""
    return np.asarray(np.linalg.inv(change) @ np.linalg.inv(cell.to_given))


def _best_of(
    cell: SeenCell, view: View, sublattice: int, changes: npt.NDArray[np.int64], logs: Array, pixel_nm: float
) -> Match | None:
    """Lay the view so that the image's brightest column is each of its columns in turn; sum up, and keep the best."""
    sigma = cell.place_sigma(pixel_nm)
    multiple = int(MULTIPLES[sublattice])
    partner, residual2, matched = _pairs(cell, view, STEPS[sublattice], changes, pixel_nm, sigma)
    n, predicted = len(cell.places), multiple * len(view.places)
    places = (matched - 1) * log(pixel_nm**2 * cell.area_px / (2 * pi * sigma**2)) - np.log(np.maximum(matched, 1))
    places = places - residual2 / (2 * sigma**2)
    places = places + (n - matched) * log(STRAY) + (predicted - matched) * log(MISSED) + log(multiple)
    total = logs + places
    total[matched < max(2, 0.7 * predicted)] = -np.inf
    if not np.isfinite(total).any():
        return None
    total[total < total.max() - 12] = -np.inf
    for row, col in np.argwhere(np.isfinite(total)):
        total[row, col] += _log_brightness(cell, view, partner[row, col])
    row, col = np.unravel_index(int(total.argmax()), total.shape)
    summed = float(np.logaddexp.reduce(total, axis=None))
    return Match(summed, view, _cell_on(cell, changes[row]), partner[row, col])


def _pairs(
    cell: SeenCell,
    view: View,
    steps: npt.NDArray[np.int64],
    changes: npt.NDArray[np.int64],
    pixel_nm: float,
    sigma: float,
) -> tuple[npt.NDArray[np.intp], Array, npt.NDArray[np.intp]]:
    """Which predicted column each column of the image is, for every way (b) and every column (k) laid on the brightest.

    Returns
    -------
    partner : ndarray of shape (b, k, n), int
        Index of the view's column; -1 for none.
    residual2 : ndarray of shape (b, k)
        Sum of squared distances of the pairs, the common shift taken out [nm^2].
    matched : ndarray of shape (b, k), int
    """
    k = len(view.places)
    tiled = (view.places + steps[:, None]).reshape(-1, 2) @ np.linalg.inv(changes)  # (b, m k, 2)
    bright = int(cell.brightness.argmax())
    shift = cell.places[bright] - tiled[:, :k]  # (b, k, 2)
    laid = tiled[:, None] + shift[:, :, None]  # (b, k, m k, 2)
    off = nearest(cell.places[:, None] - laid[:, :, None])  # (b, k, n, m k, 2)
    squared = pixel_nm**2 * ((off @ cell.gram_px) * off).sum(axis=-1)
    choice = squared.argmin(axis=3)  # (b, k, n)
    least = np.take_along_axis(squared, choice[..., None], axis=3)[..., 0]
    close = least < (PLACE_REACH * sqrt(2) * sigma) ** 2
    nearer = close[..., None, :] & (least[..., None] > least[..., None, :])
    close &= ~((choice[..., None] == choice[..., None, :]) & nearer).any(axis=3)
    vectors = np.take_along_axis(off, choice[..., None, None], axis=3)[..., 0, :]  # (b, k, n, 2)
    matched = close.sum(axis=2)
    mean = (vectors * close[..., None]).sum(axis=2) / np.maximum(matched, 1)[..., None]
    rest = vectors - mean[:, :, None]
    rest2 = pixel_nm**2 * ((rest @ cell.gram_px) * rest).sum(axis=-1) * close
    return np.where(close, choice % k, -1), rest2.sum(axis=2), matched


def _log_brightness(cell: SeenCell, view: View, partner: npt.NDArray[np.intp]) -> float:
    """Log density of the brightness of the matched columns, up to a factor, and of strays.

    ln(observed / expected) is a constant, an error of each kind of column and a scatter of each column; the constant
    is integrated out.
    """
    pairs = np.flatnonzero(partner >= 0)
    mine = partner[pairs]
    rest = np.log(cell.brightness[pairs]) - np.log(view.brightness[mine])
    slope = KIND_SLOPE * np.log(view.brightness[mine])
    kind = np.full(len(rest), DARK_PART) if cell.seen.dark else np.hypot(KIND_PART, slope)
    same = view.kinds[mine][:, None] == view.kinds[mine]
    own = cell.seen.brightness_sigma**2 + LIKE_PART**2
    covariance = same * kind[:, None] * kind + own * np.eye(len(rest))
    factor = np.linalg.cholesky(covariance)
    ones, white = np.linalg.solve(factor, np.stack([np.ones_like(rest), rest], axis=1)).T
    weight = float(ones @ ones)
    quadratic = float(white @ white - (ones @ white) ** 2 / weight)
    spread = 2 * float(np.log(np.diag(factor)).sum()) + log(weight)
    stray = len(partner) - len(pairs)
    return -0.5 * ((len(rest) - 1) * log(2 * pi) + spread + quadratic) - stray * log(3.0)
