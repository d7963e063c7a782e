"""One false-discovery rate over all images of a run, made where their tables are gathered.

What a shard holds depends on its images alone: its tables and pages list by each image's own rate. The gathered tables
of defects and images, and all that is made from them (statistics, index, gallery), list by the run's, which another
image may move.
"""

import numpy as np
import polars as pl

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.defects.fdr import decide
from oddlattice.defects.kind_probabilities import CERTAIN, kind_probabilities
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.intervals import poisson_interval
from oddlattice.storage.products import COLUMN_KEY, DEFECTS
from oddlattice.storage.rows import Row

KEY = ["image_id", *COLUMN_KEY]
NOT_OF_THE_RUN = ("density_corrected_per_nm2", "density_corrected_ci_low", "density_corrected_ci_high")


def listed_over_run(
    defects: pl.DataFrame, images: pl.DataFrame, columns: pl.DataFrame, fdr: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables of defects and images, listed at one false-discovery rate over all images.

    A place between the columns that its image did not list cannot be listed by the run. Corrected densities are left
    open: completeness was measured at each image's own threshold.

    Parameters
    ----------
    defects, images : polars.DataFrame
        Of all shards, products.DEFECTS and products.IMAGES.
    columns : polars.DataFrame
        Rows of products.COLUMNS with p-values of at most `fdr`: no other can be listed.
    """
    extras = defects.filter((pl.col("kind") == "extra") & pl.col("p_value").is_not_null())
    columns = columns.filter(pl.col("p_value") <= fdr).sort(KEY)
    tested, cells = (int(images[key].sum() or 0) for key in ("columns_tested", "cells_analysed"))
    p, p_extra = (frame["p_value"].to_numpy() for frame in (columns, extras))
    found = decide(p, p_extra, cells, fdr, tested)
    of_run = columns.with_columns(q_run=pl.Series(found.q, dtype=pl.Float64)).filter(pl.col("q_run") <= fdr)
    places = extras.with_columns(q_value=pl.Series(found.q_extra, dtype=pl.Float64)).filter(pl.col("q_value") <= fdr)
    kept = defects.filter(pl.col("column").is_not_null()).join(of_run.select(*KEY, "q_run"), on=KEY)
    kept = kept.with_columns(q_value=pl.col("q_run")).select(defects.columns)
    added = _as_defects(of_run.join(kept, on=KEY, how="anti"), images).select(defects.columns)
    regions = defects.filter(pl.col("kind").is_in(NO_POINTS))
    listed = pl.concat([kept, places, added, regions]).sort("image_id", "p_value", "row_px", "col_px", nulls_last=True)
    return listed, _counted_anew(images, listed)


def _as_defects(columns: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Columns that no image listed by itself as defects; kind and change by the first estimate, without a fit."""
    about = images.select("image_id", "path", "signal", "frame", nm=pl.coalesce("pixel_nm", "pixel_nm_header"))
    told = [_kind_of(row) for row in columns.iter_rows(named=True)]
    found = columns.join(about, on="image_id", how="left", maintain_order="left").with_columns(
        pl.Series("kind", [kind for kind, _ in told], pl.String),
        pl.Series("kind_probability", [chance for _, chance in told], pl.Float64),
        row_nm=pl.col("row_px") * pl.col("nm"),
        col_nm=pl.col("col_px") * pl.col("nm"),
        q_value=pl.col("q_run"),
        review=pl.lit(""),
    )
    missing = [pl.lit(None, dtype).alias(key) for key, dtype in DEFECTS.items() if key not in found.columns]
    version = [] if "version" in found.columns else [pl.lit(None, pl.String).alias("version")]
    return found.with_columns(missing + version)


def _kind_of(row: Row) -> tuple[str, float]:
    """Kind of a column of products.COLUMNS and its probability."""
    shift = np.array([row["shift_row_pm"] or 0.0, row["shift_col_pm"] or 0.0])
    covariance = (row["shift_sigma_pm"] or 1.0) ** 2 * np.eye(2)
    chances = kind_probabilities(row["intensity_change"], row["intensity_change_sigma"], shift, covariance)
    best = max(chances, key=lambda kind: chances[kind])
    return best if chances[best] >= CERTAIN else "unknown", chances[best]


def _counted_anew(images: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """The table of images with the number, density and false alarms of what is `listed`."""
    points = listed.filter(~pl.col("kind").is_in(NO_POINTS) & ~pl.col("in_region").fill_null(False))
    real = {str(name): some["probability_real"].to_numpy() for (name,), some in points.group_by("image_id")}
    rows = [
        _figures(row, real.get(str(row["image_id"]), np.empty(0))) if row["state"] == "analysed" else {}
        for row in images.iter_rows(named=True)
    ]
    names = sorted({key for row in rows for key in row})
    values = zip(rows, images.iter_rows(named=True), strict=True)
    anew = [{key: made.get(key) if made else row[key] for key in names} for made, row in values]
    return images.with_columns(pl.Series(key, [row[key] for row in anew], images.schema[key]) for key in names)


def _figures(row: Row, real: Array) -> Row:
    area, number = row["area_nm2"], len(real)
    density: list[float | None] = [x / area for x in (number, *poisson_interval(number))] if area else [None] * 3
    return (
        {"defects": number, "density_corrected_left_out": None}
        | dict(zip(("density_per_nm2", "density_ci_low", "density_ci_high"), density, strict=True))
        | dict.fromkeys(NOT_OF_THE_RUN)
        | FalseAlarms.among(real, row["false_dispersion"] or 1.0).row()
    )
