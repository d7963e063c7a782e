"""Which grain of a frame is which grain of the frames before: by its lattice and by where it lies."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from oddlattice.series.drift import Frame, lattice_of, turn_between

REACH_CELLS = 2.0  # longest lattice vectors that a grain may have drifted since the last frame that showed it
OVERLAP = 0.5  # least part of its columns that lie where the grain was


def same_grains(frames: Sequence[Mapping[int, Frame]]) -> list[list[Frame]]:
    """The frames of every grain of a stack.

    Parameters
    ----------
    frames : sequence of mapping of int to Frame
        The grains of each frame, by their numbers there: these go by area, so they may change from frame to frame.

    Returns
    -------
    list of list of Frame
        Grains in the order in which they come into view, those of one frame by their numbers.
    """
    found: list[list[Frame]] = []
    for grains in frames:
        fits = [
            (overlap, k, number)
            for k, known in enumerate(found)
            for number, grain in grains.items()
            if (overlap := _overlap(grain, known[-1])) >= OVERLAP
        ]
        known_as = dict[int, int]()
        for _, k, number in sorted(fits, key=lambda fit: -fit[0]):
            if k not in known_as.values():
                known_as.setdefault(number, k)
        for number in sorted(grains):
            if number in known_as:
                found[known_as[number]].append(grains[number])
            else:
                found.append([grains[number]])
    return found


def _overlap(grain: Frame, before: Frame) -> float:
    """Part of a grain's columns that lie where another frame has those of the same lattice; 0 where cells differ."""
    lattice = lattice_of(before)
    if turn_between(lattice_of(grain), lattice) is None:
        return 0.0
    reach_px = REACH_CELLS * float(np.hypot(*lattice.vectors_px.T).max())
    away, _ = cKDTree(before.places_px).query(grain.places_px, distance_upper_bound=reach_px)
    return float(np.isfinite(away).mean())
