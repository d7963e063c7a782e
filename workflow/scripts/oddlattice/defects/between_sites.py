"""One atom between two sites: seen from one it has moved far; one by one, a site is empty and its neighbour odd.

What looks emptied is fitted again from the place about it that is brightest, with one odd neighbour or with none. One
column that moved is the likelier account if it leaves as little of the image by fewer numbers. Source: Akaike 1974,
doi:10.1109/TAC.1974.1100705.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from oddlattice.defects.kernels import MOST_SHIFT_PM, moved_peak, refine
from oddlattice.defects.kind_probabilities import EMPTY_BELOW
from oddlattice.defects.noise import Noise
from oddlattice.defects.null import SiteColumns
from oddlattice.defects.without import Key, Without
from oddlattice.lattice.columns import peak_at, window_of_cell, window_offsets
from oddlattice.numerics.arrays import Array

LOST = -0.2  # of a column: a change from which its atoms may be elsewhere
BESIDE = 0.8  # of the shortest lattice vector: neighbours
STEPS = 9  # along row and col, of the places that are looked at
NUMBERS = 3  # by which a column is told
SEARCHED = 10.0  # what it must tell more where only the search says that there is light: two for each of e^5 places
LEAST_LEFT = 0.4  # of its intensity, of a column that moved


def told_as_one(sites: list[SiteColumns], without: Without, noise: Noise, vectors_pm: Array) -> None:
    """Fit columns that look emptied as moved ones where that tells more; `without.far` has their fits."""
    keys = sorted(without.fits)
    if not keys:
        return
    places = np.array([sites[k].cells[i] + (sites[k].shape.u, sites[k].shape.v) for k, i in keys]) @ vectors_pm
    tree, reach = cKDTree(places), BESIDE * float(np.hypot(*vectors_pm.T).min())
    searches: dict[int, _Search] = {}
    for n, key in enumerate(keys):
        if key not in without.fits or without.fits[key][0] > LOST or key in without.far:
            continue
        if key[0] not in searches:
            searches[key[0]] = _Search(sites[key[0]], noise, vectors_pm)
        near = [
            keys[m]
            for m in sorted(tree.query_ball_point(places[n], reach))
            if m != n and keys[m] in without.fits and without.fits[keys[m]][0] > LOST
        ]
        for others in ([other] for other in near) if near else [[]]:
            if _tell_again(key, others, searches[key[0]], sites, without):
                break


def _tell_again(lost: Key, others: list[Key], search: "_Search", sites: list[SiteColumns], without: Without) -> bool:
    """Take out one column that moved, instead of that and of others beside it, where it tells more; whether it does."""
    before = {key: without.fits[key] for key in (lost, *others)}
    of_empty = 1 if before[lost][0] <= EMPTY_BELOW else NUMBERS
    two = search.left(before, sites, without) + 2 * (of_empty + NUMBERS * len(others))
    for key in before:
        without.put_back(key)
    fit = search.fit(without.window(lost, search.site), lost[1])
    without.take_out(lost, search.site, fit, search.vectors_pm)
    one = search.left(before, sites, without) + 2 * NUMBERS + (0.0 if others else SEARCHED)
    if one < two and fit[0] > LEAST_LEFT - 1:
        without.far[lost] = fit
        return True
    for key, known in before.items():
        without.take_out(key, sites[key[0]], known, search.vectors_pm)
    return False


@dataclass(frozen=True)
class _Search:
    """How the atoms of one kind of columns are looked for about their site."""

    site: SiteColumns
    noise: Noise
    vectors_pm: Array

    def fit(self, window: Array, i: int) -> Array:
        """Change and displacement of column `i` in its window (16, 16), from the brightest place on."""
        site, line = self.site, np.linspace(-MOST_SHIFT_PM, MOST_SHIFT_PM, STEPS)
        shifts = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        shifts = shifts[np.hypot(*shifts.T) <= MOST_SHIFT_PM]
        sigma = window_of_cell(self.noise.sigma, site.shape)
        gone = moved_peak(site.shape, -1.0, np.zeros(2), self.vectors_pm, 0, site.response)
        peaks = moved_peak(site.shape, 0.0, shifts, self.vectors_pm, 0, site.response) - gone
        valid = site.view_of(i).valid
        white = np.where(valid, peaks / sigma, 0.0).reshape(len(peaks), -1)
        height = white @ ((window - gone) / sigma).ravel()
        square = (white**2).sum(axis=1)
        best = int(np.argmax(np.maximum(height, 0.0) / np.sqrt(np.maximum(square, 1e-12))))
        start = np.array([height[best] / max(float(square[best]), 1e-12) - 1, *shifts[best]])
        return refine(window, valid, site.shape, start, self.noise, self.vectors_pm, site.response)

    def left(self, keys: dict[Key, Array], sites: list[SiteColumns], without: Without) -> float:
        """What is left in windows of columns: a sum of squares in standard deviations of a column's intensity."""
        total = 0.0
        for kind, i in keys:
            site = sites[kind]
            sigma = window_of_cell(self.noise.sigma, site.shape)
            # of noise that is correlated, a column sees more than of as much that is not
            peak = peak_at(site.shape, *window_offsets(site.shape)) / sigma
            seen = max(float(site.kernel.covariance[0, 0] * (peak**2).sum()), 1.0)
            rest = np.where(site.view_of(i).valid, without.rest((kind, i), site) / sigma, 0.0)
            total += float((rest**2).sum()) / (seen * float(site.level[i]) ** 2)
        return total
