"""The statistics of one image: what its tables are turned into for the report and for others to read."""

import math

import numpy as np
import numpy.typing as npt
import polars as pl
import zarr

from oddlattice.crystal import Crystal
from oddlattice.lattice import pixel_size
from oddlattice.lattice.columns import ColumnShape
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import PixelNm
from oddlattice.numerics.arrays import Array
from oddlattice.statistics import densities, pair_correlation, polar
from oddlattice.statistics.counting import false_by_kind, kinds_of, point_defects, seed_for
from oddlattice.statistics.populations import site_populations
from oddlattice.statistics.strain import figures_of, strain_of_places
from oddlattice.storage.groups import FIRST_GRAIN, attributes_of, grain_of, grains_in, group_of, values_of
from oddlattice.storage.products import COLUMN_KEY, PLACES
from oddlattice.storage.rows import Row


def defect_figures(row: Row, defects: pl.DataFrame, columns: pl.DataFrame) -> Row:
    """Densities by kind and fractions by site of one analysed image.

    Parameters
    ----------
    row : dict
        Of the images table.
    defects, columns : polars.DataFrame
        The image's rows of products.DEFECTS and products.COLUMNS.
    """
    points, name = point_defects(defects), str(row["image_id"])
    false = false_by_kind(defects, {name: row["false_dispersion"]}).get(name, {})
    tested = dict(columns.group_by("site").len().iter_rows())
    flagged = [(str(site or ""), kind) for site, kind in zip(points["site"], kinds_of(points), strict=True)]
    return {
        "densities": densities.densities_by_kind([kinds_of(points)], [row], [false]) if row["area_nm2"] else [],
        "sites": densities.site_fractions(tested, flagged),
    }


NO_SIZE = "the image's pixel size is not known"
NO_BULK = "a site has no bulk to test its columns by"


def clustering(
    defects: pl.DataFrame, columns: pl.DataFrame, pixel_nm: Array, cell_nm: float, area_nm2: float, seed: int
) -> Row:
    """Pair correlation of the flagged columns of one image against chance; or `reason` why there is none."""
    key = list(COLUMN_KEY)
    points = point_defects(defects).select(key).drop_nulls().with_columns(flagged=pl.lit(True)).unique(key)
    marked = columns.join(points, on=key, how="left", maintain_order="left")["flagged"].fill_null(False).to_numpy()
    number = columns["column"].to_numpy().astype(np.intp)
    number = number + (number.max(initial=0) + 1) * (columns["grain"].to_numpy() - FIRST_GRAIN)
    places = columns.select("row_px", "col_px").to_numpy().astype(np.float64) * pixel_nm
    edges = pair_correlation.radial_edges(cell_nm, area_nm2)
    found = pair_correlation.pair_correlation(places, number, marked, edges, seed)
    if found is None:
        return {"reason": f"fewer than {pair_correlation.LEAST_DEFECTS} flagged columns", "defects": int(marked.sum())}
    return {
        "defects": found.defects,
        "simulations": found.simulations,
        "p_value": found.p_value,
        "edges_nm": found.edges_nm.tolist(),
        "g": found.g.tolist(),
        "envelope_low": found.low.tolist(),
        "envelope_high": found.high.tolist(),
        "pairs": found.pairs.tolist(),
        "pairs_expected": found.expected.tolist(),
    }


def vector_field(blocks: polar.Blocks, at: Coordinates, sigma_pm: float | None) -> Row:
    """A field of displacements as rows of straight places [px] and vectors [pm]: a block covers many lines."""
    places = at.straight_px(blocks.uv)
    u, v = blocks.uv.T
    half = blocks.cells / 2
    corners = [
        at.straight_px(np.stack([u + half * i, v + half * j], -1)) for i, j in ((-1, -1), (-1, 1), (1, 1), (1, -1))
    ]
    return {
        "block_cells": blocks.cells,
        "row_px": np.round(places[:, 0], 2).tolist(),
        "col_px": np.round(places[:, 1], 2).tolist(),
        "shift_row_pm": np.round(blocks.shift_pm[:, 0], 3).tolist(),
        "shift_col_pm": np.round(blocks.shift_pm[:, 1], 3).tolist(),
        "cells": blocks.number.tolist(),
        "sigma_pm": None if sigma_pm is None else (sigma_pm / np.sqrt(blocks.number)).round(3).tolist(),
        "corners_px": np.round(np.stack(corners, axis=1), 1).reshape(-1, 8).tolist(),
    }


def polar_figures(found: polar.Polar, at: Coordinates) -> Row:
    """Mean, size and map of the B sites' displacements; `reason` where there is nothing to show."""
    n = len(found.cells)
    if n < 9 or not np.isfinite(found.sigma_pm):
        return {"reason": "too few whole cells to tell their noise", "cells": n}
    mean = found.shift_pm.mean(axis=0)
    error = found.shift_pm.std(axis=0, ddof=1) / np.sqrt(n)
    size = np.hypot(*found.shift_pm.T)
    middle = np.median(found.uv - found.cells, axis=0)
    blocks = polar.in_blocks(found.cells, found.shift_pm, middle.tolist())
    # a block's length against its noise: Rayleigh, if there were no displacement
    block_sigma = found.sigma_pm / np.sqrt(blocks.number)
    beyond = np.hypot(*blocks.shift_pm.T) > block_sigma * np.sqrt(-2 * np.log(0.05))
    return {
        "a_site": found.a_site,
        "b_site": found.b_site,
        "cells": n,
        "sigma_pm": found.sigma_pm,
        "mean_row_pm": float(mean[0]),
        "mean_col_pm": float(mean[1]),
        "mean_row_sigma_pm": float(error[0]),
        "mean_col_sigma_pm": float(error[1]),
        "mean_size_pm": float(np.hypot(*mean)),
        "rms_pm": float(np.sqrt((size**2).mean())),
        "median_size_pm": float(np.median(size)),
        "blocks_beyond_noise": float(beyond.mean()),
        "field": vector_field(blocks, at, found.sigma_pm),
    }


def lattice_figures(cells: npt.NDArray[np.intp], shift_pm: Array, at: Coordinates) -> Row:
    """Size and map of the smooth displacement of the lattice from a perfect one."""
    blocks = polar.in_blocks(cells, shift_pm, (0.5, 0.5), most=20)
    size = np.hypot(*shift_pm.T)
    return {
        "rms_pm": float(np.sqrt((size**2).mean())),
        "largest_pm": float(size.max()),
        "field": vector_field(blocks, at, None),
    }


def measure(
    row: Row, stores: dict[str, zarr.Group], crystals: dict[str, Crystal], tables: dict[str, pl.DataFrame], seed: int
) -> tuple[Row, list[pl.DataFrame]]:
    """Statistics of one analysed image and its measured columns.

    What is measured on a lattice (`lattice`, `polar`, `strain`) is that of each grain, in `grains` by their numbers
    where there are several; beside the rest stands that of the first.
    """
    name = str(row["image_id"])
    header = pixel_size.header_nm(attributes_of(group_of(stores["images"], name)))
    defects, columns = (tables[key].filter(pl.col("image_id") == name) for key in ("defects", "columns"))
    tested = columns.filter(pl.col("p_value").is_not_null())
    found = defect_figures(row, defects, tested)
    numbers = [k for k in grains_in(stores["tiles"], name) if _analysed(stores, name, k)]
    lattice = attributes_of(grain_of(stores["tiles"], name, numbers[0]))
    pixel_nm = np.array(pixel_size.reckoned_nm(lattice, header))
    cell_nm = math.sqrt(abs(float(np.linalg.det(np.array([lattice["a_px"], lattice["b_px"]]) * pixel_nm))))
    if lattice["pixel_nm"] is not None and row["area_nm2"] is not None:
        found["clustering"] = clustering(defects, tested, pixel_nm, cell_nm, row["area_nm2"], seed_for(name, seed))
    else:
        reason = NO_SIZE if lattice["pixel_nm"] is None else NO_BULK
        found["clustering"] = {"reason": reason, "defects": len(point_defects(defects))}
    found["populations"] = site_populations(columns, pixel_nm, seed_for(name, seed))
    of_grains, places = {}, list[pl.DataFrame]()
    for number in numbers:
        of_grains[str(number)], measured = measure_grain(name, number, stores, crystals, header)
        places += measured
    found |= of_grains[str(numbers[0])]
    return found | ({"grains": of_grains} if len(numbers) > 1 else {}), places


def _analysed(stores: dict[str, zarr.Group], name: str, grain: int) -> bool:
    return bool(attributes_of(grain_of(stores["differences"], name, grain))["state"] == "analysed")


def measure_grain(
    name: str, grain: int, stores: dict[str, zarr.Group], crystals: dict[str, Crystal], header: PixelNm | None
) -> tuple[Row, list[pl.DataFrame]]:
    """What is measured on the lattice of a grain, and its columns' places."""
    tiles, model = grain_of(stores["tiles"], name, grain), attributes_of(grain_of(stores["differences"], name, grain))
    lattice, coordinates, mask = attributes_of(tiles), Coordinates.of(tiles), values_of(tiles, "mask")
    pixel_nm = np.array(pixel_size.reckoned_nm(lattice, header))
    found: Row = {"lattice": {"reason": NO_SIZE}}
    if lattice["pixel_nm"] is not None:
        found["lattice"] = lattice_figures(*polar.lattice_field(coordinates.nodes_px, mask, pixel_nm), coordinates)
    places = [polar.measure_places(tiles["tiles"], mask, ColumnShape.of(column)) for column in model["columns"]]
    found["strain"] = figures_of(strain_of_places(places, coordinates, pixel_nm, (mask.shape[0], mask.shape[1])))
    crystal = crystals.get(str(model["model"]))
    found_sites = polar.perovskite_sites(crystal) if crystal is not None else None
    sites = [crystal.columns.index(column) for column in found_sites] if crystal is not None and found_sites else None
    by_column = {p.column: p for p in places}
    displaced = None
    if sites is None:
        found["polar"] = {"reason": "the crystal is no perovskite seen along a cube axis"}
    elif not set(sites) <= set(by_column):
        found["polar"] = {"reason": "one of the two sites was not measured"}
    else:
        vectors_nm = np.array([lattice["a_px"], lattice["b_px"]]) * pixel_nm
        a, b = (by_column[column] for column in sites)
        displaced = polar.polar_displacements(a, b, (mask.shape[0], mask.shape[1]), vectors_nm * 1000)
        found["polar"] = polar_figures(displaced, coordinates)
    first, b_column = np.array(lattice["first_cell"]), sites[1] if sites is not None else None
    moved = [displaced if p.column == b_column else None for p in places]
    rows = [place_rows(name, grain, p, one, coordinates, first) for p, one in zip(places, moved, strict=True)]
    return found, rows


def place_rows(
    name: str,
    grain: int,
    places: polar.Places,
    found: polar.Polar | None,
    coordinates: Coordinates,
    first: npt.NDArray[np.intp],
) -> pl.DataFrame:
    """Measured columns of a kind as rows of products.PLACES, those without a place left out.

    `found` are their polar displacements, where they are the B site; `first` (2,) is the first cell of the arrays.
    """
    known = np.isfinite(places.uv).all(axis=1)
    cells, at = places.cells[known], coordinates.seen_px(places.uv[known])
    shift = np.full((len(cells), 2), np.nan)
    if found is not None:
        moved = np.full((*coordinates.nodes_px.shape[1:], 2), np.nan)
        moved[found.cells[:, 0], found.cells[:, 1]] = found.shift_pm
        shift = moved[cells[:, 0], cells[:, 1]]
    return pl.DataFrame(
        {
            "image_id": [name] * len(cells),
            "grain": [grain] * len(cells),
            "cell_u": cells[:, 0] + first[0],
            "cell_v": cells[:, 1] + first[1],
            "column": [places.column] * len(cells),
            "site": [places.site] * len(cells),
            "row_px": at[:, 0],
            "col_px": at[:, 1],
            "polar_row_pm": pl.Series(shift[:, 0], nan_to_null=True),
            "polar_col_pm": pl.Series(shift[:, 1], nan_to_null=True),
        },
        schema=PLACES,
    )
