"""Strain of a grain against its own mean lattice, from the measured places of its columns, with its noise.

x runs along a row of the image, y down its columns; a rotation is positive from +y (row) towards +x (col), as the
rotation of a grain is. What bends the scan is strain here too: an image tells the two apart by nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.numerics.arrays import Array, Bools
from oddlattice.statistics.polar import Places
from oddlattice.storage.rows import Row

COMPONENTS = ("exx", "eyy", "exy", "rotation_deg")
WINDOW_CELLS = 5  # side of the window whose columns tell the strain of its middle cell
LEAST_PART = 0.5  # of a window's columns that must be there
LEAST_SPREAD = 0.5  # of the usual spread of a window's cells along any direction
OUTLIER = 4.0  # robust standard deviations: a column farther from where its neighbours put it is left out
LEAST_COLUMNS = 36
MOST_BLOCKS = 20  # along a side of what is drawn
LEAST_TRIPLES = 12  # of neighbouring windows by which noise is told


@dataclass(frozen=True)
class Strain:
    """Strain of the cells of a grain.

    Attributes
    ----------
    values : ndarray of shape (4, U, V)
        exx, eyy, exy and rotation [degrees]; nan where too few columns were measured.
    sigma : ndarray of shape (4,)
        Their standard errors; nan where they are not told.
    """

    values: Array
    sigma: Array


def strain_of(cells: npt.NDArray[np.intp], kind: npt.NDArray[np.intp], places: Array, shape: tuple[int, int]) -> Strain:
    """Strain from columns: a straight lattice is fitted to the columns of each window.

    Parameters
    ----------
    cells : ndarray of shape (n, 2)
        Cell of each column, within `shape`.
    kind : ndarray of shape (n,)
        Its number among the kinds of columns; where in the cell a kind stands, its mean tells.
    places : ndarray of shape (n, 2)
        Where it was measured (row, col), in any unit that is the same along both axes.
    """
    kept = np.ones(len(cells), dtype=bool)
    for _ in range(3):
        moved, q, vectors = _from_mean(kind, cells, places, kept)
        found, smooth, seen = _windows(cells[kept], q[kept], moved[kept], shape)
        off = np.hypot(*(moved - _expected(smooth, found, cells, q)).T)
        known = np.isfinite(off)
        limit = OUTLIER * 1.4826 * float(np.median(off[known])) if known.any() else np.inf
        kept = known & (off <= max(limit, 1e-12))
    slopes = np.where(seen, found, np.nan)
    # the step of the displacement along lattice coordinates, as one along places
    gradient = np.einsum("ij,jkuv->ikuv", np.linalg.inv(vectors), slopes)
    (rr, rc), (cr, cc) = gradient  # [of, to]: derivative along row or col of the displacement along row, col
    values = np.stack([cc, rr, (rc + cr) / 2, np.degrees((rc - cr) / 2)])
    return Strain(values, np.array([noise_of(layer) for layer in values]))


def _from_mean(
    kind: npt.NDArray[np.intp], cells: npt.NDArray[np.intp], places: Array, kept: Bools
) -> tuple[Array, Array, Array]:
    """How far columns are from the mean lattice of those `kept`; their lattice coordinates in it; its vectors."""
    design = np.concatenate([cells, np.eye(int(kind.max()) + 1)[kind]], axis=1)
    fit = np.linalg.lstsq(design[kept], places[kept], rcond=None)[0]
    vectors, starts = fit[:2], fit[2:]
    q = cells + ((starts - starts[0]) @ np.linalg.inv(vectors))[kind]
    return np.asarray(places - design @ fit), q, vectors


def _windows(cells: npt.NDArray[np.intp], q: Array, moved: Array, shape: tuple[int, int]) -> tuple[Array, Array, Bools]:
    """Slopes (2, 2, U, V) of displacements along lattice coordinates; means (4, U, V) of both; where there are any."""

    def total(values: Array) -> Array:
        layer = np.zeros(shape)
        np.add.at(layer, tuple(cells.T), values)
        return np.asarray(ndimage.uniform_filter(layer, WINDOW_CELLS, mode="constant") * WINDOW_CELLS**2)

    middle = q.mean(axis=0)
    at = [*(q - middle).T, *moved.T]
    number = np.maximum(total(np.ones(len(q))), 1e-9)
    mean = np.stack([total(x) / number for x in at])
    spread = np.array([[total(at[i] * at[j]) / number - mean[i] * mean[j] for j in range(2)] for i in range(2)])
    common = np.array([[total(at[i] * at[2 + j]) / number - mean[i] * mean[2 + j] for j in range(2)] for i in range(2)])
    full = np.bincount(np.ravel_multi_index(tuple(cells.T), shape), minlength=1)
    most = float(full.max()) * WINDOW_CELLS**2
    usual = (WINDOW_CELLS**2 - 1) / 12
    smallest = np.linalg.eigvalsh(np.moveaxis(spread, (0, 1), (2, 3)))[..., 0]
    seen = (number > LEAST_PART * most) & (smallest > LEAST_SPREAD**2 * usual)
    safe = np.where(seen, spread, np.eye(2)[..., None, None])
    slopes = np.linalg.solve(np.moveaxis(safe, (0, 1), (2, 3)), np.moveaxis(common, (0, 1), (2, 3)))
    mean[:2] += middle[:, None, None]
    return np.moveaxis(slopes, (2, 3), (0, 1)), mean, np.asarray(seen)


def _expected(mean: Array, slopes: Array, cells: npt.NDArray[np.intp], q: Array) -> Array:
    """Displacement (n, 2) at which a column's window puts it."""
    u, v = cells.T
    away = q - mean[:2, u, v].T
    return np.asarray(mean[2:, u, v].T + np.einsum("ni,ijn->nj", away, slopes[:, :, u, v]))


def noise_of(values: Array) -> float:
    """Standard error of a map (U, V) of windows: the robust scatter of second differences of windows side by side.

    A strain that changes steadily adds nothing to it, one that bends within three windows does.
    """
    step = WINDOW_CELLS
    second = [
        values[: -2 * step] - 2 * values[step:-step] + values[2 * step :],
        (values[:, : -2 * step] - 2 * values[:, step:-step] + values[:, 2 * step :]),
    ]
    found = []
    for one in second:
        some = one[np.isfinite(one)]
        if len(some) >= LEAST_TRIPLES:
            found.append(1.4826 * float(np.median(np.abs(some))) / np.sqrt(6))
    return float(max(found)) if found else float("nan")


def strain_of_places(
    places: Sequence[Places], at: Coordinates, pixel_nm: Array, shape: tuple[int, int]
) -> Strain | None:
    """Strain of a grain of cells `shape` from the measured places of its columns; None where there are none.

    The shifts of scan lines are taken out; `pixel_nm` (row, col) matters by its ratio alone.
    """
    known = [np.isfinite(one.uv).all(axis=1) for one in places]
    cells = np.concatenate([np.empty((0, 2), dtype=np.intp), *(p.cells[k] for p, k in zip(places, known, strict=True))])
    if len(cells) < LEAST_COLUMNS:
        return None
    _, kind = np.unique(np.repeat(np.arange(len(places)), [k.sum() for k in known]), return_inverse=True)
    uv = np.concatenate([p.uv[k] for p, k in zip(places, known, strict=True)])
    return strain_of(cells, kind, at.straight_px(uv) * pixel_nm, shape)


def figures_of(strain: Strain | None) -> Row:
    """Size and noise of each component, and its values on blocks; `reason` where there are none."""
    if strain is None or not np.isfinite(strain.values).any():
        return {"reason": "too few columns side by side were measured"}
    cells, values = blocks_of(strain, MOST_BLOCKS)
    rms = np.sqrt(np.nanmean(strain.values**2, axis=(1, 2)))
    said = [float(x) if np.isfinite(x) else None for x in strain.sigma]
    field: Row = {"step": block_step(strain.values.shape[1:], MOST_BLOCKS), "u": cells[:, 0].tolist()}
    field |= {"v": cells[:, 1].tolist()}
    field |= {name: np.round(one, 5).tolist() for name, one in zip(COMPONENTS, values, strict=True)}
    return {
        "window_cells": WINDOW_CELLS,
        "rms": dict(zip(COMPONENTS, rms.tolist(), strict=True)),
        "sigma": dict(zip(COMPONENTS, said, strict=True)),
        "field": field,
    }


def blocks_of(strain: Strain, most: int) -> tuple[npt.NDArray[np.intp], Array]:
    """At most about `most` x `most` cells (n, 2), a step of whole cells apart, with their strain (4, n)."""
    step = block_step(strain.values.shape[1:], most)
    u, v = (np.arange(step // 2, n, step) for n in strain.values.shape[1:])
    cells = np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2)
    values = strain.values[:, cells[:, 0], cells[:, 1]]
    known = np.isfinite(values).all(axis=0)
    return cells[known], np.asarray(values[:, known])


def block_step(shape: Sequence[int], most: int) -> int:
    """Cells from one block to the next."""
    return max(-(-max(shape) // most), 1)
