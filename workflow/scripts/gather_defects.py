"""Rule gather_defects: the tables of all shards as one table of defects and one of images."""

from typing import Any

import polars as pl

from oddlattice.logs import log_to
from oddlattice.products import COMPLETENESS, DEFECTS, IMAGES, Schema, table, write_csv, write_parquet


def gathered(paths: list[str], schema: Schema, by: list[str]) -> pl.DataFrame:
    """One table of many, sorted: the order of the shards does not show."""
    return pl.concat([table([], schema), *(pl.read_parquet(path) for path in paths)]).sort(by, nulls_last=True)


def main(
    defects: list[str],
    images: list[str],
    completeness: list[str],
    out_defects_parquet: str,
    out_defects_csv: str,
    out_images_parquet: str,
    out_images_csv: str,
    out_completeness_parquet: str,
    out_completeness_csv: str,
) -> None:
    """Write defects, images and completeness of all shards, each as Parquet and as CSV."""
    all_defects = gathered(defects, DEFECTS, ["image_id", "p_value", "row_px", "col_px"])
    all_images = gathered(images, IMAGES, ["path", "image_id"])
    all_trials = gathered(completeness, COMPLETENESS, ["image_id", "site", "kind", "change", "shift_pm", "name"])
    print(f"{len(all_images)} images, {len(all_defects)} defects")
    write_parquet(all_defects, out_defects_parquet)
    write_csv(all_defects, out_defects_csv)
    write_parquet(all_images, out_images_parquet)
    write_csv(all_images, out_images_csv)
    write_parquet(all_trials, out_completeness_parquet)
    write_csv(all_trials, out_completeness_csv)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        list(snakemake.input.defects),
        list(snakemake.input.images),
        list(snakemake.input.completeness),
        snakemake.output.defects_parquet,
        snakemake.output.defects_csv,
        snakemake.output.images_parquet,
        snakemake.output.images_csv,
        snakemake.output.completeness_parquet,
        snakemake.output.completeness_csv,
    )
