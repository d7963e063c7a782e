"""The list of a stack: one row for each track of its series, not one for each frame that shows it."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from oddlattice.defects.kinds import NO_POINTS
from oddlattice.numerics.arrays import Index
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
        own = tracks.filter(pl.col("series_id") == one["series_id"]).to_dicts()
        listed = set[int]()
        for frame, at in _alive(frames.filter(pl.col("series_id") == one["series_id"]), own):
            here = points.get((frame["image_id"],))
            if here is None:
                continue
            number = _nearest(here, at, SAME * one["column_distance_px"])
            index = here["at"].to_numpy()
            track[index] = number
            again[index] = [k == 0 or k in listed for k in number.tolist()]
            listed |= set(number.tolist())
    told = pl.Series("track", track, pl.Int64)
    return defects.with_columns(pl.when(told > 0).then(told).alias("track"), pl.Series("again", again, pl.Boolean))


def _alive(frames: pl.DataFrame, tracks: list[Row]) -> Iterator[tuple[Row, list[tuple[int, float, float]]]]:
    """Every frame that was used, and the tracks alive in it: number and place [px] there."""
    rows = frames.filter(pl.col("used")).sort("frame").to_dicts()
    by_number = {row["frame"]: row for row in rows}
    for row in rows:
        here = []
        for track in tracks:
            if track["first_frame"] <= row["frame"] <= track["last_frame"]:
                first = by_number[track["first_frame"]]
                moved = (row[key] - first[key] for key in ("drift_row_px", "drift_col_px"))
                place = (track[key] + by for key, by in zip(("row_px", "col_px"), moved, strict=True))
                here.append((int(track["track"]), *place))
        yield row, here


def _nearest(defects: pl.DataFrame, tracks: list[tuple[int, float, float]], reach_px: float) -> Index:
    """Number (n,) of the track nearest to each defect within reach; 0 where there is none."""
    if not tracks:
        return np.zeros(defects.height, np.int64)
    numbers, places = np.array([one[0] for one in tracks]), np.array([one[1:] for one in tracks])
    away = np.hypot(*(defects.select("row_px", "col_px").to_numpy()[:, None] - places).transpose(2, 0, 1))
    away = np.where(np.isfinite(away), away, np.inf)
    return np.where(away.min(axis=1) <= reach_px, numbers[away.argmin(axis=1)], 0)
