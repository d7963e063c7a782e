"""Rule compare_images: densities of all images together, trends within sessions and stacks, groups compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from oddlattice.process.logs import log_to
from oddlattice.run.stage_settings import StatisticsSettings
from oddlattice.statistics.across_images import compare, metadata_of
from oddlattice.statistics.counting import as_reviewed, counts_by_kind, false_by_kind, one_of_each_stack
from oddlattice.statistics.crystals_of_run import names_in, sites_by_image
from oddlattice.statistics.groups import group_name
from oddlattice.statistics.populations import folder_populations, population_table
from oddlattice.storage.atomic import write_text
from oddlattice.storage.image_json import ByImage
from oddlattice.storage.json_text import json_lines
from oddlattice.storage.products import (
    COLUMNS,
    COMPARISONS,
    DENSITIES,
    FOLDER_POPULATIONS,
    GROUPS,
    OF_SERIES,
    POPULATIONS,
    SITES,
    TRENDS,
    gathered,
    read_table,
    table,
    write_both,
    write_csv,
    write_parquet,
)
from oddlattice.storage.rows import Row

#: The tables beside statistics.json, by the key of their rows in it.
TABLES = {"densities": DENSITIES, "sites": SITES, "groups": GROUPS, "comparisons": COMPARISONS, "trends": TRENDS}
CSV = (*TABLES, "populations", "folder_populations")


def main(
    images: str | Path,
    defects: str | Path,
    grains: str,
    statistics_json: list[str],
    images_zarr: list[str],
    series: dict[str, list[str]],
    out_json: str | Path,
    out_csv: dict[str, str | Path],
    out_parquet: str | Path,
    out_series: dict[str, str],
    settings: StatisticsSettings,
    seed: int,
    columns: Sequence[str] = (),
) -> None:
    """Write what is found in all images together, as one JSON and as tables.

    Parameters
    ----------
    images, defects, grains : path
        The gathered tables.
    statistics_json : list of path
        Of the shards.
    images_zarr : list of path
        Stores of the raw images: their metadata may name the groups.
    series, out_series : dict
        Paths of the tables ``series``, ``tracks`` and ``events`` of the shards, and of all together.
    out_csv, out_parquet : dict of str to path, path
        Tables named in `CSV`; populations of every image.
    columns : sequence of path
        Tables of the shards: populations of folders are made from them.
    """
    listed = pl.read_parquet(defects)
    rows = pl.read_parquet(images).filter(pl.col("state") == "analysed").to_dicts()
    names_of = names_in(grains)
    sites = sites_by_image(columns, listed, rows, names_of)
    populations: list[Row] = []
    for path in statistics_json:  # of all that a shard says only this is kept: there may be 100,000 images
        for name, one in ByImage(path).items():
            populations += population_table(name, one.get("populations", []))
    group_by = settings.group_by
    plain = group_by == "folder" or (rows and group_by in rows[0])
    metadata = {} if plain else metadata_of(images_zarr, {row["image_id"] for row in rows})
    names = {row["image_id"]: group_name(row, metadata.get(row["image_id"], {}), group_by) for row in rows}
    false = false_by_kind(listed, {row["image_id"]: row["false_dispersion"] for row in rows})
    found = compare(rows, counts_by_kind(listed), sites, names, false, seed) | {"group_by": group_by}
    tables = (read_table(path, COLUMNS) for path in columns)
    found["populations"] = folder_populations(tables, one_of_each_stack(as_reviewed(rows)), names_of)
    print(f"{len(rows)} images, {len(found['groups'])} groups, {len(found['trends'])} trends")
    for name, schema in TABLES.items():
        write_csv(table([{k: row[k] for k in schema} for row in found[name]], schema), out_csv[name])
    told = table(populations, POPULATIONS).sort("image_id", "grain", "site", "component")
    write_csv(told, out_csv["populations"])
    write_csv(table(found["populations"], FOLDER_POPULATIONS), out_csv["folder_populations"])
    write_parquet(told, out_parquet)
    for name, how in OF_SERIES.items():
        found[name] = write_both(gathered(series[name], *how), out_series, name).to_dicts()
    write_text(out_json, json_lines(found))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_parquet,
        snakemake.input.defects_parquet,
        snakemake.input.grains_parquet,
        list(snakemake.input.statistics),
        list(snakemake.input.images_zarr),
        {name: list(snakemake.input[name]) for name in OF_SERIES},
        snakemake.output.json,
        {name: snakemake.output[name] for name in CSV},
        snakemake.output.populations_parquet,
        {f"{name}_{end}": snakemake.output[f"{name}_{end}"] for name in OF_SERIES for end in ("parquet", "csv")},
        StatisticsSettings.of(snakemake.params.settings),
        snakemake.params.seed,
        list(snakemake.input.columns),
    )
