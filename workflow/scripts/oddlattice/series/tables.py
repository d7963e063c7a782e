"""The stacks of a shard, followed, as rows of the tables of products.OF_SERIES."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import zarr

from oddlattice.lattice.pixel_size import header_nm, pixel_nm
from oddlattice.numerics.arrays import Array
from oddlattice.numerics.intervals import jeffreys_interval
from oddlattice.series.depth import depths
from oddlattice.series.dose import Dose, dose_of
from oddlattice.series.drift import Frame
from oddlattice.series.events import Event, Track, nearest_distance, nearest_track, rate_of_changes
from oddlattice.series.extras import EXTRA
from oddlattice.series.follow import LEAST_FRAMES, Followed, follow
from oddlattice.series.moves import DISPLACED
from oddlattice.series.states import KINDS
from oddlattice.series.survival import survival
from oddlattice.storage.groups import attributes_of, group_of
from oddlattice.storage.rows import Row

GRAIN = 1  # the largest
LEAST_COLUMNS = 36
BARN_PER_NM2 = 1e10
AXES = "row", "col"
ODD = {kind: kind.replace("-", "_") for kind in (*KINDS, *DISPLACED, *EXTRA)}  # kinds as names of columns
Tables = dict[str, list[Row]]


def stacks_of(images: pl.DataFrame) -> Iterator[list[Row]]:
    """Rows of products.IMAGES of every stack that was analysed frame by frame, in the order of frames."""
    rows = images.filter(pl.col("frame") >= 0).sort("file_id", "signal", "frame").to_dicts()
    for _, group in itertools.groupby(rows, lambda row: (row["file_id"], row["signal"])):
        frames = list(group)
        if len({row["frame"] for row in frames}) > 1:
            yield frames


def dose_of_stack(stack: list[Row], raw: zarr.Group) -> Dose:
    """What a frame of a stack cost, by what the file says; `raw` is the store of images."""
    about = attributes_of(group_of(raw, stack[0]["image_id"]))
    shape = (int(stack[0]["rows"]), int(stack[0]["cols"]))
    pixel = pixel_nm(stack[0]["pixel_nm"], header_nm(about))
    return dose_of(about.get("original_metadata", {}), shape, pixel)


def frame_of(number: int, columns: pl.DataFrame, extra: pl.DataFrame) -> Frame:
    """The tested columns of one image (products.COLUMNS) and its `extra` ones (products.DEFECTS) as a frame."""
    sites = dict(zip(columns["column"].to_list(), columns["site"].to_list(), strict=True))
    return Frame(
        number,
        columns.select("cell_u", "cell_v").to_numpy(),
        columns["column"].to_numpy(),
        sites,
        columns.select("row_px", "col_px").to_numpy(),
        columns["intensity_change"].to_numpy(),
        columns["intensity_noise"].to_numpy(),
        columns["intensity_plain"].to_numpy(),
        columns.select("shift_row_pm", "shift_col_pm").to_numpy(),
        columns["shift_sigma_pm"].to_numpy(),
        extra.select("row_px", "col_px").to_numpy(),
        extra["probability_real"].fill_null(0.5).to_numpy(),
    )


def frames_of(stack: list[Row], columns: pl.DataFrame, defects: pl.DataFrame) -> tuple[list[Frame], dict[int, str]]:
    """Frames of a stack that can be followed, and why others are left out, by their numbers."""
    models = Counter(row["model"] for row in stack if row["state"] == "analysed")
    model = max(models, key=lambda name: models[name]) if models else None
    can = (pl.col("grain") == GRAIN) & pl.col("z").is_not_null() & pl.col("intensity_change").is_finite()
    names = [row["image_id"] for row in stack]
    columns = columns.filter(can & (pl.col("intensity_noise") > 0) & pl.col("image_id").is_in(names))
    by_image = columns.partition_by("image_id", as_dict=True)
    extra = defects.filter((pl.col("grain") == GRAIN) & (pl.col("kind") == EXTRA[0]))
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
            kept.append(frame_of(row["frame"], own, extra.filter(pl.col("image_id") == row["image_id"])))
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


def named(stack: list[Row]) -> Row:
    """What the row of a series begins with, followed or not."""
    return about_stack(stack) | {"first_image_id": stack[0]["image_id"], "frames": len(stack)}


def stack_alone(stack: list[Row], reason: str, left: dict[int, str] | None = None) -> Tables:
    """Rows of a stack that was not followed, and why; `left` says why single frames could not be."""
    words, about = left or {}, about_stack(stack)
    row = named(stack) | {"state": "not_followed", "reason": reason, "frames_used": 0}
    frames = [about | {"image_id": one["image_id"], "frame": one["frame"], "used": False} for one in stack]
    return {
        "series": [row | {"frames_left_out": as_words(words)}],
        "series_frames": [frame | {"reason": words.get(frame["frame"], "")} for frame in frames],
    }


def follow_stack(stack: list[Row], columns: pl.DataFrame, defects: pl.DataFrame, dose: Dose, seed: int) -> Tables:
    """Rows of all tables of a stack of frames, of which `columns` were tested and `defects` listed.

    A frame cost `dose`; `seed` is of the draw of columns that trial losses are put into.
    """
    frames, left = frames_of(stack, columns, defects)
    fdr = max((row["fdr"] for row in stack if row["fdr"] is not None), default=0.0)  # the same in all frames
    series = follow(frames, fdr)
    if series is None:
        why = f"fewer than {LEAST_FRAMES} frames with the same lattice"
        return stack_alone(stack, why, left)
    left |= dict.fromkeys(series.other_cell, "another cell")
    about = about_stack(stack)
    row = named(stack) | {"grain": GRAIN, "frames_left_out": as_words(left)}
    return {
        "series": [row | loss_in_frames(stack) | series_figures(series) | rate_figures(series, dose)],
        "series_frames": [about | frame for frame in frame_rows(stack, series, left, dose)],
        "series_depths": [about | {"grain": GRAIN} | vars(one) for one in depths(series, fdr, seed)],
        "tracks": [about | track for track in track_rows(series)],
        "events": [about | event for event in event_rows(series)],
    }


def loss_in_frames(stack: list[Row]) -> Row:
    """Smallest loss that single frames show, their median; empty where none is known."""
    known = [row["smallest_loss_90"] for row in stack if row.get("smallest_loss_90") is not None]
    return {"loss_90_in_frame": float(np.median(known))} if known else {}


def series_figures(series: Followed) -> Row:
    """What the row of a series says of all of it, but for rates."""
    drift = np.array([one.drift_px for one in series.laid])
    number = Counter(event.event for event in series.events)
    assumed = sum(not one.told for one in series.laid)
    row: Row = {"state": "followed", "frames_used": len(series.frames), "frames_assumed": assumed, "reason": ""}
    if assumed:
        row["reason"] = f"no landmark tells drift by whole cells in {assumed} of the frames: the smallest was taken"
    row |= {"drift_row_px": float(drift[-1, 0]), "drift_col_px": float(drift[-1, 1])}
    row |= {"drift_largest_px": float(np.hypot(*drift.T).max()), "sites": len(series.site)}
    row["column_distance_px"] = nearest_distance(series.sites_px)
    return row | {"tracks": len(series.tracks)} | {name: number[name] for name in ("changes", "returns", "hops")}


def rate_figures(series: Followed, dose: Dose) -> Row:
    """How often columns leave bulk: per interval between frames, and per electron and area where the dose is known.

    Intervals between frames that were left out count as one: the rate is then of the frames used. Changes near the
    first and last frames that show a column are counted neither above nor below (`events.counted`).
    """
    left_bulk, watched = rate_of_changes(series.events, series.states, series.seen)
    row: Row = {"column_frames": watched, "frame_s": dose.frame_s, "dose_e_per_nm2": dose.e_per_nm2}
    row["dose_from"] = dose.source
    if watched <= 0:
        return row
    number = {"": (left_bulk,)} | {f"_{level}": jeffreys_interval(left_bulk, level / 100) for level in (68, 95)}
    for level, values in number.items():
        for end, value in zip(("low", "high") if level else ("",), values, strict=True):
            name = f"_{end}{level}" if level else ""
            row[f"change_rate{name}"] = value / watched
            if dose.e_per_nm2 is not None:
                row[f"cross_section{name}_barn"] = BARN_PER_NM2 * value / watched / dose.e_per_nm2
    return row


def frame_rows(stack: list[Row], series: Followed, left: dict[int, str], dose: Dose) -> list[Row]:
    """Every frame of a stack: whether and where it was laid, and what it shows."""
    used = {frame.frame: t for t, frame in enumerate(series.frames)}
    stays = survival(series)
    rows = []
    for about in stack:
        number = about["frame"]
        row: Row = {"image_id": about["image_id"], "frame": number, "used": number in used}
        row |= {"reason": left.get(number, ""), "drift_assumed": False}
        if dose.frame_s is not None:
            row["time_s"] = number * dose.frame_s
        if dose.e_per_nm2 is not None:
            row["dose_before_e_per_nm2"] = number * dose.e_per_nm2
        if number in used:
            t = used[number]
            laid, alive = series.laid[t], [one.kind for one in series.tracks if one.first <= t <= one.last]
            row |= {"drift_row_px": float(laid.drift_px[0]), "drift_col_px": float(laid.drift_px[1])}
            row |= {"drift_assumed": not laid.told} | {f"odd_{name}": alive.count(kind) for kind, name in ODD.items()}
            row["columns"] = int(series.seen[:, t].sum())
            if stays is not None:
                of = {"bulk_left": stays.part, "bulk_left_low_95": stays.low, "bulk_left_high_95": stays.high}
                row |= {name: float(values[t]) for name, values in of.items() if np.isfinite(values[t])}
        rows.append(row)
    return rows


def _in_order(series: Followed) -> list[int]:
    """Indices of the tracks in order of appearance; a track's number is its place in it, from 1."""
    keys = [(track.first, *series.home_px(track.site).round(1), track.last) for track in series.tracks]
    return sorted(range(len(keys)), key=lambda k: keys[k])


def _mean_shift_pm(series: Followed, track: Track) -> Array | None:
    """Mean displacement (2,) while a track lasts; None where no frame tells it."""
    own = series.shift_pm[track.site, track.first : track.last + 1]
    return np.nanmean(own, axis=0) if np.isfinite(own).any() else None


def track_rows(series: Followed) -> list[Row]:
    """The tracks of a series."""
    rows = []
    for number, k in enumerate(_in_order(series), 1):
        track = series.tracks[k]
        place, near = series.place_px(track.site, track.first), series.nearest_site(track.site)
        cell, extra = series.cells[near], series.is_extra(track.site)
        moved, frames = None if extra else _mean_shift_pm(series, track), slice(track.first, track.last + 1)
        rows.append(
            {
                "track": number,
                "grain": GRAIN,
                "site": "" if extra else series.site[near],
                "column": None if extra else int(series.column[near]),
                "cell_u": int(cell[0]),
                "cell_v": int(cell[1]),
                "kind": track.kind,
                "first_frame": series.frames[track.first].frame,
                "last_frame": series.frames[track.last].frame,
                "probability": track.probability,
                "intensity_change": None if extra else float(np.nanmean(series.states.change[near, frames])),
                "shift_row_pm": None if moved is None else float(moved[0]),
                "shift_col_pm": None if moved is None else float(moved[1]),
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


def tracks_by_frame(frames: Sequence[Row], tracks: Sequence[Row]) -> list[list[Row]]:
    """Tracks that each frame belongs to, with their places [px] in it: those in their first frame, plus drift.

    `frames` and `tracks` are rows of products.SERIES_FRAMES and TRACKS of one stack.
    """
    by_number = {frame["frame"]: frame for frame in frames}
    found = []
    for frame in frames:
        alive = [one for one in tracks if frame["used"] and one["first_frame"] <= frame["frame"] <= one["last_frame"]]
        found.append([one | _moved(one, by_number[one["first_frame"]], frame) for one in alive])
    return found


def _moved(track: Row, first: Row, frame: Row) -> Row:
    return {f"{axis}_px": track[f"{axis}_px"] + frame[f"drift_{axis}_px"] - first[f"drift_{axis}_px"] for axis in AXES}
