"""The cells by which a model is judged on an image."""

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.crystal import PxPerCell
from oddlattice.lattice.columns import cells_at, median_cell, px_of, sample_of
from oddlattice.lattice.subareas import Part, in_px, is_inside, parts_of
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.predict.network import contrast_of
from oddlattice.storage import blocks


def contrast_in(tiles: zarr.Array[Any], mask: Mask) -> float | None:
    """Contrast of an image too large to be read at once; None of any other: its parts are the whole and tell it."""
    if len(parts_of(mask.shape, 0)) == 1:
        return None
    sample, px_per_cell = sample_of(mask), px_of(tiles, mask)
    cells = [
        cells_at(
            blocks.read(tiles, in_px(part.core, px_per_cell)),
            sample[own] - [part.core[0].start, part.core[1].start],
            px_per_cell,
        )
        for part in parts_of(mask.shape, 0)
        if (own := is_inside(sample, part)).any()
    ]
    return contrast_of(median_cell(np.concatenate(cells)))


class Samples:
    """The cells of an image by which its model is judged: as seen, as the network has them, as they are predicted."""

    def __init__(self, mask: Mask, px_per_cell: PxPerCell) -> None:
        cells, self.px_per_cell = sample_of(mask), px_per_cell
        # predictions have no noise: of them an eighth of the cells is enough
        self.cells = {"seen": cells, "network": cells[::8], "predicted": cells[::8]}
        self.kept: dict[str, list[Float]] = {name: [] for name in self.cells}
        self._medians: dict[str, npt.NDArray[np.float64]] = {}

    def take(self, part: Part, **maps: Float) -> None:
        """Keep the sample's cells of a part of the image."""
        for name, values in maps.items():
            own = self.cells[name][is_inside(self.cells[name], part)]
            self.kept[name].append(cells_at(values, own - [part.wide[0].start, part.wide[1].start], self.px_per_cell))

    def median(self, name: str) -> npt.NDArray[np.float64]:
        """Median cell (n_u, n_v), once all parts are taken."""
        if name not in self._medians:
            self._medians[name] = median_cell(np.concatenate(self.kept[name]))
        return self._medians[name]
