"""Rule measure_images: where the columns of each image stand, and its statistics."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr

from oddlattice.crystal import Crystal, load_crystal
from oddlattice.lattice import pixel_size
from oddlattice.lattice.columns import ColumnShape
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.statistics import per_image, polar
from oddlattice.statistics.across_images import seed_for
from oddlattice.storage.groups import group_of, said_of, values_of
from oddlattice.storage.image_json import write_by_image
from oddlattice.storage.products import PLACES, table, write_parquet
from oddlattice.storage.rows import Row


def place_rows(name: str, places: polar.Places, found: polar.Polar | None, coordinates: Coordinates) -> pl.DataFrame:
    """Measured columns of a site as rows of products.PLACES, those without a place left out."""
    known = np.isfinite(places.uv).all(axis=1)
    cells, at = places.cells[known], coordinates.seen_px(places.uv[known])
    shift = np.full((len(cells), 2), np.nan)
    if found is not None and found.b_site == places.site:
        moved = np.full((*coordinates.nodes_px.shape[1:], 2), np.nan)
        moved[found.cells[:, 0], found.cells[:, 1]] = found.shift_pm
        shift = moved[cells[:, 0], cells[:, 1]]
    return pl.DataFrame(
        {
            "image_id": [name] * len(cells),
            "cell_u": cells[:, 0],
            "cell_v": cells[:, 1],
            "site": [places.site] * len(cells),
            "row_px": at[:, 0],
            "col_px": at[:, 1],
            "polar_row_pm": pl.Series(shift[:, 0], nan_to_null=True),
            "polar_col_pm": pl.Series(shift[:, 1], nan_to_null=True),
        },
        schema=PLACES,
    )


def measure(
    row: Row, stores: dict[str, zarr.Group], crystals: dict[str, Crystal], tables: dict[str, pl.DataFrame], seed: int
) -> tuple[Row, list[pl.DataFrame]]:
    """Statistics of one analysed image and its measured columns."""
    name = str(row["image_id"])
    tiles, model = group_of(stores["tiles"], name), said_of(group_of(stores["differences"], name))
    lattice, header = said_of(tiles), pixel_size.header_nm(said_of(group_of(stores["images"], name)))
    coordinates, mask = Coordinates.of(tiles), values_of(tiles, "mask")
    pixel_nm = np.array(pixel_size.by_lattice_nm(lattice["pixel_nm"], header))
    vectors_nm = np.array([lattice["a_px"], lattice["b_px"]]) * pixel_nm
    defects, columns = (tables[key].filter(pl.col("image_id") == name) for key in ("defects", "columns"))
    found = per_image.defect_figures(row, defects, columns)
    cell_nm = math.sqrt(abs(float(np.linalg.det(vectors_nm))))
    found["clustering"] = per_image.clustering(
        defects, columns, pixel_nm, cell_nm, row["area_nm2"], seed_for(name, seed)
    )
    found["lattice"] = per_image.lattice_figures(
        *polar.lattice_field(coordinates.nodes_px, mask, pixel_nm), coordinates
    )
    shapes = [ColumnShape(c["site"], c["u"], c["v"], c["amplitude"], tuple(c["precision"])) for c in model["columns"]]
    places = [polar.measure_places(tiles["tiles"], mask, shape) for shape in shapes]
    sites = polar.perovskite_sites(crystals[row["model"]]) if row["model"] in crystals else None
    by_site = {p.site: p for p in places}
    displaced = None
    if sites is None:
        found["polar"] = {"reason": "the crystal is no perovskite seen along a cube axis"}
    elif not {column.site for column in sites} <= set(by_site):
        found["polar"] = {"reason": "one of the two sites was not measured"}
    else:
        a, b = (by_site[column.site] for column in sites)
        displaced = polar.polar_displacements(a, b, (mask.shape[0], mask.shape[1]), vectors_nm * 1000)
        found["polar"] = per_image.polar_figures(displaced, coordinates)
    return found, [place_rows(name, p, displaced, coordinates) for p in places]


def main(
    images_zarr: str | Path,
    tiles_zarr: str | Path,
    differences_zarr: str | Path,
    crystals: list[str],
    defects: str | Path,
    images: str | Path,
    columns: str | Path,
    out_statistics: str | Path,
    out_places: str | Path,
    settings: dict[str, Any],
    watch: Watch | None = None,
) -> None:
    """Write statistics and measured columns of the analysed images of a shard; a failure costs its image alone.

    Parameters
    ----------
    images_zarr, tiles_zarr, differences_zarr : path
        The shard's stores.
    crystals : list of path
        crystal.yaml of every configured model.
    defects, images, columns : path
        The shard's tables.
    settings : dict
        ``seed``.
    watch : Watch, optional
        Of a process that is watched.
    """
    paths = {"images": images_zarr, "tiles": tiles_zarr, "differences": differences_zarr}
    stores = {key: zarr.open_group(str(path), mode="r") for key, path in paths.items()}
    tables = {"defects": pl.read_parquet(defects), "columns": pl.read_parquet(columns)}
    known = {Path(path).parent.name: load_crystal(Path(path)) for path in crystals}
    watch = watch or Watch()
    places = [table([], PLACES)]

    def each() -> Iterator[tuple[str, Row]]:
        for row in pl.read_parquet(images).iter_rows(named=True):
            if row["state"] != "analysed":
                continue
            name = str(row["image_id"])
            measured, fault = watch.spared(name, measure, row, stores, known, tables, settings["seed"])
            if measured is None:
                assert fault is not None
                print(f"{name}: {fault.trace}")
                yield name, {"failed": fault.words}
                continue
            places.extend(measured[1])
            clustering, moved = (measured[0][key] for key in ("clustering", "polar"))
            print(f"{name}: g(r) p {clustering.get('p_value')}, noise of polar map {moved.get('sigma_pm')} pm")
            yield name, measured[0]

    write_by_image(each(), out_statistics)
    write_parquet(pl.concat(places), out_places)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        list(snakemake.input.crystals),
        snakemake.input.defects,
        snakemake.input.images,
        snakemake.input.columns,
        snakemake.output.statistics,
        snakemake.output.places,
        dict(snakemake.params.settings),
        go_on_watched(),
    )
