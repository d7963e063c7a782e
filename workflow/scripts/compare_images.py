"""Rule compare_images: densities of all images together, trends within sessions and stacks, groups compared."""

from pathlib import Path
from typing import Any

import polars as pl

from oddlattice.process.logs import log_to
from oddlattice.statistics import across_images
from oddlattice.statistics.across_images import by_model, counts_by_kind, metadata_of
from oddlattice.storage.atomic import write_text
from oddlattice.storage.image_json import ByImage
from oddlattice.storage.json_text import json_lines
from oddlattice.storage.products import COMPARISONS, DENSITIES, GROUPS, SITES, TRENDS, table, write_csv
from oddlattice.storage.rows import Row


def main(
    images: str | Path,
    defects: str | Path,
    statistics_json: list[str],
    images_zarr: list[str],
    out_json: str | Path,
    out_csv: dict[str, str | Path],
    settings: dict[str, Any],
) -> None:
    """Write what is found in all images together, as one JSON and as tables.

    Parameters
    ----------
    images, defects : path
        The gathered tables.
    statistics_json : list of path
        Of the shards.
    images_zarr : list of path
        Stores of the raw images: their metadata may name the groups.
    out_csv : dict
        Paths of densities, sites, groups, comparisons, trends.
    settings : dict
        ``group_by``, ``seed``.
    """
    rows = across_images.as_reviewed(pl.read_parquet(images).to_dicts())
    counts = counts_by_kind(pl.read_parquet(defects))
    sites: dict[str, list[Row]] = {}
    for path in statistics_json:  # of all that a shard says only this is kept: there may be 100,000 images
        sites |= {name: one.get("sites", []) for name, one in ByImage(path).items()}
    group_by = settings["group_by"]
    plain = group_by == "folder" or (rows and group_by in rows[0])
    metadata = {} if plain else metadata_of(images_zarr, {row["image_id"] for row in rows})
    names = {
        row["image_id"]: across_images.group_name(row, metadata.get(row["image_id"], {}), group_by) for row in rows
    }
    each = across_images.one_of_each_stack(rows)
    kinds, fractions = by_model(each, counts, sites)
    listed, compared = across_images.groups(each, counts, names)
    trends = across_images.trends(rows, counts, settings["seed"])
    found = {
        "images": len(rows),
        "images_counted": len(each),
        "group_by": group_by,
        "densities": kinds,
        "sites": fractions,
        "groups": listed,
        "comparisons": compared,
        "trends": trends,
    }
    print(f"{len(rows)} images, {len(listed)} groups, {len(trends)} trends")
    for name, schema, some in (
        ("densities", DENSITIES, kinds),
        ("sites", SITES, fractions),
        ("groups", GROUPS, listed),
        ("comparisons", COMPARISONS, compared),
        ("trends", TRENDS, [{k: v for k, v in row.items() if k != "points"} for row in trends]),
    ):
        write_csv(table(some, schema), out_csv[name])
    write_text(out_json, json_lines(found))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_parquet,
        snakemake.input.defects_parquet,
        list(snakemake.input.statistics),
        list(snakemake.input.images_zarr),
        snakemake.output.json,
        {key: snakemake.output[key] for key in ("densities", "sites", "groups", "comparisons", "trends")},
        dict(snakemake.params.settings),
    )
