"""What is told of the populations of an image: rows, histograms, and whether unlike neighbours seek each other."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from oddlattice.defects.populations import FEWEST, Populations, find_populations, populations_by_site
from oddlattice.numerics.arrays import Array, Bools
from oddlattice.statistics.counting import folder_of
from oddlattice.statistics.crystals_of_run import named_sites
from oddlattice.statistics.short_range_order import neighbours, short_range_order
from oddlattice.storage.rows import Row

BINS = 60  # of the histogram of a site
OF_FOLDER, MEASURED = ("image_id", "folder", "model", "crystal", "site"), ("intensity_change", "intensity_noise")
MOST_OF_FOLDER = 20_000  # columns of a site, evenly taken
SHELL = (0.6, 1.25)  # nearest neighbours, of the usual distance of the nearest


def population_rows(found: Populations) -> list[Row]:
    """Rows of products.POPULATIONS, without the keys of image, grain and site.

    Component 0 is the bulk; where there is none, components begin with 1. Means and scatters are parts of the bulk's
    mean, or of the given unit where there is none.
    """
    unit = found.components[0].mean if found.has_bulk else 1.0
    return [
        {
            "component": k if found.has_bulk else k + 1,
            "fraction": one.fraction,
            "fraction_low_68": one.interval_68[0],
            "fraction_high_68": one.interval_68[1],
            "fraction_low_95": one.interval_95[0],
            "fraction_high_95": one.interval_95[1],
            "mean_intensity": one.mean / unit,
            "scatter": one.scatter / unit,
            "n": one.n,
        }
        for k, one in enumerate(found.components)
    ]


def site_populations(columns: pl.DataFrame, pixel_nm: Array, seed: int) -> list[Row]:
    """The populations of every site of an image, their histogram, and whether unlike neighbours seek each other.

    Parameters
    ----------
    columns : polars.DataFrame
        The image's rows of products.COLUMNS.
    pixel_nm : ndarray of shape (2,)
        Along row and col.

    Returns
    -------
    list of dict
        ``grain, site, columns, reason, histogram, order`` and ``populations``: see `population_rows`.
    """
    rows: list[Row] = []
    for own, found in populations_by_site(columns):
        grain, site = own.select("grain", "site").row(0)
        intensity = np.asarray(1 + own["intensity_change"].to_numpy(), dtype=np.float64)
        unit = found.components[0].mean if found.has_bulk else 1.0
        low, high = np.quantile(intensity, [0.0005, 0.9995])
        counts, edges = np.histogram(np.clip(intensity, low, high) / unit, BINS, (low / unit, high / unit + 1e-9))
        places = own.select("row_px", "col_px").to_numpy().astype(np.float64) * pixel_nm
        row = {"grain": grain, "site": site, "columns": own.height, "reason": found.reason}
        row |= {"histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}
        row |= {"order": nearest_order(places, found.component != 0, seed) if found.has_bulk else {}}
        rows.append(row | {"populations": population_rows(found)})
    return rows


def population_table(image_id: str, sites: list[Row]) -> list[Row]:
    """Rows of products.POPULATIONS of an image, from `site_populations`."""
    return [
        {"image_id": image_id, "grain": site["grain"], "site": site["site"], **one}
        for site in sites
        for one in site["populations"]
    ]


def folder_populations(columns: Iterable[pl.DataFrame], images: Sequence[Row], names: pl.DataFrame) -> list[Row]:
    """Rows of products.FOLDER_POPULATIONS: the columns of all images of a folder and crystal together, site by site.

    Intensities are each image's own over its bulk; a site that has none in an image is left out there.

    Parameters
    ----------
    columns : iterable of polars.DataFrame
        Tables of the shards, products.COLUMNS.
    images : sequence of dict
        Images that count (products.IMAGES).
    names : polars.DataFrame
        Of crystals and sites in the run, see `crystals_of_run.names_in`.
    """
    group = pl.DataFrame(
        {"image_id": [row["image_id"] for row in images]}
        | {"folder": [folder_of(row) for row in images], "model": [str(row["model"]) for row in images]},
        schema={"image_id": pl.String, "folder": pl.String, "model": pl.String},
    )
    some = [pl.DataFrame(schema=dict.fromkeys(OF_FOLDER, pl.String) | dict.fromkeys(MEASURED, pl.Float64))]
    for frame in columns:
        known = frame.filter(pl.col("p_value").is_not_null() & pl.col("intensity_change").is_not_null())
        known = named_sites(known.join(group, on="image_id", maintain_order="left"), names)
        told = known.with_columns(crystal="crystal_in_run", site="site_in_run").filter(pl.col("site").is_not_null())
        some.append(told.select(*OF_FOLDER, *MEASURED))
    rows: list[Row] = []
    for key, own in pl.concat(some).group_by(*OF_FOLDER[1:], maintain_order=True):
        even = own.gather_every(max(1, -(-own.height // MOST_OF_FOLDER)))
        change, noise = (even[name].fill_null(0.0).to_numpy() for name in MEASURED)
        found = replace(find_populations(1 + change, np.maximum(noise, 1e-6)), has_bulk=True)
        about = dict(zip(OF_FOLDER[1:], key, strict=True)) | {"images": own["image_id"].n_unique()}
        rows += [about | one for one in population_rows(found)] if found.components else []
    return sorted(rows, key=lambda row: tuple(row[name] for name in (*OF_FOLDER[1:], "component")))


def nearest_order(places_nm: Array, unlike: Bools, seed: int) -> Row:
    """Order of the columns that are not bulk over nearest neighbours of their site; empty where there are too few."""
    from scipy.spatial import cKDTree  # here, not above: few processes ask

    if len(places_nm) < FEWEST:
        return {}
    away = np.asarray(cKDTree(places_nm).query(places_nm, k=2)[0])
    usual = float(np.median(away[:, 1]))
    found = short_range_order(neighbours(places_nm, SHELL[0] * usual, SHELL[1] * usual), unlike, seed)
    return {} if found is None else {"unlike": int(unlike.sum()), **vars(found)}
