"""An image in the lattice frame with its prediction, as the tile and infer stages wrote it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.lattice.columns import ColumnShape, as_cells
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import PixelNm, reckoned_nm
from oddlattice.lattice.subareas import Part, in_px
from oddlattice.numerics.arrays import Array, Float
from oddlattice.storage.groups import attributes_of, values_of

NOWHERE = Part((slice(0, 0), slice(0, 0)), (slice(0, 0), slice(0, 0)))


@dataclass(frozen=True)
class Registered:
    """An image in the lattice frame with its prediction; shapes as the tile and infer stages write them."""

    difference: Float
    prediction: Float
    mask: npt.NDArray[np.uint8]
    inside: npt.NDArray[np.uint8]
    brightness: Array  # mean of each cell over the local mean of the crystal
    level: Array  # that local mean [counts]
    coordinates: Coordinates
    contrast: float  # standard deviation of the mean cell of the whole image
    shapes: list[ColumnShape]
    responses: list[tuple[float, float]]
    vectors_px: Array
    pixel_nm: Array  # (row, col)
    depth_px: Array  # distance of the cells' corners from what is not in the image, or blank
    first: tuple[int, int]  # lattice coordinates of the first cell of the whole image
    foreign: Float | None = None  # light of other grains' columns; 1 where a pixel is another grain's


def load_registered(
    tiles: zarr.Group, differences: zarr.Group, header: PixelNm | None, part: Part | None = None
) -> Registered:
    """Collect what the tile and infer stages wrote of an analysed image, or of a part of it."""
    lattice, model = attributes_of(tiles), attributes_of(differences)
    columns = model["columns"]
    cells = part.wide if part is not None else (slice(None), slice(None))
    corners = tuple(slice(s.start, s.stop + 1) for s in part.wide) if part is not None else ()
    n_u, n_v = lattice["px_per_cell"]
    pixels = in_px(part.wide, (n_u, n_v)) if part is not None else ()
    return Registered(
        difference=values_of(differences, "difference", pixels),
        prediction=values_of(differences, "prediction", pixels),
        mask=values_of(tiles, "mask", cells),
        inside=values_of(tiles, "inside", cells),
        brightness=as_cells(values_of(tiles, "tiles", pixels), (n_u, n_v)).mean(axis=(2, 3), dtype=np.float64),
        level=values_of(tiles, "local_mean", cells).astype(np.float64),
        coordinates=Coordinates.of(tiles, corners),
        contrast=model["contrast"],
        shapes=[ColumnShape.of(column) for column in columns],
        responses=[(c["response_intensity"], c["response_shift"]) for c in columns],
        vectors_px=np.array([lattice["a_px"], lattice["b_px"]]),
        pixel_nm=np.array(reckoned_nm(lattice, header)),
        depth_px=values_of(tiles, "depth_px", corners),
        first=(lattice["first_cell"][0], lattice["first_cell"][1]),
        foreign=np.nan_to_num(values_of(tiles, "foreign", pixels), nan=1.0) if "foreign" in tiles else None,
    )
