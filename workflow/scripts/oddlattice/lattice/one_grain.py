"""A grain as an image of its own: everything else is blank."""

from dataclasses import replace
from typing import Any

import numpy as np

from oddlattice.lattice.registration import Registration
from oddlattice.lattice.subareas import in_px
from oddlattice.numerics.arrays import Bools, Float

MARGIN_CELLS = 2  # kept about the cells of a grain


def alone(image: Float, region: Bools) -> Float:
    """An image with the pixels outside of a region (rows, cols) blank: there the grain is not seen."""
    return np.asarray(np.where(region, image, np.nan), dtype=np.float32)


def cropped(found: Registration) -> Registration:
    """A registration without the cells far from those in its grain."""
    at = np.argwhere(found.inside)
    low = np.maximum(at.min(0) - MARGIN_CELLS, 0)
    high = np.minimum(at.max(0) + 1 + MARGIN_CELLS, found.inside.shape)
    cells = slice(low[0], high[0]), slice(low[1], high[1])
    corners = slice(low[0], high[0] + 1), slice(low[1], high[1] + 1)
    changes: dict[str, Any] = {key: getattr(found, key)[cells] for key in ("local_mean", "mask", "inside", "amplitude")}
    if found.foreign.size:
        changes["foreign"] = found.foreign[in_px(cells, found.px_per_cell)]
    return replace(
        found,
        first=(found.first[0] + int(low[0]), found.first[1] + int(low[1])),
        nodes_px=found.nodes_px[:, corners[0], corners[1]],
        depth_px=found.depth_px[corners],
        shift_uv=found.shift_uv[:, cells[0], cells[1]],
        **changes,
    )
