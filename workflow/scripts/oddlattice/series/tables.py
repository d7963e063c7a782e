"""The stacks of a shard, followed, as rows of the tables of products.OF_SERIES."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

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
from oddlattice.series.grains import same_grains
from oddlattice.series.moves import DISPLACED
from oddlattice.series.states import KINDS
from oddlattice.series.survival import survival
from oddlattice.storage.groups import attributes_of, group_of
from oddlattice.storage.rows import Row

LEAST_COLUMNS = 36
BARN_PER_NM2 = 1e10
AXES = "row", "col"
ODD = {kind: kind.replace("-", "_") for kind in (*KINDS, *DISPLACED, *EXTRA)}  # kinds as names of columns
Tables = dict[str, list[Row]]


class Place(NamedTuple):
    """Where the specimen lies in a frame: drift (2,) [px] since the first, and whether columns tell its whole cells."""

    drift_px: Array
    told: bool


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


def frames_of(
    stack: list[Row], columns: pl.DataFrame, defects: pl.DataFrame
) -> tuple[list[dict[int, Frame]], dict[int, str]]:
    """Grains of the frames of a stack that can be followed, and why other frames are left out, by their numbers."""
    models = Counter(row["model"] for row in stack if row["state"] == "analysed")
    model = max(models, key=lambda name: models[name]) if models else None
    can = pl.col("z").is_not_null() & pl.col("intensity_change").is_finite()
    names = [row["image_id"] for row in stack]
    columns = columns.filter(can & (pl.col("intensity_noise") > 0) & pl.col("image_id").is_in(names))
    columns = columns.filter(pl.len().over("image_id", "grain") >= LEAST_COLUMNS)
    by_image = columns.partition_by("image_id", as_dict=True)
    extra = defects.filter(pl.col("kind") == EXTRA[0])
    kept, left = list[dict[int, Frame]](), dict[int, str]()
    for row in stack:
        own = by_image.get((row["image_id"],))
        if row["state"] != "analysed":
            left[row["frame"]] = row["state"].replace("_", " ")
        elif row["model"] != model:
            left[row["frame"]] = "another model"
        elif own is None:
            left[row["frame"]] = f"fewer than {LEAST_COLUMNS} columns tested"
        else:
            kept.append(grains_of(row["frame"], own, extra.filter(pl.col("image_id") == row["image_id"])))
    return kept, left


def grains_of(number: int, columns: pl.DataFrame, extra: pl.DataFrame) -> dict[int, Frame]:
    """The grains of a frame, by their numbers."""
    found = columns.partition_by("grain", as_dict=True)
    of_grain = {int(str(grain)): own for (grain,), own in found.items()}
    return {k: frame_of(number, own, extra.filter(pl.col("grain") == k)) for k, own in sorted(of_grain.items())}


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
    followed = (follow(own, fdr) for own in same_grains(frames))
    grains = [series for series in followed if series is not None]
    if not grains:
        why = f"fewer than {LEAST_FRAMES} frames with the same lattice"
        return stack_alone(stack, why, left)
    used = {number for series in grains for number in series.index_of}
    left |= {number: "another cell" for own in frames for frame in own.values() if (number := frame.frame) not in used}
    about = about_stack(stack)
    row = named(stack) | {"grains": len(grains), "frames_left_out": as_words(left)}
    of_depth = [(k, one) for k, series in enumerate(grains, 1) for one in depths(series, fdr, seed)]
    return {
        "series": [row | loss_in_frames(stack) | series_figures(grains) | rate_figures(grains, dose)],
        "series_frames": [about | frame for frame in frame_rows(stack, grains, left, dose)],
        "series_depths": [about | {"grain": grain} | vars(one) for grain, one in of_depth],
        "tracks": [about | track for track in track_rows(grains)],
        "events": [about | event for event in event_rows(grains)],
    }


def loss_in_frames(stack: list[Row]) -> Row:
    """Smallest loss that single frames show, their median; empty where none is known."""
    known = [row["smallest_loss_90"] for row in stack if row.get("smallest_loss_90") is not None]
    return {"loss_90_in_frame": float(np.median(known))} if known else {}


def laid_in(grains: Sequence[Followed]) -> dict[int, Place]:
    """Where the specimen lies in every frame that is used, by the first of the grains that the frame shows."""
    found = dict[int, Place]()
    for series in grains:
        known = next((number for number in series.index_of if number in found), None)
        since = np.zeros(2)
        if known is not None:
            since = found[known].drift_px - series.laid[series.index_of[known]].drift_px
        for number, laid in zip(series.index_of, series.laid, strict=True):
            found.setdefault(number, Place(laid.drift_px + since, laid.told))
    return dict(sorted(found.items()))


def series_figures(grains: Sequence[Followed]) -> Row:
    """What the row of a series says of all of it, but for rates."""
    laid = laid_in(grains)
    drift = np.array([one.drift_px for one in laid.values()])
    number = Counter(event.event for series in grains for event in series.events)
    assumed = sum(not one.told for one in laid.values())
    row: Row = {"state": "followed", "frames_used": len(laid), "frames_assumed": assumed, "reason": ""}
    if assumed:
        row["reason"] = f"no landmark tells drift by whole cells in {assumed} of the frames: the smallest was taken"
    row |= {"drift_row_px": float(drift[-1, 0]), "drift_col_px": float(drift[-1, 1])}
    row |= {"drift_largest_px": float(np.hypot(*drift.T).max()), "sites": sum(len(series.site) for series in grains)}
    row["column_distance_px"] = min(nearest_distance(series.sites_px) for series in grains)
    row["tracks"] = sum(len(series.tracks) for series in grains)
    return row | {name: number[name] for name in ("changes", "returns", "hops")}


def rate_figures(grains: Sequence[Followed], dose: Dose) -> Row:
    """How often columns leave bulk: per interval between frames, and per electron and area where the dose is known.

    Intervals between frames that were left out count as one: the rate is then of the frames used. Changes near the
    first and last frames that show a column are counted neither above nor below (`events.counted`).
    """
    each = [rate_of_changes(series.events, series.states, series.seen) for series in grains]
    left_bulk, watched = sum(number for number, _ in each), sum(frames for _, frames in each)
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


def frame_rows(stack: list[Row], grains: Sequence[Followed], left: dict[int, str], dose: Dose) -> list[Row]:
    """Every frame of a stack: whether and where it was laid, and what it shows."""
    laid = laid_in(grains)
    stays, index = survival(grains, np.array(list(laid))), {number: t for t, number in enumerate(laid)}
    rows = []
    for about in stack:
        number = about["frame"]
        row: Row = {"image_id": about["image_id"], "frame": number, "used": number in laid}
        row |= {"reason": left.get(number, ""), "drift_assumed": False}
        if dose.frame_s is not None:
            row["time_s"] = number * dose.frame_s
        if dose.e_per_nm2 is not None:
            row["dose_before_e_per_nm2"] = number * dose.e_per_nm2
        if number in laid:
            place = laid[number]
            row |= {"drift_row_px": float(place.drift_px[0]), "drift_col_px": float(place.drift_px[1])}
            row |= {"drift_assumed": not place.told} | shown_in(grains, number)
            if stays is not None:
                of = {"bulk_left": stays.part, "bulk_left_low_95": stays.low, "bulk_left_high_95": stays.high}
                at = index[number]
                row |= {name: float(values[at]) for name, values in of.items() if np.isfinite(values[at])}
        rows.append(row)
    return rows


def shown_in(grains: Sequence[Followed], number: int) -> Row:
    """Columns seen in a frame, and how many are odd, by kind."""
    alive, seen = list[str](), 0
    for series in grains:
        t = series.index_of.get(number)
        if t is not None:
            alive += [one.kind for one in series.tracks if one.first <= t <= one.last]
            seen += int(series.seen[:, t].sum())
    return {f"odd_{name}": alive.count(kind) for kind, name in ODD.items()} | {"columns": seen}


def _numbered(grains: Sequence[Followed]) -> dict[tuple[int, int], int]:
    """Numbers of tracks, by grain and index: in order of appearance, from 1."""
    keys = {
        (g, k): (series.frames[track.first].frame, *series.home_px(track.site).round(1), track.last)
        for g, series in enumerate(grains)
        for k, track in enumerate(series.tracks)
    }
    return {key: number for number, key in enumerate(sorted(keys, key=lambda key: (keys[key], key)), 1)}


def _mean_shift_pm(series: Followed, track: Track) -> Array | None:
    """Mean displacement (2,) while a track lasts; None where no frame tells it."""
    own = series.shift_pm[track.site, track.first : track.last + 1]
    return np.nanmean(own, axis=0) if np.isfinite(own).any() else None


def track_rows(grains: Sequence[Followed]) -> list[Row]:
    """The tracks of a series."""
    numbers = _numbered(grains)
    return [{"track": number, "grain": g + 1} | track_row(grains[g], k) for (g, k), number in numbers.items()]


def track_row(series: Followed, index: int) -> Row:
    """One track of a grain, but for the numbers of both."""
    track = series.tracks[index]
    place, near = series.place_px(track.site, track.first), series.nearest_site(track.site)
    cell, extra = series.cells[near], series.is_extra(track.site)
    moved, frames = None if extra else _mean_shift_pm(series, track), slice(track.first, track.last + 1)
    return {
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


def event_rows(grains: Sequence[Followed]) -> list[Row]:
    """The events of a series, in the order of their frames."""
    numbers = _numbered(grains)
    rows = [event_row(series, g, event, numbers) for g, series in enumerate(grains) for event in series.events]
    return sorted(rows, key=lambda row: row["frame"])


def event_row(series: Followed, g: int, event: Event, numbers: Mapping[tuple[int, int], int]) -> Row:
    """One event of a grain of index `g`; `numbers` are those of all tracks."""

    def number_of(site: int, *, ends: bool) -> int | None:
        near = nearest_track(series.tracks, site, event.at, ends=ends)
        return numbers[g, int(near[0])] if len(near) else None

    place = series.place_px(event.site, event.at)
    at, low, high = (series.frames[t].frame for t in (event.at, event.low, event.high))
    return {
        "track": number_of(event.site, ends=event.after == "bulk"),
        "grain": g + 1,
        "event": event.event,
        "frame": at,
        "frame_ci_low": low,
        "frame_ci_high": high,
        "probability": event.probability,
        "kind_before": event.before,
        "kind_after": event.after,
        "from_track": number_of(event.from_site, ends=True) if event.event == "hops" else None,
        "row_px": float(place[0]),
        "col_px": float(place[1]),
    }


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
