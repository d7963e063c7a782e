"""A stack through the stages: a column emptied at a known frame, while the specimen drifts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from PIL import Image

import measure_images
import oddlattice
from oddlattice.crystal import load_crystal
from oddlattice.report.series_page import write_series_pages
from oddlattice.report.series_pictures import mean_of
from oddlattice.series.dose import Dose, dose_of
from oddlattice.series.drift import Frame, laid_on_first
from oddlattice.series.events import rate_of_changes, runs, single_events, tracks_of, with_hops
from oddlattice.series.follow import follow
from oddlattice.series.grains import same_grains
from oddlattice.series.states import through_time, windows
from oddlattice.series.tables import event_rows, follow_stack, frame_rows, series_figures, stacks_of, track_rows
from oddlattice.simulate.columnwise import Conditions, Defect, simulate_scan
from oddlattice.storage.products import OF_SERIES
from report.test_browser import Tab, browser, violations  # noqa: F401 (a fixture)
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and page of the stack, and the raw images they come from."""
    folder = tmp_path_factory.mktemp("stack")
    stages = through_the_stages([(stack(), PIXEL_NM)], folder)
    out = {name: str(folder / f"{name}.parquet") for name in OF_SERIES}
    raw = zarr.open_group(folder / "1.zarr", mode="r")
    measure_images.follow_stacks(stages, raw, out, 0, measure_images.Watch())
    (folder / "pages").mkdir()
    write_series_pages(out, raw, folder / "pages", measure_images.Watch())
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in OF_SERIES}


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


def test_every_frame_is_told(found: dict[str, pl.DataFrame]) -> None:
    frames = found["series_frames"].to_dicts()
    assert [row["frame"] for row in frames] == list(range(FRAMES)) and all(row["used"] for row in frames)
    assert [row["odd_vacancy_like"] for row in frames] == [0] * EMPTIED_AT + [1] * (FRAMES - EMPTIED_AT)
    watched = frames[0]["columns"]
    # the column that is emptied was among those watched from the first frame on: one of them has left bulk
    assert frames[EMPTIED_AT - 1]["bulk_left"] == 1
    assert 1 - 1.3 / watched < frames[-1]["bulk_left"] < 1 - 0.7 / watched
    assert frames[-1]["bulk_left_low_95"] < frames[-1]["bulk_left"] < frames[-1]["bulk_left_high_95"]


def test_a_series_shows_smaller_losses_than_a_frame(found: dict[str, pl.DataFrame]) -> None:
    (single,) = found["series"]["loss_90_in_frame"]
    for row in found["series_depths"].to_dicts():
        assert 0 < row["loss_90"] < single


def test_the_mean_of_frames_is_that_of_the_specimen() -> None:
    """A gray that differs everywhere, drifting by whole pixels: its mean is itself."""
    specimen = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    drift = np.array([[0, 0], [2, -3], [-1, 4]])
    frames = [
        specimen[10 - r : 30 - r, 10 - c : 30 - c] for r, c in drift
    ]  # it moves down by r: the field sees less above
    mean = mean_of(frames, drift)
    np.testing.assert_allclose(mean, specimen[10:30, 10:30], rtol=1e-6)
    assert np.isnan(mean_of([np.full((4, 4), np.nan, np.float32)], np.zeros((1, 2)))).all()


def test_the_player_shows_what_happened(folder: Path, browser: Any) -> None:
    tab = Tab(browser, 1280, "dark")
    page = tab.open(folder / "pages/f0000-s0.html")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    marks = page.locator("#stage path")
    for frame, number in [(0, 0), (EMPTIED_AT, 1), (FRAMES - 1, 1)]:
        page.evaluate(f"go({frame})")
        assert marks.count() == number
        assert f"frame_{frame:04d}.jpg" in page.locator("#stage image").get_attribute("href")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#says").inner_text().startswith(f"Frame {FRAMES - 2}")
    page.locator("#mean").check()
    assert marks.count() == 1 and "mean.jpg" in page.locator("#stage image").get_attribute("href")
    page.locator("button[data-frame]").first.click()
    assert page.locator("#says").inner_text().startswith(f"Frame {EMPTIED_AT}")
    tab.close()
    with Image.open(folder / "pages/f0000-s0/moving.gif") as moving:
        assert moving.n_frames == FRAMES


def test_a_stack_that_is_not_followed_has_a_page(folder: Path, tmp_path: Path) -> None:
    stages = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("images", "columns", "defects")}
    images = stages["images"].with_columns(state=pl.lit("no_lattice"))
    out = {name: str(tmp_path / f"{name}.parquet") for name in OF_SERIES}
    raw = zarr.open_group(folder / "1.zarr", mode="r")
    measure_images.follow_stacks(stages | {"images": images}, raw, out, 0, measure_images.Watch())
    (tmp_path / "pages").mkdir()
    write_series_pages(out, raw, tmp_path / "pages", measure_images.Watch())
    text = (tmp_path / "pages/f0000-s0.html").read_text(encoding="utf-8")
    assert "Not followed" in text and "fewer than 3 frames" in text and "no lattice" in text


@pytest.mark.parametrize(
    ("tags", "frame_s", "dose"),
    [
        # 100 pA for 2.5 us on a pixel of 10 x 20 pm: 1560.4 electrons on 2e-4 nm^2, reckoned by hand
        ({"BinaryResult": {}, "Scan": {"DwellTime": "2.5e-006", "FrameTime": "12.6"},
          "Optics": {"ScreenCurrent": "1e-010"}}, 12.6, 7.80189e6),
        ({"BinaryResult": {}, "Scan": {"DwellTime": "2.5e-006"}, "Optics": {"ScreenCurrent": "0"}}, None, None),
        ({"ImageList": {"TagGroup0": {"ImageTags": {"DigiScan": {"Sample Time": 2.5},
          "Microscope Info": {"Probe Current (nA)": 0.1}}}}}, 2.5e-6 * 64 * 32, 7.80189e6),
        ({"ImageList": "?"}, None, None),
    ],
)  # fmt: skip
def test_dose_of_a_frame(tags: dict[str, Any], frame_s: float | None, dose: float | None) -> None:
    found = dose_of(tags, (64, 32), (0.01, 0.02))
    assert found.frame_s == (None if frame_s is None else pytest.approx(frame_s))
    assert found.e_per_nm2 == (None if dose is None else pytest.approx(dose, rel=1e-4))
    assert bool(found.source) == (frame_s is not None or dose is not None)
    assert dose_of(tags, (64, 32), None).e_per_nm2 is None


def test_rates_of_a_series_per_electron(folder: Path) -> None:
    stages = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("images", "columns", "defects")}
    (stack_rows,) = stacks_of(stages["images"])
    (row,) = follow_stack(stack_rows, stages["columns"], stages["defects"], Dose(2.0, 500.0, "by hand"), 0)["series"]
    assert row["cross_section_barn"] == pytest.approx(1e10 * row["change_rate"] / 500)
    assert row["cross_section_low_95_barn"] == pytest.approx(1e10 * row["change_rate_low_95"] / 500)
    assert row["change_rate"] == pytest.approx(1 / row["column_frames"])


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
    series = follow([*frames, other], 0.1)
    assert series is not None and series.other_cell == [4] and len(series.frames) == 4


def grain_at(number: int, turn_deg: float, middle_px: tuple[float, float], change: float, at: int) -> Frame:
    """A grain of 10 x 10 cells about a place; from frame `at` on its middle column has changed."""
    k, turn = sites(10), np.deg2rad(turn_deg)
    vectors = 20 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    read = np.random.default_rng([number, int(turn_deg)]).normal(0, 0.03, len(k))
    read[(k == [5, 5, 0]).all(axis=1)] += change * (number >= at)
    places = (k[:, :2] + k[:, 2:] / 2 - 5) @ vectors + middle_px
    return Frame(number, k[:, :2], k[:, 2], {0: "A", 1: "B"}, places, read, np.full(len(k), 0.03))


def test_every_grain_of_a_stack_is_followed_whatever_its_number_in_a_frame() -> None:
    frames = []
    for t in range(12):
        drift = 3.0 * t
        left, right = grain_at(t, 0, (150, 150 + drift), -0.6, 4), grain_at(t, 30, (150, 450 + drift), 0.7, 8)
        frames.append({1: right, 2: left} if t in (3, 5, 6) else {1: left, 2: right})
    frames[0], frames[7] = {1: frames[0][1]}, {1: frames[7][2]}
    found = same_grains(frames)
    assert [[one.frame for one in grain] for grain in found] == [[*range(7), *range(8, 12)], list(range(1, 12))]
    for grain, place in zip(found, (150, 450), strict=True):
        assert all(abs(one.places_px[:, 1].mean() - place - 3.0 * one.frame) < 8 for one in grain)
    grains = [series for grain in found if (series := follow(grain, 0.1)) is not None]
    tracks = track_rows(grains)
    assert [(row["track"], row["grain"], row["kind"], row["first_frame"]) for row in tracks] == [
        (1, 1, "lighter", 4),
        (2, 2, "heavier", 8),
    ]
    assert tracks[1]["col_px"] == pytest.approx(450 + 3.0 * 8, abs=1)
    assert [(row["track"], row["grain"], row["frame"]) for row in event_rows(grains)] == [(1, 1, 4), (2, 2, 8)]
    figures = series_figures(grains)
    assert (figures["frames_used"], figures["sites"], figures["tracks"], figures["changes"]) == (12, 400, 2, 2)
    stack_rows = [{"image_id": f"i{t}", "frame": t} for t in range(12)]
    rows = frame_rows(stack_rows, grains, {}, Dose())
    assert [row["drift_col_px"] for row in rows] == pytest.approx([3.0 * t for t in range(12)], abs=0.5)
    assert [row["odd_heavier"] for row in rows] == [0] * 8 + [1] * 4
    assert [rows[t]["columns"] for t in (0, 1, 7)] == [200, 400, 200]
    assert rows[-1]["bulk_left"] == pytest.approx(1 - 1 / 200)  # of those that the first frame shows


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
    tracks = [(track.first, track.last, track.kind) for track in tracks_of(states, 0.1)]
    expected = [
        (12, 39, "lighter"),
        (10, 29, "heavier"),
        (0, 19, "heavier"),
        (20, 39, "heavier"),
        (0, 39, "vacancy-like"),
    ]
    assert sorted(tracks) == sorted(expected)
    assert states.scatter[0] == pytest.approx(0.04, abs=0.01)


def test_a_column_that_comes_into_view_odd_has_not_changed() -> None:
    rng = np.random.default_rng(5)
    change = rng.normal(0, 0.05, (100, 40))
    change[3, :15], change[4, 25:] = np.nan, np.nan
    change[3] -= 0.5  # odd when it is first seen, at 15
    change[4] += 0.5  # and until it is last seen, at 24
    states = through_time(change, np.where(np.isfinite(change), 0.05, np.nan), np.zeros(100, np.int64))
    assert single_events(states) == []
    found = [(track.site, track.first, track.last) for track in tracks_of(states, 0.1)]
    assert found == [(3, 15, 39), (4, 0, 24)]
    # of 40 frames, changes at 2 to 38 are asked about
    assert rate_of_changes([], states, np.isfinite(change)) == (0, pytest.approx(98 * 37, rel=0.01))


def test_nothing_happens_in_noise_twice_as_large_as_stated() -> None:
    rng = np.random.default_rng(11)
    change = rng.normal(0, 0.05, (300, 1)) + rng.normal(0, 0.1, (300, 30))
    states = through_time(change, np.full(change.shape, 0.05), np.zeros(300, np.int64))
    assert not single_events(states) and not tracks_of(states, 0.1)


def test_a_reading_that_jumps_with_what_is_listed_beside_it_is_no_event() -> None:
    frames = []
    for t in range(10):
        change = np.zeros((24, 24, 2))
        change[11, 10, 1] = change[14, 12, 0] = -0.4 if t < 5 else 0.0
        frame = frame_at(t, (6.0, 6.0), change)
        jumps = np.abs(frame.places_px - 20 * np.array([8.0, 6.0])).max(axis=1) < 1
        assert jumps.sum() == 1
        frames.append(replace(frame, plain=np.where(jumps, 0.0, frame.change)))
    series = follow(frames, 0.1)
    assert series is not None
    assert [(event.event, event.at, tuple(series.sites_px[event.site].round())) for event in series.events] == [
        ("returns", 5, (110.0, 90.0))
    ]


def test_columns_that_move_and_extra_ones_are_followed() -> None:
    rng, specimen, frames = np.random.default_rng(3), np.zeros((24, 24, 2)), []
    specimen[10, 9, 0] = -1.0  # a landmark, whose place says nothing
    for t in range(24):
        frame = frame_at(t, (6.0, 6.0), specimen)
        shift = rng.normal(0, 4, (len(frame.change), 2))
        at = frame.places_px / 20
        shift[np.abs(at - [5, 5]).max(axis=1) < 0.1] += [25.0 * (t >= 10), 0.0]
        shift[np.abs(at - [8, 8]).max(axis=1) < 0.1] += [-20.0 * (t < 14), 20.0 * (t < 14)]
        shift[frame.change < -0.7] += 90 * (t % 2)
        extra = [(133.0, 97.0)] * (t >= 6 and t % 5 != 0) + [tuple(rng.uniform(40, 200, 2))] * (t in (3, 17))
        extras = np.array(extra).reshape(-1, 2)
        frames.append(
            replace(
                frame,
                shift_pm=shift,
                shift_sigma_pm=np.full(len(shift), 4.0),
                extra_px=extras,
                extra_chance=np.full(len(extras), 0.95),
            )
        )
    series = follow(frames, 0.1)
    assert series is not None
    found = {(one.kind, one.first, one.last): tuple(series.home_px(one.site).round()) for one in series.tracks}
    assert found == {
        ("vacancy-like", 0, 23): (80.0, 60.0),
        ("displaced", 10, 23): (100.0, 100.0),
        ("displaced", 0, 13): (160.0, 160.0),
        ("extra", 6, 23): (133.0, 97.0),
    }
    assert [(one.event, one.at, one.before, one.after) for one in series.events] == [
        ("changes", 6, "bulk", "extra"),
        ("changes", 10, "bulk", "displaced"),
        ("returns", 14, "displaced", "bulk"),
    ]
    rows = {row["kind"]: row for row in track_rows([series])}
    assert rows["extra"]["column"] is None and rows["extra"]["site"] == ""
    assert abs(rows["displaced"]["shift_row_pm"]) > 15
    assert [row["track"] for row in event_rows([series])] == [3, 4, 2]


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


def test_open_gives_a_stack_as_one_array(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "1_images").mkdir()
    (tmp_path / "4_defects").mkdir()
    (tmp_path / "1_images/s0001.zarr").symlink_to(folder / "1.zarr")
    for name in ("images", *OF_SERIES):
        (tmp_path / f"4_defects/{name}.parquet").symlink_to(folder / f"{name}.parquet")
    found = oddlattice.open(tmp_path).stack("f0000:HAADF")
    assert found.raw.shape == (FRAMES, SIDE_PX, SIDE_PX)
    np.testing.assert_array_equal(found.raw[2].compute(), stack()[2].astype(np.float32))
    assert found.drift_px.shape == (FRAMES, 2) and found.drift_px[-1] == pytest.approx(5 * np.array(DRIFT_PX), abs=0.5)
    assert (found.tracks.height, found.events.height) == (1, 1)
    with pytest.raises(KeyError, match="lists them"):
        oddlattice.open(tmp_path).stack("x")
