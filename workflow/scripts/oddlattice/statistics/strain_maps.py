"""Strain as maps over the image, made when they are asked for: from the table of places and the grains' records."""

from collections.abc import Mapping

import numpy as np
import polars as pl
import zarr

from oddlattice.defects.raw_maps import Laid, write_maps
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import PixelNm
from oddlattice.statistics.strain import COMPONENTS, LEAST_COLUMNS, Strain, strain_of
from oddlattice.storage.groups import attributes_of, values_of


def strain_from_table(places: pl.DataFrame, tiles: zarr.Group, pixel_nm: PixelNm) -> Strain | None:
    """Strain of a grain from its rows of products.PLACES and its group of the tile stage; None where it has too few."""
    shape = values_of(tiles, "mask").shape
    if places.height < LEAST_COLUMNS:
        return None
    cells = places.select("cell_u", "cell_v").to_numpy() - np.array(attributes_of(tiles)["first_cell"])
    _, kind = np.unique(places["column"].to_numpy(), return_inverse=True)
    seen = places.select("row_px", "col_px").to_numpy().astype(np.float64)
    straight = Coordinates.of(tiles).straightened(seen) * np.array(pixel_nm)
    return strain_of(cells.astype(np.intp), kind, straight, (shape[0], shape[1]))


def write_strain(
    group: zarr.Group, grains: Mapping[int, tuple[Strain, Coordinates]], shape: tuple[int, int], header: PixelNm | None
) -> None:
    """Write exx, eyy, exy and rotation [degrees] as OME-Zarr images in the raw frame, all grains in one.

    Where no grain lies they are 0, where too few columns were measured nan.
    """
    laid = [
        Laid({name: np.ascontiguousarray(one, np.float32) for name, one in zip(COMPONENTS, s.values, strict=True)}, at)
        for s, at in grains.values()
    ]
    write_maps(group, laid, shape, header)
