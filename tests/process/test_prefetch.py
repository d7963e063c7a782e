"""Several images of a shard at once: the slowest of reading, predicting and writing decides, not their sum."""

import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zarr

import infer_differences
from device_check import field
from device_runs import MODEL, write_tiles
from oddlattice.predict import infer_image
from oddlattice.predict.predictor import Predictor
from oddlattice.process.prefetch import side_by_side
from oddlattice.process.supervised import Watch
from oddlattice.run.stage_settings import InferSettings
from support.settings import default

SLOW_S = 0.15
IMAGES = 4


def test_results_come_in_order_and_so_many_calls_are_under_way() -> None:
    at_work, most, lock = 0, 0, threading.Lock()

    def call(number: int) -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02 * (3 - number % 3))
        with lock:
            at_work -= 1
        return number

    results = side_by_side([partial(call, k) for k in range(7)], 3)
    assert [result() for result in results] == list(range(7))
    assert most == 3


def test_an_error_comes_out_in_its_place_and_costs_no_other() -> None:
    def call(number: int) -> int:
        if number == 1:
            raise OSError("disk full")
        return number

    results = list(side_by_side([partial(call, k) for k in range(3)], 2))
    assert (results[0](), results[2]()) == (0, 2)
    with pytest.raises(OSError, match="disk full"):
        results[1]()


def test_one_at_a_time_starts_nothing_before_it_is_asked() -> None:
    done: list[int] = []
    results = side_by_side([partial(done.append, k) for k in range(3)], 1)
    first, second = next(results), next(results)
    assert done == []
    second()
    first()
    assert done == [1, 0]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    write_tiles(tmp_path / "tiles.zarr", [field(8)], IMAGES)
    return tmp_path / "tiles.zarr"


def slowed(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Have a function take longer, as a disk or a GPU does: without the processor."""
    function = getattr(owner, name)

    def call(*arguments: object, **keywords: object) -> object:
        time.sleep(SLOW_S)
        return function(*arguments, **keywords)

    monkeypatch.setattr(owner, name, call)


def test_reading_predicting_and_writing_overlap(tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (str(tiles), [str(MODEL)], str(tmp_path / "out.zarr"), default(InferSettings, device="cpu"), 1)
    monkeypatch.setattr(
        infer_image, "responses", lambda predictor, tiles, mask, shapes, vectors: [(1, 1)] * len(shapes)
    )
    monkeypatch.setattr(infer_differences, "images_at_once", lambda predictors, threads: 3)
    infer_differences.main(*given)  # what is made once
    for owner, name in ((infer_image, "pieces_of"), (Predictor, "whole"), (infer_image, "write_core")):
        slowed(monkeypatch, owner, name)
    start = time.monotonic()
    infer_differences.main(*given)
    side_by_side_s = time.monotonic() - start
    start = time.monotonic()
    infer_differences.main(*given, Watch(careful=True))
    one_by_one_s = time.monotonic() - start
    assert one_by_one_s > 3 * IMAGES * SLOW_S
    assert side_by_side_s < 0.6 * one_by_one_s


def test_side_by_side_gives_the_bytes_of_one_by_one(tiles: Path, tmp_path: Path) -> None:
    found = []
    for watch in (Watch(), Watch(careful=True)):
        out = tmp_path / f"{watch.careful}.zarr"
        infer_differences.main(str(tiles), [str(MODEL)], str(out), default(InferSettings, device="cpu"), 1, watch)
        store = zarr.open_group(out, mode="r")
        found.append([np.asarray(store[f"i{k:04d}/1/difference"][:]).tobytes() for k in range(IMAGES)])
    assert found[0] == found[1]
