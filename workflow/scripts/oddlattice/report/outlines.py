"""What was analysed, as outlines and as few nodes in the raw image."""

import itertools

import numpy as np
import numpy.typing as npt

Loops = list[list[tuple[float, float]]]


def outlines(mask: npt.NDArray[np.bool_], nodes_px: npt.NDArray[np.floating]) -> Loops:
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


def coarse_nodes(
    nodes_px: npt.NDArray[np.floating], most: int = 48
) -> tuple[list[int], list[int], npt.NDArray[np.floating]]:
    """At most `most` + 1 nodes along each direction: the indices kept and their raw places [px]."""
    kept = [sorted({int(round(x)) for x in np.linspace(0, n - 1, min(n - 1, most) + 1)}) for n in nodes_px.shape[1:]]
    return kept[0], kept[1], nodes_px[:, kept[0]][:, :, kept[1]]
