"""The stacks of a shard, followed, as rows of products.SERIES, TRACKS and EVENTS."""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import polars as pl

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.series.drift import Frame
from oddlattice.series.events import Event, exposure, nearest_track
from oddlattice.series.follow import LEAST_FRAMES, Followed, follow
from oddlattice.storage.rows import Row

GRAIN = 1  # the largest
LEAST_COLUMNS = 36
Tables = dict[str, list[Row]]


def stacks_of(images: pl.DataFrame) -> Iterator[list[Row]]:
    """Rows of products.IMAGES of every stack that was analysed frame by frame, in the order of frames."""
    rows = images.filter(pl.col("frame") >= 0).sort("file_id", "signal", "frame").to_dicts()
    for _, group in itertools.groupby(rows, lambda row: (row["file_id"], row["signal"])):
        frames = list(group)
        if len({row["frame"] for row in frames}) > 1:
            yield frames


def frame_of(number: int, columns: pl.DataFrame) -> Frame:
    """The tested columns of one image (products.COLUMNS) as a frame."""
    sites = dict(zip(columns["column"].to_list(), columns["site"].to_list(), strict=True))
    return Frame(
        number,
        columns.select("cell_u", "cell_v").to_numpy(),
        columns["column"].to_numpy(),
        sites,
        columns.select("row_px", "col_px").to_numpy(),
        columns["intensity_change"].to_numpy(),
        columns["intensity_noise"].to_numpy(),
    )


def frames_of(stack: list[Row], columns: pl.DataFrame) -> tuple[list[Frame], dict[int, str]]:
    """Frames of a stack that can be followed, and why others are left out, by their numbers."""
    models = Counter(row["model"] for row in stack if row["state"] == "analysed")
    model = max(models, key=lambda name: models[name]) if models else None
    can = (pl.col("grain") == GRAIN) & pl.col("z").is_not_null() & pl.col("intensity_change").is_finite()
    names = [row["image_id"] for row in stack]
    columns = columns.filter(can & (pl.col("intensity_noise") > 0) & pl.col("image_id").is_in(names))
    by_image = columns.partition_by("image_id", as_dict=True)
    kept, left = [], dict[int, str]()
    for row in stack:
        own = by_image.get((row["image_id"],))
        if row["state"] != "analysed":
            left[row["frame"]] = row["state"].replace("_", " ")
        elif row["model"] != model:
            left[row["frame"]] = "another model"
        elif own is None or own.height < LEAST_COLUMNS:
            left[row["frame"]] = f"fewer than {LEAST_COLUMNS} columns tested"
        else:
            kept.append(frame_of(row["frame"], own))
    return kept, left


def as_words(left: dict[int, str]) -> str:
    """Frames left out, by reason: "3, 7: no lattice"."""
    by_reason: dict[str, list[str]] = {}
    for number, why in sorted(left.items()):
        by_reason.setdefault(why, []).append(str(number))
    return "; ".join(f"{', '.join(numbers)}: {why}" for why, numbers in by_reason.items())


def about_stack(stack: list[Row]) -> Row:
    """What names a series in every table."""
    about: Row = {key: stack[0][key] for key in ("file_id", "path", "signal")}
    return {"series_id": f"{about['file_id']}:{about['signal']}"} | about


def not_followed(stack: list[Row], reason: str, left: str = "") -> Row:
    """The row of a stack that was not followed, and why."""
    row = about_stack(stack) | {"frames": len(stack), "state": "not_followed", "reason": reason}
    return row | {"frames_used": 0, "frames_left_out": left}


def follow_stack(stack: list[Row], columns: pl.DataFrame) -> Tables:
    """Rows of ``series``, ``tracks`` and ``events`` of a stack of frames, of which `columns` were tested."""
    frames, left = frames_of(stack, columns)
    series = follow(frames)
    if series is None:
        why = f"fewer than {LEAST_FRAMES} frames with the same lattice"
        return {"series": [not_followed(stack, why, as_words(left))], "tracks": [], "events": []}
    left |= dict.fromkeys(series.other_cell, "another cell")
    about = about_stack(stack)
    row = about | {"frames": len(stack), "grain": GRAIN, "frames_left_out": as_words(left)} | series_figures(series)
    return {
        "series": [row],
        "tracks": [about | track for track in track_rows(series)],
        "events": [about | event for event in event_rows(series)],
    }


def series_figures(series: Followed) -> Row:
    """What the row of a series says of all of it."""
    drift = np.array([one.drift_px for one in series.laid])
    number = Counter(event.event for event in series.events)
    left_bulk = sum(event.before == "bulk" and event.event != "returns" for event in series.events)
    watched, assumed = exposure(series.states, series.seen), sum(not one.told for one in series.laid)
    row: Row = {"state": "followed", "frames_used": len(series.frames), "frames_assumed": assumed, "reason": ""}
    if assumed:
        row["reason"] = f"no landmark tells drift by whole cells in {assumed} of the frames: the smallest was taken"
    row |= {"drift_row_px": float(drift[-1, 0]), "drift_col_px": float(drift[-1, 1])}
    row |= {"drift_largest_px": float(np.hypot(*drift.T).max()), "sites": len(series.site)}
    row |= {"tracks": len(series.tracks)} | {name: number[name] for name in ("changes", "returns", "hops")}
    row["column_frames"] = watched
    if watched > 0:
        row["change_rate"] = left_bulk / watched
        for level in (68, 95):
            low, high = poisson_interval(left_bulk, level / 100)
            row |= {f"change_rate_low_{level}": low / watched, f"change_rate_high_{level}": high / watched}
    return row


def _in_order(series: Followed) -> list[int]:
    """Indices of the tracks in order of appearance; a track's number is its place in it, from 1."""
    keys = [(track.first, *series.sites_px[track.site].round(1), track.last) for track in series.tracks]
    return sorted(range(len(keys)), key=lambda k: keys[k])


def track_rows(series: Followed) -> list[Row]:
    """The tracks of a series."""
    rows = []
    for number, k in enumerate(_in_order(series), 1):
        track = series.tracks[k]
        place, cell = series.place_px(track.site, track.first), series.cells[track.site]
        rows.append(
            {
                "track": number,
                "grain": GRAIN,
                "site": series.site[track.site],
                "column": int(series.column[track.site]),
                "cell_u": int(cell[0]),
                "cell_v": int(cell[1]),
                "kind": track.kind,
                "first_frame": series.frames[track.first].frame,
                "last_frame": series.frames[track.last].frame,
                "probability": track.probability,
                "intensity_change": track.change,
                "row_px": float(place[0]),
                "col_px": float(place[1]),
            }
        )
    return rows


def event_rows(series: Followed) -> list[Row]:
    """The events of a series."""
    numbers = {k: number for number, k in enumerate(_in_order(series), 1)}

    def number_of(site: int, event: Event, *, ends: bool) -> int | None:
        near = nearest_track(series.tracks, site, event.at, ends=ends)
        return numbers[int(near[0])] if len(near) else None

    rows = []
    for event in series.events:
        place = series.place_px(event.site, event.at)
        at, low, high = (series.frames[t].frame for t in (event.at, event.low, event.high))
        rows.append(
            {
                "track": number_of(event.site, event, ends=event.after == "bulk"),
                "event": event.event,
                "frame": at,
                "frame_ci_low": low,
                "frame_ci_high": high,
                "probability": event.probability,
                "kind_before": event.before,
                "kind_after": event.after,
                "from_track": number_of(event.from_site, event, ends=True) if event.event == "hops" else None,
                "row_px": float(place[0]),
                "col_px": float(place[1]),
            }
        )
    return rows
