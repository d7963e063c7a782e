"""Extra columns: intensity where the crystal has nothing, or only light atoms."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

from oddlattice.defects.listing import Defect, Judged
from oddlattice.defects.null import MIN_COLUMNS
from oddlattice.lattice.columns import px_of
from oddlattice.numerics import distributions
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.compiled import compiled

DECOY_MARGIN = 1.15  # an extra column stands out by so much more than the deepest dip between the columns


def extra_columns(judged: Judged, z: Float, mask: Mask, all_uv: Array, width_px: float, fdr: float) -> list[Defect]:
    """Bright places far from every tested column: something where the crystal has nothing, or only light atoms.

    A place counts when its z would occur by chance anywhere in this image with probability below `fdr`, when it stands
    out further than any dip, and no other defect is within 0.6 cell.

    Parameters
    ----------
    z : ndarray of shape (U * 20, V * 20)
    all_uv : ndarray of shape (m, 2)
        Places of the tested columns in the cell.
    width_px : float
        Of the Gaussian that smoothed the noise of `z`.
    """
    n_u, n_v = px_of(z, mask)
    line_u, line_v = (np.arange(n_u) + 0.5) / n_u, (np.arange(n_v) + 0.5) / n_v
    away = np.ones((n_u, n_v), dtype=bool)
    for u, v in all_uv:
        du, dv = np.abs(line_u - u), np.abs(line_v - v)
        du, dv = n_u * np.minimum(du, 1 - du), n_v * np.minimum(dv, 1 - dv)
        away &= np.hypot(du[:, None], dv[None, :]) > 5
    places = np.tile(away, mask.shape) & (np.repeat(np.repeat(mask, n_u, 0), n_v, 1) > 0)
    # between the columns few electrons are counted and z leans to the bright side, most where it is darkest
    skewness = _largest_skewness(z, mask, away)
    many = int(places.sum())
    levels = np.arange(3.0, 60.0, 0.05)
    bar = float(levels[np.argmax(highest_of(levels, many, width_px, skewness) < fdr)])
    free = _away_from(places, np.array([d.uv for d in judged.defects]).reshape(-1, 2) * (n_u, n_v) - 0.5, 12)
    # the deepest dips of the same map are decoys: no atom can be missing there, so noise alone goes that deep
    bar = max(bar, DECOY_MARGIN * -float(z.min(initial=0.0, where=free)))
    found = []
    for row, col in np.argwhere(free & (z > bar)):
        if z[row, col] < z[max(row - 3, 0) : row + 4, max(col - 3, 0) : col + 4].max():
            continue
        uv = ((row + 0.5) / n_u, (col + 0.5) / n_v)
        chance = float(highest_of(float(z[row, col]), many, width_px, skewness))
        p = float(distributions.pearson3_sf(z[row, col], skewness))
        found.append(Defect(uv, "", "extra", 1.0 - chance, z=float(z[row, col]), p=p, q=chance))
    return found


@compiled("void(float32[:, ::1], uint8[:, ::1], boolean[:, ::1], float64[:, :, ::1])")
def _add_powers(z: Float, mask: Mask, away: npt.NDArray[np.bool_], out: Array) -> None:
    """Add 1, z, z^2 and z^3 of analysed cells to `out` (20, 20, 4), by the pixel of the cell; |z| < 6 alone."""
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
    """Skewness of z at the pixel of the cell, of those `away` (20, 20), where it is largest; not negative."""
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


def _away_from(places: npt.NDArray[np.bool_], uv: Array, cells: float) -> npt.NDArray[np.bool_]:
    """`places` (U * 20, V * 20) without what lies within a distance [cells] of any of `uv` (n, 2)."""
    out = places.copy()
    reach = int(np.ceil(cells))
    for u, v in uv:
        row, col = np.ogrid[max(int(u) - reach, 0) : int(u) + reach + 1, max(int(v) - reach, 0) : int(v) + reach + 1]
        part = out[row.min() : row.max() + 1, col.min() : col.max() + 1]
        near = np.hypot(row - u, col - v) < cells
        part &= ~near[: part.shape[0], : part.shape[1]]
    return out
