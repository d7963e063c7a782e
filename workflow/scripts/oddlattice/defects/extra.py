"""Extra columns: intensity where the crystal has nothing, or only light atoms."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from oddlattice.crystal import PxPerCell
from oddlattice.defects.listing import Defect
from oddlattice.defects.null import MIN_COLUMNS
from oddlattice.lattice.columns import px_of
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.compiled import compiled

AWAY_FROM_COLUMNS, AWAY_FROM_ODD = 0.25, 0.6  # of the shortest lattice vector: nearer, it is that column's
DECOY_MARGIN = 1.15  # an extra column stands out by so much more than the deepest dip between the columns


def extra_columns(
    z: Float, mask: Mask, columns_uv: Array, odd_uv: Array, width_px: float, vectors_pm: Array, most_p: float
) -> list[Defect]:
    """Bright places far from every tested column: something where the crystal has nothing, or only light atoms.

    A place counts when noise alone would reach its z somewhere between the columns of one cell with a probability of at
    most `most_p`, when it stands out further than any dip, and no odd column is near it. Distances are taken in
    shortest lattice vectors.

    Parameters
    ----------
    z : ndarray of shape (U n_u, V n_v)
    columns_uv : ndarray of shape (m, 2)
        Places of the tested columns in the cell.
    odd_uv : ndarray of shape (k, 2)
        Places of odd columns in the image [cells].
    width_px : float
        Of the Gaussian that smoothed the noise of `z`.

    Returns
    -------
    list of Defect
        Their `p` is the probability above; `q` is left open.
    """
    short_pm = float(np.hypot(*vectors_pm.T).min())
    metric = vectors_pm / short_pm
    n_u, n_v = px_of(z, mask)
    away = _between_columns(columns_uv, metric, (n_u, n_v))
    places = np.tile(away, mask.shape) & (np.repeat(np.repeat(mask, n_u, 0), n_v, 1) > 0)
    # between the columns few electrons are counted and z leans to the bright side, most where it is darkest
    skewness = _largest_skewness(z, mask, away)
    many = max(float(away.sum()), 1.0)
    levels = np.arange(2.0, 60.0, 0.05)
    bar = float(levels[np.argmax(highest_of(levels, many, width_px, skewness) <= most_p)])
    free = _away_from(places, odd_uv, AWAY_FROM_ODD, metric, (n_u, n_v))
    # the deepest dips of the same map are decoys: no atom can be missing there, so noise alone goes that deep
    bar = max(bar, DECOY_MARGIN * -float(z.min(initial=0.0, where=free)))
    found = []
    for row, col in np.argwhere(free & (z > bar)):
        if z[row, col] < z[max(row - 3, 0) : row + 4, max(col - 3, 0) : col + 4].max():
            continue
        p = max(float(highest_of(float(z[row, col]), many, width_px, skewness)), 1e-300)
        uv = ((row + 0.5) / n_u, (col + 0.5) / n_v)
        found.append(Defect(uv, "", "extra", 1.0 - p, z=float(z[row, col]), p=p))
    return found


def _between_columns(columns_uv: Array, metric: Array, px_per_cell: PxPerCell) -> npt.NDArray[np.bool_]:
    """Pixels of the cell (n_u, n_v) that are far from its columns (m, 2) and their copies in the next cells."""
    lines = [(np.arange(n) + 0.5) / n for n in px_per_cell]
    pixels = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
    away = np.ones(px_per_cell, dtype=bool)
    for step in np.ndindex(5, 5):
        for uv in columns_uv + np.array(step) - 2:
            away &= np.hypot(*np.moveaxis((pixels - uv) @ metric, -1, 0)) > AWAY_FROM_COLUMNS
    return away


@compiled("void(float32[:, ::1], uint8[:, ::1], boolean[:, ::1], float64[:, :, ::1])")
def _add_powers(z: Float, mask: Mask, away: npt.NDArray[np.bool_], out: Array) -> None:
    """Add 1, z, z^2 and z^3 of analysed cells to `out` (n_u, n_v, 4), by the pixel of the cell; |z| < 6 alone."""
    n_u, n_v = away.shape
    for u in range(mask.shape[0]):
        for v in range(mask.shape[1]):
            for i in range(n_u if mask[u, v] else 0):
                for j in range(n_v):
                    value = np.float64(z[u * n_u + i, v * n_v + j])
                    if away[i, j] and abs(value) < 6:
                        out[i, j, 0] += 1.0
                        out[i, j, 1] += value
                        out[i, j, 2] += value * value
                        out[i, j, 3] += value * value * value


def _largest_skewness(z: Float, mask: Mask, away: npt.NDArray[np.bool_]) -> float:
    """Skewness of z at the pixel of the cell, of those `away` (n_u, n_v), where it is largest; not negative."""
    sums = np.zeros((*away.shape, 4))
    _add_powers(np.ascontiguousarray(z, np.float32), np.ascontiguousarray(mask, np.uint8), away, sums)
    count = sums[:, :, 0]
    if count.max() < MIN_COLUMNS:
        return 0.0
    first, second, third = np.moveaxis(sums[:, :, 1:], -1, 0) / np.maximum(count, 1.0)
    variance = second - first**2
    seen = (count >= MIN_COLUMNS).astype(float)
    skewness = (third - 3 * first * second + 2 * first**3) / np.maximum(variance, 1e-12) ** 1.5
    skewness = np.where(seen > 0, skewness, 0.0)
    pooled = uniform_filter(skewness, 5, mode="wrap") / np.maximum(uniform_filter(seen, 5, mode="wrap"), 1e-9)
    return float(np.clip(pooled[seen > 0].max(), 0.0, 1.0))


def highest_of(level: npt.ArrayLike, places_px: float, width_px: float, skewness: float) -> Array:
    """Probability that smoothed noise reaches a level somewhere, at most 1.

    Expected number of maxima above the level in white noise smoothed by a Gaussian of `width_px`; source: Worsley et
    al. 1992, doi:10.1038/jcbfm.1992.127. Tails that skewness upwards (Pearson III) make it larger.
    """
    level = np.asarray(level, dtype=np.float64)
    gaussian = level * np.exp(-(level**2) / 2) / (2 * np.pi) ** 1.5 / (2 * width_px**2)
    known = np.minimum(level, 36.0)  # beyond it there is no number for the normal's tail
    heavier = np.where(level < 37, distributions.pearson3_sf(known, skewness) / distributions.normal_sf(known), 1.0)
    return np.asarray(np.minimum(1.0, places_px * gaussian * np.maximum(heavier, 1.0)))


def _away_from(
    places: npt.NDArray[np.bool_], uv: Array, far: float, metric: Array, px_per_cell: PxPerCell
) -> npt.NDArray[np.bool_]:
    """`places` (U n_u, V n_v) without what lies within a distance of any of `uv` (n, 2)."""
    out, sides = places.copy(), np.array(px_per_cell)
    half_sides = np.ceil(far * sides * np.hypot(*np.linalg.inv(metric))).astype(int)  # of the box about a circle
    for u, v in uv * sides - 0.5:
        row, col = (np.arange(max(int(at) - r, 0), int(at) + r + 2) for at, r in zip((u, v), half_sides, strict=True))
        part = out[row[0] : row[-1] + 1, col[0] : col[-1] + 1]
        offsets = np.stack(np.meshgrid(row[: part.shape[0]] - u, col[: part.shape[1]] - v, indexing="ij"), -1)
        part &= np.hypot(*np.moveaxis(offsets / sides @ metric, -1, 0)) >= far
    return out
