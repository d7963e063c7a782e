"""A vacancy of a stack stands once in lists, however many frames show it."""

import polars as pl

from oddlattice.statistics.stack_lists import with_tracks


def test_a_track_stands_once() -> None:
    frames = [{"series_id": "s", "image_id": f"s{k}", "frame": k, "used": True} for k in range(4)]
    drift = [{"drift_row_px": 5.0 * k, "drift_col_px": 0.0} for k in range(4)]
    tracks = [
        {"series_id": "s", "track": 1, "first_frame": 0, "last_frame": 3, "row_px": 100.0, "col_px": 50.0},
        {"series_id": "s", "track": 2, "first_frame": 2, "last_frame": 3, "row_px": 60.0, "col_px": 60.0},
    ]
    shown = [
        ("s0", "vacancy-like", 100.0, 50.0),
        ("s0", "extended", 20.0, 20.0),
        ("s1", "vacancy-like", 106.0, 49.0),
        ("s1", "lighter", 200.0, 200.0),  # no frame confirms it
        ("s1", "extended", 25.0, 20.0),
        ("s2", "vacancy-like", 110.0, 50.0),
        ("s3", "lighter", 65.0, 61.0),
        ("single", "lighter", 65.0, 61.0),
    ]
    defects = pl.DataFrame(shown, schema=["image_id", "kind", "row_px", "col_px"], orient="row")
    images = pl.DataFrame(
        {"image_id": ["s0", "s1", "s2", "s3", "single"], "counted": [True, False, False, False, True]}
    )
    series = pl.DataFrame([{"series_id": "s", "state": "followed", "column_distance_px": 14.0}])
    told = pl.DataFrame([frame | moved for frame, moved in zip(frames, drift, strict=True)])
    found = with_tracks(defects, images, series, told, pl.DataFrame(tracks))
    assert found["track"].to_list() == [1, None, 1, None, None, 1, 2, None]
    assert found["again"].to_list() == [False, False, True, True, True, True, False, False]
    alone = with_tracks(defects, images, series.with_columns(state=pl.lit("not_followed")), told, pl.DataFrame(tracks))
    assert alone["again"].to_list() == [False, False, True, True, True, True, True, False]
