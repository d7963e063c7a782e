"""The list of a stack: one row for each track of its series, not one for each frame that shows it."""

import numpy as np
import polars as pl

from oddlattice.defects.kinds import NO_POINTS
from oddlattice.numerics.arrays import Index
from oddlattice.series.tables import tracks_by_frame
from oddlattice.storage.rows import Row

SAME = 0.4  # of the distance between columns: so near to a track a defect of a frame is its


def with_tracks(
    defects: pl.DataFrame, images: pl.DataFrame, series: pl.DataFrame, frames: pl.DataFrame, tracks: pl.DataFrame
) -> pl.DataFrame:
    """Defects with `track` and `again`.

    A frame's defect belongs to the track that stands where it is. The first frame that lists a track stands for it; all
    others are `again`, and so is what the series does not confirm. What is no point, and stacks that were not followed,
    stand in the first frame that counts alone.

    Parameters
    ----------
    defects, images : DataFrame
        With `counted`.
    series, frames, tracks : DataFrame
        products.SERIES, SERIES_FRAMES and TRACKS of all shards.
    """
    counted = set(images.filter(pl.col("counted"))["image_id"])
    of_stack = set(frames["image_id"])
    rows = defects.select("image_id", "kind", "row_px", "col_px").with_row_index("at")
    inside = rows.filter(pl.col("image_id").is_in(list(of_stack)))
    track, again = np.zeros(defects.height, np.int64), np.zeros(defects.height, dtype=bool)
    again[inside.filter(~pl.col("image_id").is_in(list(counted)))["at"].to_numpy()] = True
    points = inside.filter(~pl.col("kind").fill_null("").is_in(NO_POINTS)).partition_by("image_id", as_dict=True)
    for one in series.filter(pl.col("state") == "followed").iter_rows(named=True):
        of_it = pl.col("series_id") == one["series_id"]
        own = frames.filter(of_it & pl.col("used")).sort("frame").to_dicts()
        listed = set[int]()
        for frame, alive in zip(own, tracks_by_frame(own, tracks.filter(of_it).to_dicts()), strict=True):
            here = points.get((frame["image_id"],))
            if here is None:
                continue
            number = _nearest(here, alive, SAME * one["column_distance_px"])
            index = here["at"].to_numpy()
            track[index] = number
            again[index] = [k == 0 or k in listed for k in number.tolist()]
            listed |= set(number.tolist())
    told = pl.Series("track", track, pl.Int64)
    return defects.with_columns(pl.when(told > 0).then(told).alias("track"), pl.Series("again", again, pl.Boolean))


def _nearest(defects: pl.DataFrame, tracks: list[Row], reach_px: float) -> Index:
    """Number (n,) of the track nearest to each defect within reach; 0 where there is none."""
    if not tracks:
        return np.zeros(defects.height, np.int64)
    numbers, places = np.array([t["track"] for t in tracks]), np.array([(t["row_px"], t["col_px"]) for t in tracks])
    away = np.hypot(*(defects.select("row_px", "col_px").to_numpy()[:, None] - places).transpose(2, 0, 1))
    away = np.where(np.isfinite(away), away, np.inf)
    return np.where(away.min(axis=1) <= reach_px, numbers[away.argmin(axis=1)], 0)
