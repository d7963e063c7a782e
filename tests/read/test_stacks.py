"""Frames of a stack, one by one and as their aligned sum."""

import dask.array as da
import numpy as np
import pytest

from oddlattice.read import stacks
from support.signals import axis, signal


def test_frames_are_found_along_the_axis_that_counts_them():
    nm, s = ("nm", 0.01), ("s", 1.0)
    for place, kinds in ((0, (s, nm, nm)), (2, (nm, nm, s)), (0, (nm, nm, nm))):
        stack = signal(np.zeros((5, 6, 7)), [axis(5 + n, *kind) for n, kind in enumerate(kinds)])
        assert stacks.frame_axis(stack) == place
    last = signal(np.zeros((80, 90, 3)), [axis(80), axis(90), axis(3, "", 1.0)])
    assert stacks.frames_first(last).shape == (3, 80, 90)
    assert [a.size for a in stacks.image_axes(last)] == [80, 90]


@pytest.mark.parametrize("chunks", [(1, 80, 90), (3, 40, 90), (10, 80, 90)])
@pytest.mark.parametrize("at_once", [1 << 28, 80 * 90 * 2, 1000])
def test_frames_lazy_and_eager_whatever_the_chunks(monkeypatch, chunks, at_once):
    monkeypatch.setattr(stacks, "AT_ONCE_BYTES", at_once)
    monkeypatch.setattr(stacks, "CHUNK_PX", 32)
    stack = np.random.default_rng(0).integers(0, 999, (10, 80, 90)).astype(np.uint16)
    for data in (stack, da.from_array(stack, chunks=chunks)):
        read = [np.concatenate(list(bands)) for _, bands in stacks.frames(data)]
        np.testing.assert_array_equal(np.stack(read), stack)


def lattice_frames(drift_px, seed=0, dose=40.0):
    """Noisy frames of a square lattice (20 px a cell) with some empty columns, drifting over it."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0:300, 0:320]
    scene = (1 + np.cos(2 * np.pi * rows / 20)) * (1 + np.cos(2 * np.pi * cols / 20)) / 4
    for row, col in rng.integers(2, 13, (8, 2)):
        scene[row * 20 - 10 : row * 20 + 10, col * 20 - 10 : col * 20 + 10] = 0
    place, places = np.array([40, 40]), []
    for step in drift_px:
        place = place + step
        places.append(place)
    frames = [rng.poisson(dose * (0.1 + scene[r : r + 200, c : c + 220])) for r, c in places]
    return np.stack(frames).astype(np.uint16), np.array(places) - places[0]


@pytest.mark.parametrize("step", [(0, 0), (2, -3), (-4, 4), (0, 7)])
@pytest.mark.parametrize("dose", [5.0, 40.0])
def test_drifting_frames_of_a_lattice_are_aligned(step, dose):
    stack, shifts = lattice_frames([(0, 0)] + [step] * 5, dose=dose)
    total, found = stacks.aligned_sum(stack)
    assert np.abs(found - shifts).max() <= (0 if dose == 40.0 else 1)  # 5 counts at the brightest pixel
    assert total.dtype == np.int32
    assert total.shape == tuple(np.array([200, 220]) - np.ptp(found, axis=0))


def test_the_sum_is_exact_and_of_the_shared_field():
    stack, shifts = lattice_frames([(0, 0), (3, -2), (-5, 4)])
    total, found = stacks.aligned_sum(da.from_array(stack, chunks=(1, 200, 220)))
    np.testing.assert_array_equal(found, shifts)
    top, left = shifts.max(axis=0)
    bottom, right = np.array([200, 220]) + shifts.min(axis=0)
    expected = sum(
        frame[top - r : bottom - r, left - c : right - c].astype(int)
        for frame, (r, c) in zip(stack, shifts, strict=True)
    )
    np.testing.assert_array_equal(total, expected)


def test_floats_stay_floats_in_the_sum():
    total, _ = stacks.aligned_sum(np.ones((3, 70, 80)) + np.random.default_rng(0).normal(size=(70, 80)))
    assert total.dtype == np.float32
