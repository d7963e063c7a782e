"""Several images of a shard at once: while one is read or written, another is predicted."""

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

IMAGES = 3


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


def test_every_step_of_an_image_goes_on_beside_those_of_others(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, predicting and writing each wait until as many images are at it as may be: one by one none would end."""
    monkeypatch.setattr(infer_differences, "images_at_once", lambda predictors, threads: IMAGES)
    for owner, name in ((infer_image, "pieces_of"), (Predictor, "whole"), (infer_image, "write_core")):
        together, function, met = threading.Barrier(IMAGES), getattr(owner, name), threading.local()

        def call(*given: object, together=together, function=function, met=met) -> object:
            if not hasattr(met, "once"):
                met.once = together.wait(60)
            return function(*given)

        monkeypatch.setattr(owner, name, call)
    settings = default(InferSettings, device="cpu")
    infer_differences.main(str(tiles), [str(MODEL)], str(tmp_path / "out.zarr"), settings, 1)
    listed = zarr.open_group(tmp_path / "out.zarr", mode="r").attrs["images"]
    assert [row["state"] for row in listed] == ["analysed"] * IMAGES


def test_side_by_side_gives_the_bytes_of_one_by_one(tiles: Path, tmp_path: Path) -> None:
    found = []
    for watch in (Watch(), Watch(careful=True)):
        out = tmp_path / f"{watch.careful}.zarr"
        infer_differences.main(str(tiles), [str(MODEL)], str(out), default(InferSettings, device="cpu"), 1, watch)
        store = zarr.open_group(out, mode="r")
        found.append([np.asarray(store[f"i{k:04d}/1/difference"][:]).tobytes() for k in range(IMAGES)])
    assert found[0] == found[1]


def test_nothing_is_under_way_once_it_is_left_early() -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.3)
        ended.set()

    results = side_by_side([lambda: None, slow, slow], 2)
    next(results)()
    assert begun.wait(5)
    results.close()
    assert ended.is_set()
