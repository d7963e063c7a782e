"""Crystals and sites of all images of a run by one name each, in columns of the gathered tables."""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from oddlattice.defects.kinds import NO_POINTS
from oddlattice.statistics.densities import site_fractions
from oddlattice.statistics.same_crystals import Cell, groups_of
from oddlattice.storage.products import COLUMNS, GRAINS, Schema, read_table
from oddlattice.storage.rows import Row

SURE = 0.9  # probability from which a name given by the library is that of a crystal
KEY = ["image_id", "grain"]
NAMES: Schema = {
    "image_id": pl.String,
    "grain": pl.Int64,
    "crystal_in_run": pl.String,
    "sites_in_run": pl.List(pl.String),
}


def brought_into_line(grains: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Which crystal of the run each grain is, and the sites of its columns by their names in the run.

    Parameters
    ----------
    grains, images : polars.DataFrame
        Gathered tables, products.GRAINS and products.IMAGES.

    Returns
    -------
    polars.DataFrame
        ``image_id, grain, crystal_in_run, sites_in_run``: the model's name, or the crystal's, or ``crystal 1``,
        ``crystal 2`` by how much of each is seen; names by column, "" where one is not told, null of a model's crystal.
    """
    sure = dict(images.filter(pl.col("crystal_probability") >= SURE).select("image_id", "crystal").iter_rows())
    own = grains.filter((pl.col("state") == "analysed") & pl.col("own_columns").is_not_null())
    several = dict(grains.group_by("image_id").len().iter_rows())
    cells = [
        Cell.of(row, str(sure.get(row["image_id"]) or "") if several[row["image_id"]] == 1 else "")
        for row in own.iter_rows(named=True)
    ]
    said: dict[tuple[str, int], tuple[str, list[str] | None]] = {
        (row["image_id"], row["grain"]): (str(row["model"] or ""), None)
        for row in grains.filter(pl.col("own_columns").is_null()).iter_rows(named=True)
    }
    unnamed = 0
    for group in groups_of(cells):
        unnamed += not group.name
        names = group.site_names()
        for grain, onto in group.onto.items():
            said[grain] = group.name or f"crystal {unnamed}", [names[k] if k >= 0 else "" for k in onto]
    rows = [
        {"image_id": image, "grain": grain, "crystal_in_run": crystal, "sites_in_run": sites}
        for (image, grain), (crystal, sites) in said.items()
    ]
    return pl.DataFrame(rows, schema=NAMES, orient="row")


def with_names(
    defects: pl.DataFrame, images: pl.DataFrame, grains: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The gathered tables of defects, images and grains with the names of crystals and sites in the run."""
    names = brought_into_line(grains, images)
    crystals = names.sort(KEY).group_by("image_id").agg(pl.col("crystal_in_run").unique(maintain_order=True))
    of_image = dict(zip(crystals["image_id"], (" + ".join(some) for some in crystals["crystal_in_run"]), strict=True))
    analysed = zip(images["image_id"], images["state"], strict=True)
    told = [of_image.get(image) if state == "analysed" else None for image, state in analysed]
    images = images.with_columns(pl.Series("crystal_in_run", told, pl.String))
    texts = [None if sites is None else json.dumps(list(sites)) for sites in names["sites_in_run"]]
    named = names.with_columns(pl.Series("sites_in_run", texts, pl.String))
    joined = grains.drop("crystal_in_run", "sites_in_run").join(named, on=KEY, how="left", maintain_order="left")
    sites = named_sites(defects.drop("site_in_run"), names).select(defects.columns)
    return sites, images, joined.select(grains.columns)


def named_sites(columns: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """A table of columns of crystals with `site_in_run`, and with the columns of `names` (see `brought_into_line`)."""
    found = columns.join(names, on=KEY, how="left", maintain_order="left")
    own = pl.col("sites_in_run").list.get(pl.col("column"), null_on_oob=True)
    known = pl.when(pl.col("sites_in_run").is_null()).then(pl.col("site")).otherwise(own)
    site = pl.when(pl.col("column").is_not_null()).then(known)
    return found.with_columns(site_in_run=pl.when(site != "").then(site))


def names_in(grains: str) -> pl.DataFrame:
    """What `brought_into_line` found, from the gathered table of grains."""
    found = read_table(grains, GRAINS).select(*NAMES)
    return found.with_columns(pl.col("sites_in_run").str.json_decode(pl.List(pl.String)))


def sites_by_image(
    columns: Sequence[str], defects: pl.DataFrame, images: Sequence[Row], names: pl.DataFrame
) -> Mapping[str, list[Row]]:
    """Fractions of the sites of every image, sites by their names in the run; see `densities.site_fractions`.

    Parameters
    ----------
    columns : sequence of path
        Tables of the shards.
    defects : polars.DataFrame
        The gathered table.
    images : sequence of dict
        Analysed images.
    names : polars.DataFrame
        See `names_in`.
    """
    mixed = [str(row["image_id"]) for row in images if " + " in str(row["crystal_in_run"])]

    def told(some: pl.DataFrame) -> pl.DataFrame:
        found = named_sites(some, names).filter(pl.col("site_in_run").is_not_null())
        of_crystal = pl.format("{} {}", "crystal_in_run", "site_in_run")
        return found.with_columns(
            name=pl.when(pl.col("image_id").is_in(mixed)).then(of_crystal).otherwise("site_in_run")
        )

    counts: dict[str, dict[str, int]] = {}
    for path in columns:
        each = read_table(path, COLUMNS).group_by("image_id", "grain", "column", "site", maintain_order=True).len()
        for image, site, number in told(each).select("image_id", "name", "len").iter_rows():
            of_image = counts.setdefault(image, {})
            of_image[site] = of_image.get(site, 0) + number
    points = defects.filter(~pl.col("kind").is_in(NO_POINTS) & ~pl.col("in_region").fill_null(False))
    flagged: dict[str, list[tuple[str, str]]] = {}
    for image, site, kind in told(points.drop("site_in_run")).select("image_id", "name", "kind").iter_rows():
        flagged.setdefault(image, []).append((site, str(kind)))
    return {image: site_fractions(tested, flagged.get(image, [])) for image, tested in counts.items()}
