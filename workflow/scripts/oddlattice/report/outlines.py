"""Between the lattice frame and the raw image: where a column lies in its cell, and what was analysed."""

import itertools

import numpy as np
import numpy.typing as npt

from oddlattice.numerics.arrays import Array

Loops = list[list[tuple[float, float]]]


def bilinear(nodes_px: Array, uv: Array) -> Array:
    """Raw places (row, col) [px] of lattice coordinates.

    Parameters
    ----------
    nodes_px : ndarray of shape (2, U + 1, V + 1)
        Raw places of the cell corners [px].
    uv : ndarray of shape (n, 2)
        Lattice coordinates; outside the nodes the last cell is continued.

    Returns
    -------
    ndarray of shape (n, 2)
    """
    size = np.array(nodes_px.shape[1:]) - 2
    cell = np.clip(np.floor(uv).astype(int), 0, np.maximum(size, 0))
    u, v = (uv - cell).T
    i, j = cell.T
    corner = [nodes_px[:, i + di, j + dj] for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1))]
    weight = [(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v]
    return np.asarray(sum(w * c for w, c in zip(weight, corner, strict=True))).T


def lattice_place(nodes_px: Array, places_px: Array, steps: int = 12) -> Array:
    """Lattice coordinates (u, v) of raw places: the inverse of `bilinear`, by fixed-point iteration.

    Parameters
    ----------
    nodes_px : ndarray of shape (2, U + 1, V + 1)
    places_px : ndarray of shape (n, 2)
        (row, col) [px].

    Returns
    -------
    ndarray of shape (n, 2)
    """
    u, v = np.meshgrid(np.arange(nodes_px.shape[1]), np.arange(nodes_px.shape[2]), indexing="ij")
    design = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1)
    affine, *_ = np.linalg.lstsq(design, nodes_px.reshape(2, -1).T, rcond=None)
    inverse = np.linalg.inv(affine[:2])
    uv = (places_px - affine[2]) @ inverse
    for _ in range(steps):
        step = (places_px - bilinear(nodes_px, uv)) @ inverse
        uv = uv + step
        if np.abs(step).max(initial=0.0) < 1e-6:
            break
    return np.asarray(uv)


def outlines(mask: npt.NDArray[np.bool_], nodes_px: Array) -> Loops:
    """Closed outlines of the analysed cells in the raw image; fill them with the even-odd rule.

    Parameters
    ----------
    mask : ndarray of shape (U, V), bool
    nodes_px : ndarray of shape (2, U + 1, V + 1)

    Returns
    -------
    list of list of (row, col) [px]
    """
    inside = np.pad(np.asarray(mask, dtype=bool), 1)
    onward: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def edge(start: tuple[int, int], end: tuple[int, int]) -> None:
        onward.setdefault(start, []).append(end)

    here = inside[1:-1, 1:-1]
    bare = [here & ~inside[:-2, 1:-1], here & ~inside[1:-1, 2:], here & ~inside[2:, 1:-1], here & ~inside[1:-1, :-2]]
    corners = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0)]  # cell (a, b) has corners (a, b) .. (a + 1, b + 1)
    for outer, (start, end) in zip(bare, itertools.pairwise(corners), strict=True):
        for a, b in np.argwhere(outer).tolist():
            edge((a + start[0], b + start[1]), (a + end[0], b + end[1]))
    loops: Loops = []
    while onward:
        first = next(iter(onward))
        loop, at = [first], first
        while True:
            ends = onward[at]
            following = ends.pop()
            if not ends:
                del onward[at]
            if following == first:
                break
            loop.append(following)
            at = following
        loops.append([(float(nodes_px[0, i, j]), float(nodes_px[1, i, j])) for i, j in loop])
    return loops


def coarse_nodes(nodes_px: Array, most: int = 48) -> tuple[list[int], list[int], Array]:
    """At most `most` + 1 nodes along each direction: the indices kept and their raw places [px]."""
    kept = [sorted({int(round(x)) for x in np.linspace(0, n - 1, min(n - 1, most) + 1)}) for n in nodes_px.shape[1:]]
    return kept[0], kept[1], nodes_px[:, kept[0]][:, :, kept[1]]
