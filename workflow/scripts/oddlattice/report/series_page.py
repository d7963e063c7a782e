"""The page of a stack followed through its frames: a player, their mean, curves, events, and files beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import zarr

from oddlattice.defects.kinds import KINDS
from oddlattice.numerics.intervals import poisson_interval
from oddlattice.process.supervised import Watch
from oddlattice.report import numbers as n
from oddlattice.report.charts import Axis, Point, Series, chart
from oddlattice.report.image_facts import series_name, series_title
from oddlattice.report.pages import render, write_failed
from oddlattice.report.plots import ticks
from oddlattice.report.series_pictures import Shown, write_frames, write_mean, write_moving
from oddlattice.report.statistics import BLUE, ORANGE, RATES, SECTIONS
from oddlattice.run.settings import versions
from oddlattice.series.tables import ODD, tracks_by_frame
from oddlattice.storage.groups import array_of, group_of
from oddlattice.storage.json_text import json_lines
from oddlattice.storage.products import write_csv
from oddlattice.storage.rows import Row

Tables = dict[str, pl.DataFrame]
KIND_COLOURS = {  # of curves, on light and dark pages
    "vacancy-like": BLUE,
    "lighter": "#2a9d6f",
    "heavier": ORANGE,
    "displaced": "#9467c8",
    "extra": "#c2549d",
}
#: Columns of frames that curves may be drawn against, and what stands below the axis.
AGAINST = {"frame": "frame", "time_s": "s since the first frame", "dose_before_e_per_nm2": "electrons per nm²"}


def write_series_pages(tables: Mapping[str, str], images: zarr.Group, folder: Path, watch: Watch) -> None:
    """Write the pages of the stacks of a shard, by its tables (products.OF_SERIES); a failure costs its stack alone."""
    found = {name: pl.read_parquet(path) for name, path in tables.items()}
    for row in found["series"].iter_rows(named=True):
        own = {name: frame.filter(pl.col("series_id") == row["series_id"]) for name, frame in found.items()}
        _, fault = watch.result_or_fault(row["series_id"], write_series_page, row, own, images, folder)
        if fault is not None:
            print(fault.trace)
            write_failed(series_name(row["first_image_id"]), series_title(row), fault.words, folder)


def write_series_page(row: Row, tables: Tables, images: zarr.Group, folder: Path) -> None:
    """Write the page, the pictures and the files of one series into `folder`.

    Parameters
    ----------
    row : dict
        Of products.SERIES.
    tables : dict of str to polars.DataFrame
        This series' rows of the tables in products.OF_SERIES.
    images : zarr.Group
        The shard's images.
    folder : Path
        `5_report/SHARD`.
    """
    frames = tables["series_frames"].sort("frame").to_dicts()
    name = series_name(row["first_image_id"])
    (folder / name).mkdir()
    arrays = [array_of(group_of(images, frame["image_id"]), "0") for frame in frames]
    shown = write_frames(arrays, [frame["frame"] for frame in frames], folder / name)
    used = [(array, frame) for array, frame in zip(arrays, frames, strict=True) if frame["used"]]
    tracks = tables["tracks"].sort("track").to_dicts()
    if used:
        drift = np.array([[frame["drift_row_px"], frame["drift_col_px"]] for _, frame in used])
        write_mean([array for array, _ in used], drift, shown, folder / name)
        write_moving(frames, tracks_by_frame(frames, tracks), shown, folder / name)
    data = player(frames, tracks, tables["events"].to_dicts(), shown)
    numbers = {key: table.to_dicts() for key, table in tables.items()}
    (folder / f"{name}.json").write_text(json_lines(numbers), encoding="ascii")
    (folder / f"{name}.geojson").write_text(json_lines(tracks_geojson(tracks)), encoding="ascii")
    for key in ("tracks", "events"):
        write_csv(tables[key], folder / f"{name}.{key}.csv")
    page = render(
        "series.html.j2",
        ("dom.js", "series.js"),
        data,
        title=series_title(row),
        followed=row["state"] == "followed",
        frames=n.count(row["frames"]),
        events=[event_line(event) for event in tables["events"].sort("frame", "row_px").to_dicts()],
        colours=KIND_COLOURS,
        row=row,
        name=name,
        kinds={kind: KINDS[kind] for kind in KIND_COLOURS},
        figures=key_figures(row, tables["series_depths"].to_dicts()) if used else [],
        depths=depth_lines(tables["series_depths"].to_dicts()),
        plots=curves(frames) if used else [],
        moving=(folder / name / "moving.gif").exists(),
        versions=versions(),
    )
    (folder / f"{name}.html").write_bytes(page)


def player(frames: Sequence[Row], tracks: Sequence[Row], events: Sequence[Row], shown: Shown) -> Row:
    """What the player draws: pictures, drift, tracks and events."""
    number = {frame["frame"]: k for k, frame in enumerate(frames)}
    return {
        "shape": shown.shape,
        "frames": [
            {
                "number": frame["frame"],
                "picture": picture,
                "page": f"{frame['image_id']}.html",
                "used": frame["used"],
                "why": "" if frame["used"] else frame["reason"] or "left out",
                "drift": [frame["drift_row_px"], frame["drift_col_px"]] if frame["used"] else None,
                "time": n.significant(frame["time_s"], 4) if n.usable(frame["time_s"]) else "",
            }
            for frame, picture in zip(frames, shown.names, strict=True)
        ],
        "tracks": [
            {
                "track": track["track"],
                "kind": track["kind"],
                "site": track["site"],
                "first": number[track["first_frame"]],
                "last": number[track["last_frame"]],
                "row": track["row_px"],
                "col": track["col_px"],
                "probability": n.significant(track["probability"], 3),
            }
            for track in tracks
        ],
        "events": [{"at": number[event["frame"]], "row": event["row_px"], "col": event["col_px"]} for event in events],
        "kinds": {kind: {"path": KINDS[kind].path, "colour": KINDS[kind].colour} for kind in KIND_COLOURS},
    }


def tracks_geojson(tracks: Sequence[Row]) -> Row:
    """Tracks as GeoJSON points: pixels (x, y) from the upper left corner of the frame in which each begins."""
    left_out = {"row_px", "col_px"}
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": f"{track['series_id']}/{track['track']}",
                "geometry": {"type": "Point", "coordinates": [track["col_px"] + 0.5, track["row_px"] + 0.5]},
                "properties": {key: value for key, value in track.items() if key not in left_out},
            }
            for track in tracks
        ],
    }


def key_figures(row: Row, depths: Sequence[Row]) -> list[Row]:
    """The figures at the head of the page."""
    left = n.count(row["frames"] - row["frames_used"])
    found = [("Frames followed", n.count(row["frames_used"]), "", f"of {n.count(row['frames'])}; {left} left out")]
    where = f"in {n.count(row['grains'])} grains; " if row["grains"] > 1 else ""
    drift = f"{where}drift of up to {n.significant(row['drift_largest_px'], 2)} px"
    found += [("Columns", n.count(row["sites"]), "", drift)]
    happened = f"{n.count(row['changes'])} changes, {n.count(row['returns'])} returns, {n.count(row['hops'])} hops"
    found += [("Odd columns", n.count(row["tracks"]), "", happened)]
    if n.usable(row["change_rate"]):
        rate = n.interval(*(1e3 * row[key] for key in RATES))
        found += [("Out of bulk", rate[0], "‰ a frame", f"95 % interval {rate[1]}")]
    if n.usable(row["cross_section_barn"]):
        section = n.interval(*(row[key] for key in SECTIONS))
        found += [
            ("Cross-section", section[0], "barn", f"of damage, a column and electron; 95 % interval {section[1]}")
        ]
    deepest = [one for one in depths if n.usable(one["loss_90"])]
    if deepest:
        best = min(deepest, key=lambda one: float(one["loss_90"]))
        alone = n.percent(row["loss_90_in_frame"]) if n.usable(row["loss_90_in_frame"]) else "unknown"
        found += [
            ("Smallest loss", n.percent(best["loss_90"]), "", f"{best['site']}, odd in all frames; in one: {alone}")
        ]
    return [dict(zip(("label", "value", "unit", "note"), line, strict=True)) for line in found]


def event_line(event: Row) -> Row:
    """A line of the table of events."""
    low, high = event["frame_ci_low"], event["frame_ci_high"]
    words = f"{event['kind_before']} → {event['kind_after']}"
    if event["event"] == "hops" and event["from_track"] is not None:
        words += f", from track {event['from_track']}"
    return {
        "event": event["event"],
        "words": words,
        "number": event["frame"],
        "frame": n.count(event["frame"]) + (f" ({low}–{high})" if low < high else ""),
        "probability": n.significant(event["probability"], 3),
        "track": n.NONE if event["track"] is None else n.count(event["track"]),
        "place": f"{event['row_px']:.0f}, {event['col_px']:.0f}",
    }


def depth_lines(depths: Sequence[Row]) -> list[Row]:
    """Lines of the table of depths."""
    told = ("loss_90", "noise", "scatter")
    several = len({one["grain"] for one in depths}) > 1
    return [
        {"site": f"{one['site']}, grain {one['grain']}" if several else one["site"], "columns": n.count(one["columns"])}
        | {key: n.percent(one[key]) if n.usable(one[key]) else "not even a column" for key in told}
        for one in depths
    ]


def curves(frames: Sequence[Row]) -> list[Row]:
    """Curves of the number of odd columns of each kind, and of the bulk that is left, against frame, time and dose."""
    used = [frame for frame in frames if frame["used"]]
    found = []
    for key, words in AGAINST.items():
        if all(n.usable(frame[key]) for frame in used) and len(used) > 1:
            x = _axis(used[0][key], used[-1][key])
            found.append({"plot": _odd(used, key, x), "x": words, "y": "odd columns"})
            if all(n.usable(frame["bulk_left"]) for frame in used):
                found.append({"plot": _bulk_left(used, key, x), "x": words, "y": "part still bulk"})
    return found


def _axis(first: float, last: float) -> Axis:
    last = last if last > first else first + 1
    return Axis(first, last, at=tuple(t for t in ticks(first, last) if first <= t <= last))


def _odd(used: Sequence[Row], key: str, x: Axis) -> Row:
    series, top = [], 1.0
    for kind, colour in KIND_COLOURS.items():
        number = [int(frame[f"odd_{ODD[kind]}"] or 0) for frame in used]
        if any(number):
            between = [poisson_interval(k) for k in number]
            top = max(top, *(high for _, high in between))
            points = [Point(frame[key], k, *ends) for frame, k, ends in zip(used, number, between, strict=True)]
            series.append(Series(kind, colour, points, marked=False))
    return chart(series, x, Axis(0.0, 1.05 * top))


def _bulk_left(used: Sequence[Row], key: str, x: Axis) -> Row:
    ends = ("bulk_left", "bulk_left_low_95", "bulk_left_high_95")
    values = [[math.nan if frame[end] is None else float(frame[end]) for end in ends] for frame in used]
    points = [Point(frame[key], *value) for frame, value in zip(used, values, strict=True)]
    low = min((v for value in values for v in value if math.isfinite(v)), default=0.0)
    below = max(0.0, 1 - 1.25 * max(1 - low, 0.02))
    return chart([Series("bulk left", KIND_COLOURS["vacancy-like"], points, marked=False)], x, Axis(below, 1.0))
