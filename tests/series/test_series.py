"""A stack through the stages: a column emptied at a known frame, while the specimen drifts."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

import measure_images
import oddlattice
from oddlattice.crystal import load_crystal
from oddlattice.report.statistics import series_view
from oddlattice.series.drift import Frame, laid_on_first
from oddlattice.series.events import runs, single_events, tracks_of, with_hops
from oddlattice.series.follow import follow
from oddlattice.series.states import through_time, windows
from oddlattice.simulate.columnwise import Conditions, Defect, simulate_scan
from oddlattice.storage.products import OF_SERIES
from support import report_products as made_up
from support.stages import MODEL, through_the_stages

PIXEL_NM = 0.0195
EMPTIED_AT, FRAMES, SIDE_PX = 3, 6, 220
DRIFT_PX = (1.5, -4.0)  # of a frame; more than a cell of 20 px in all


def stack() -> np.ndarray:
    """Frames of SrTiO3; the Sr column of cell (1, -1) is emptied."""
    crystal, conditions = load_crystal(MODEL / "crystal.yaml"), Conditions(pixel_nm=PIXEL_NM, dose_e_px=600.0)
    frames = []
    for t in range(FRAMES):
        lost = (Defect((1, -1), 0, "vacancy-like", 0.0),) if t >= EMPTIED_AT else ()
        origin = tuple(SIDE_PX / 2 + t * np.array(DRIFT_PX))
        frames.append(simulate_scan(crystal, conditions, (SIDE_PX, SIDE_PX), lost, seed=t, origin_px=origin).counts)
    return np.array(frames)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("stack")
    stages = through_the_stages([(stack(), PIXEL_NM)], folder)
    out = {name: str(folder / f"{name}.parquet") for name in OF_SERIES}
    raw = zarr.open_group(folder / "1.zarr", mode="r")
    measure_images.follow_stacks(stages["images"], stages["columns"], raw, out, 0, measure_images.Watch())
    return {name: pl.read_parquet(path) for name, path in out.items()}


def test_a_column_emptied_in_a_stack_is_one_event_and_one_track(found: dict[str, pl.DataFrame]) -> None:
    (series,) = found["series"].to_dicts()
    assert (series["state"], series["frames_used"], series["frames"]) == ("followed", FRAMES, FRAMES)
    # before it is emptied the simulated columns are all alike: nothing tells drift by whole cells, and that is said
    assert series["frames_assumed"] >= EMPTIED_AT and "no landmark" in series["reason"]
    assert series["drift_row_px"] == pytest.approx((FRAMES - 1) * DRIFT_PX[0], abs=0.5)
    assert series["drift_col_px"] == pytest.approx((FRAMES - 1) * DRIFT_PX[1], abs=0.5)
    (event,) = found["events"].to_dicts()
    assert (event["event"], event["frame"], event["kind_before"]) == ("changes", EMPTIED_AT, "bulk")
    (track,) = found["tracks"].to_dicts()
    assert (track["kind"], track["first_frame"], track["last_frame"]) == ("vacancy-like", EMPTIED_AT, FRAMES - 1)
    assert event["track"] == track["track"] == 1


def test_the_page_says_what_happened(found: dict[str, pl.DataFrame]) -> None:
    told = {name: frame.to_dicts() for name, frame in found.items()}
    view = series_view(told["series"][0], told)
    assert [(row["event"], row["frame"], row["words"]) for row in view["events"]] == [
        ("changes", "3", "bulk → vacancy-like")
    ]
    (alive,) = view["plot"]["series"]
    assert alive["name"] == "vacancy-like" and len(alive["line"].split()) == FRAMES


def sites(cells: int) -> np.ndarray:
    """Cell and column of a square crystal of two columns."""
    return np.stack(np.meshgrid(np.arange(cells), np.arange(cells), [0, 1], indexing="ij"), -1).reshape(-1, 3)


def frame_at(number: int, start: tuple[float, float], change: np.ndarray, *, turned: bool = False) -> Frame:
    """A frame of 12 x 12 cells of a specimen (24, 24, 2), the field beginning at `start` [cells of 20 px]."""
    rng, every = np.random.default_rng(number), sites(change.shape[0])
    where = every[:, :2] + every[:, 2:] / 2 - start
    kept = ((where >= 0) & (where < 12)).all(axis=1)
    k, where = every[kept], where[kept]
    cells = np.column_stack([k[:, 1], -k[:, 0] - k[:, 2]]) if turned else k[:, :2] - rng.integers(0, 9, 2)
    noise = rng.normal(0, 0.05, len(k))
    return Frame(
        number, cells, k[:, 2], {0: "A", 1: "B"}, 20 * where, change[tuple(k.T)] + noise, np.full(len(k), 0.05)
    )


def test_drift_by_whole_cells_is_told_by_one_landmark_or_said_not_to_be() -> None:
    specimen = np.zeros((24, 24, 2))
    starts = [(6.0, 6.0), (6.3, 5.8), (6.7, 5.5), (7.1, 5.1)]
    for landmark in (True, False):
        specimen[11, 10, 1] = -1.0 * landmark
        frames = [frame_at(t, start, specimen, turned=t == 2) for t, start in enumerate(starts)]
        laid = laid_on_first(frames)
        assert [one.told for one in laid[1:]] == [landmark] * 3
        for one, start in zip(laid, starts, strict=True):
            assert one.drift_px == pytest.approx(20 * (np.array(starts[0]) - start), abs=0.5)
        keys = [set(map(tuple, np.column_stack([one.cells, one.column]).tolist())) for one in laid]
        assert len(keys[0] & keys[2]) > 200  # the turned frame lies on the same sites


def test_a_hop_of_a_lonely_vacancy_is_no_drift() -> None:
    specimen = np.zeros((24, 24, 2))
    specimen[11, 10, 1] = -1.0
    hopped = np.roll(specimen, 1, axis=0)
    laid = laid_on_first([frame_at(0, (6.0, 6.0), specimen), frame_at(1, (6.0, 6.0), hopped)])
    assert laid[1].drift_px == pytest.approx([0, 0], abs=0.5) and not laid[1].told


def test_a_frame_of_another_cell_is_left_out() -> None:
    frames = [frame_at(t, (6.0, 6.0), np.zeros((24, 24, 2))) for t in range(4)]
    other = Frame(
        4, frames[0].cells, frames[0].column, frames[0].site, frames[0].places_px * 1.3, *[frames[0].change] * 2
    )
    assert laid_on_first([*frames, other])[-1] is None
    series = follow([*frames, other])
    assert series is not None and series.other_cell == [4] and len(series.frames) == 4


@pytest.fixture(scope="module")
def watched() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes and errors (n, 40) of 10 x 10 cells, and places: static scatter, and one thing of each sort."""
    rng, every = np.random.default_rng(7), sites(10)
    change = rng.normal(0, 0.04, (len(every), 1)) + rng.normal(0, 0.05, (len(every), 40))
    at = {tuple(k): i for i, k in enumerate(every.tolist())}
    change[at[2, 2, 0], 12:] -= 0.4  # changes at 12
    change[at[7, 2, 1], 10:30] += 0.5  # changes at 10, returns at 30
    change[at[4, 7, 0], :20] += 0.5  # heavier, hops at 20
    change[at[4, 7, 1], 20:] += 0.5
    change[at[8, 8, 0]] -= 1.0  # empty from the first frame
    change[at[1, 8, 1], 17] = 2.5  # a wrong measurement is no event
    change[at[5, 5, 0], 5:9] = np.nan  # nor is a column that was not seen for a time
    return change, np.where(np.isfinite(change), 0.05, np.nan), 20 * (every[:, :2] + every[:, 2:] / 2)


def test_what_happened_is_listed_and_nothing_else(watched: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    change, sigma, places = watched
    states = through_time(change, sigma, np.tile([0, 1], len(change) // 2))
    found = with_hops(single_events(states), places)
    assert [(event.event, event.at) for event in found] == [
        ("changes", 10),
        ("changes", 12),
        ("hops", 20),
        ("returns", 30),
    ]
    hop = found[2]
    assert (tuple(places[hop.from_site]), tuple(places[hop.site])) == ((80.0, 140.0), (90.0, 150.0))
    tracks = [(track.first, track.last, track.kind) for track in tracks_of(states)]
    expected = [
        (12, 39, "lighter"),
        (10, 29, "heavier"),
        (0, 19, "heavier"),
        (20, 39, "heavier"),
        (0, 39, "vacancy-like"),
    ]
    assert sorted(tracks) == sorted(expected)
    assert states.scatter[0] == pytest.approx(0.04, abs=0.01)


def test_nothing_happens_in_noise_twice_as_large_as_stated() -> None:
    rng = np.random.default_rng(11)
    change = rng.normal(0, 0.05, (300, 1)) + rng.normal(0, 0.1, (300, 30))
    states = through_time(change, np.full(change.shape, 0.05), np.zeros(300, np.int64))
    assert not single_events(states) and not tracks_of(states)


def test_chances_of_one_event_are_one_event() -> None:
    chance = np.array([0, 0.2, 0.5, 0.25, 0, 0, 0.9, 0.05], np.float32)
    assert [(low, high, round(mass, 2)) for low, high, mass in windows(chance)] == [(6, 7, 0.95), (1, 3, 0.95)]
    assert runs(np.array([True, True, False, True])) == [(0, 1), (3, 3)]


def test_open_gives_the_tables_of_series(tmp_path: Path) -> None:
    results = made_up.Shard(tmp_path / "products")
    scan = made_up.scan_of((300, 320), 3, seed=0)
    results.analysed("i0", "a.dm4", scan, seed=0, file_id="a", acquired="")
    folder = tmp_path / "results/4_defects"
    results.gathered(folder)
    run = oddlattice.open(tmp_path / "results")
    assert run.series.height == run.tracks.height == run.events.height == 0
    assert json.loads((folder / "statistics.json").read_text())["series"] == []
    assert "dose_e_per_nm2" in run.series.columns
