"""Chunks read and written without zarr's event loop: what zarr itself would read, and the bytes it would write."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from oddlattice.storage import blocks

PACKED = BloscCodec(cname="lz4", shuffle="bitshuffle")


def field(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Noise with a corner of zeros."""
    values = np.random.default_rng(0).integers(1, 200, shape).astype(dtype)
    values[tuple(slice(0, 5) for _ in shape)] = 0
    return values


def make(
    store: Any, values: np.ndarray[Any, np.dtype[Any]], chunks: tuple[int, ...], packed: BloscCodec | None = PACKED
) -> "zarr.Array[Any]":
    return zarr.create_array(
        store, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=packed, fill_value=0
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16", "float64"])
@pytest.mark.parametrize(("shape", "chunks"), [((7,), (7,)), ((13, 11), (5, 4)), ((2, 6, 9), (2, 6, 9))])
def test_what_is_written_is_what_zarr_writes(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...]
) -> None:
    values = field(shape, dtype)
    make(tmp_path / "zarr", values, chunks)[:] = values
    blocks.write(make(tmp_path / "ours", values, chunks), (), values)
    assert files(tmp_path / "ours") == files(tmp_path / "zarr")
    assert ("c/0/0" in files(tmp_path / "ours")) == (len(shape) == 2 and chunks[0] > 5)  # the corner's chunk is zeros


def test_windows_of_whole_chunks_are_written_and_others_refused(tmp_path: Path) -> None:
    values = field((13, 11), "float32")
    array = make(tmp_path / "a", values, (5, 4))
    for window in ((slice(0, 10), slice(0, 11)), (slice(10, 13), slice(0, 8)), (slice(10, 13), slice(8, 11))):
        blocks.write(array, window, values[window])
    np.testing.assert_array_equal(array[:], values)
    with pytest.raises(ValueError, match="from 0 to 7; needed whole chunks of 5"):
        blocks.write(array, (slice(0, 7), slice(0, 11)), values[:7])


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 14)] * 4))
def test_any_window_is_read_as_zarr_reads_it(
    tmp_path_factory: pytest.TempPathFactory, ends: tuple[int, int, int, int]
) -> None:
    values = field((13, 11), "uint16")
    array = make(tmp_path_factory.mktemp("a") / "a", values, (5, 4))
    array[:] = values
    window = slice(min(ends[:2]), max(ends[:2])), slice(min(ends[2:]), max(ends[2:]))
    found = blocks.read(array, window)
    assert found.dtype == values.dtype
    assert found.flags.writeable
    np.testing.assert_array_equal(found, values[window])
    np.testing.assert_array_equal(blocks.read(array, window[:1]), values[window[0]])


def test_what_is_not_packed_as_ours_goes_by_way_of_zarr(tmp_path: Path) -> None:
    values = field((13, 11), "float32")
    for array in (make(tmp_path / "a", values, (5, 4), packed=None), make(MemoryStore(), values, (5, 4))):
        blocks.write(array, (), values)
        np.testing.assert_array_equal(blocks.read(array, (slice(2, 9),)), values[2:9])


def test_a_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    values = field((13, 11), "float32")
    array = make(tmp_path / "a", values, (13, 11))
    blocks.write(array, (), values)
    (tmp_path / "a/c/0/0").write_bytes(b"\0" * 40)
    with pytest.raises((RuntimeError, ValueError)):
        blocks.read(array)
