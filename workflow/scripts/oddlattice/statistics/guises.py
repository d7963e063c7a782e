"""One scan in several guises: an export, a filtered copy, another detector. It is one area of the sample, counted once.

Whom to compare is told by size, name and time; whether two are one scan by their pixels alone.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft
import zarr

from oddlattice.numerics.arrays import Array, Bools
from oddlattice.numerics.medians import median
from oddlattice.read.images import DARK_FIELD
from oddlattice.storage import blocks
from oddlattice.storage.groups import array_if_any, group_if_any, new_store
from oddlattice.storage.packed_stores import open_store, pack_store
from oddlattice.storage.products import IMAGES, read_table
from oddlattice.storage.rows import Row

MOST_ALIKE = 8  # a name that more images of a size and neighbourhood share tells nothing
SAME_NOISE = 0.25  # correlation of noise: of filtered copies it is 0.5 to 1, of other scans below 0.03
OVER_OTHERS = 2.0  # so much higher than at any other shift: what a lattice leaves in the noise repeats itself
NEAR_PX = 6.0  # filtered noise is correlated over so many pixels
SAME_PLACE_PX = 1.5  # columns of detectors of one scan lie as near to each other
CLIPPED = 2.5  # defects, in robust standard deviations, shall not outweigh the noise
MOST_OF_A_WAVE = 3.0
NEARLY = 0.99  # a lattice lies on itself again a cell further
LEAST_PIXELS = 10_000
TINY = float(np.finfo(np.float32).tiny)
MAP_PX = 512  # so much of the middle of an image is enough to know its scan
LEVELS = 127  # of the middle of a map, on either side of 0
WIDEST = 8.0  # difference, in robust standard deviations, that has the last level
KEPT_MAPS = 32
PICTURES = (".tif", ".tiff")  # exports, whose time is that of the export


class Maps(NamedTuple):
    """Of an image or a part of it (rows, cols), 0 where nothing was analysed: difference from bulk, and bulk."""

    difference: Array
    prediction: Array


class Same(NamedTuple):
    """The image that is counted in place of another, and what the two have the same, such as "same content"."""

    counted: str
    how: str


def write_middles(maps: zarr.Group, path: Path) -> None:
    """Write the middle of the maps of every image, in few levels: what later runs know a scan by; maps may be dropped.

    Parameters
    ----------
    maps : Group
        Store of the maps of a shard.
    path : Path
        Packed store to make, whole or not at all: per image int8 ``difference/0`` and ``prediction/0`` (rows, cols),
        0 where nothing was analysed.
    """
    with TemporaryDirectory() as folder:
        root = new_store(Path(folder))
        for name in sorted(maps.group_keys()):
            found = _middle_of(group_if_any(maps, name))
            for key, values in found._asdict().items() if found else ():
                root.create_array(f"{name}/{key}/0", data=_levelled(values), chunks=values.shape)
        pack_store(Path(folder), path)


def _middle_of(group: zarr.Group | None) -> Maps | None:
    """The middle of the maps of an image; None where it has none."""
    found = [array_if_any(group_if_any(group, name), "0") for name in Maps._fields]
    whole = [array for array in found if array is not None]
    return Maps(*(blocks.read(one, middle(one.shape)) for one in whole)) if len(whole) == len(found) else None


def _in_levels(values: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Values in levels, as they are kept or as they would be: whichever store is asked tells the same."""
    return values if values.dtype == np.int8 else _levelled(values)


def _levelled(values: Array) -> npt.NDArray[np.int8]:
    """Values in `LEVELS` on either side of 0, which is kept for what is 0."""
    there = values != 0
    spread = 1.4826 * float(median(np.abs(values[there]))) if there.any() else 1.0
    levels = np.clip(np.rint(values * (LEVELS / (WIDEST * spread))), -LEVELS, LEVELS).astype(np.int8)
    return np.where(there & (levels == 0), np.int8(1), levels)


def maps_of(images: list[str], stores: list[str]) -> Callable[[str], Maps | None]:
    """A function that reads the middle of the maps of an image of any shard; None of one that has none."""
    shard_of: dict[str, str] = {}

    @lru_cache(maxsize=KEPT_MAPS)
    def read(image_id: str) -> Maps | None:
        if not shard_of:
            for table_path, store in zip(images, stores, strict=True):
                shard_of.update(dict.fromkeys(read_table(table_path, IMAGES)["image_id"], store))
        found = _middle_of(group_if_any(open_store(Path(shard_of[image_id])), image_id))
        return found and Maps(*(_in_levels(values).astype(np.float64) for values in found))

    return read


def middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The middle of an image, at most MAP_PX wide."""
    return tuple(slice(start := max(0, (n - MAP_PX) // 2), start + min(n, MAP_PX)) for n in shape)


def find_guises(rows: Sequence[Row], maps_of: Callable[[str], Maps | None]) -> dict[str, Same]:
    """Which of analysed images are the same scan as another one, that is counted.

    Parameters
    ----------
    rows : sequence of dict
        Rows of products.IMAGES, of a stack its first frame alone.
    maps_of : function
        Maps of an image by its id; None where it has none.
    """
    rows = sorted(rows, key=_rank)
    group = {row["image_id"]: [row] for row in rows}
    how: dict[str, str] = {}
    for first, second, at_once in pairs(rows):
        one, other = group[first["image_id"]], group[second["image_id"]]
        if one is other:
            continue
        maps = maps_of(first["image_id"]), maps_of(second["image_id"])
        if maps[0] is None or maps[1] is None or not (known := same_scan(maps[0], maps[1], at_once)):
            continue
        how |= {row["image_id"]: known for row in (first, second) if row["image_id"] not in how}
        one += other
        group |= {row["image_id"]: one for row in other}
    found: dict[str, Same] = {}
    for some in group.values():
        counted = min(some, key=_rank)["image_id"]
        found |= {row["image_id"]: Same(counted, how[row["image_id"]]) for row in some if row["image_id"] != counted}
    return found


def _rank(row: Row) -> tuple[object, ...]:
    """The lowest is counted: one with a density, of the dark field, with a pixel size, no export, the shortest path."""
    names = f"{row['signal']} {PurePosixPath(row['path']).stem}".replace("_", " ")
    return (
        row["density_per_nm2"] is None,
        not DARK_FIELD.search(names),
        row["pixel_nm_header"] is None,
        row["path"].lower().endswith(PICTURES),
        len(row["path"]),
        row["path"],
        row["image_id"],
    )


def pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row, bool]]:
    """Pairs of images that may be one scan, and whether they were taken at once."""
    alike: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        for key in dict.fromkeys(_keys(row)):
            alike.setdefault((row["rows"], row["cols"], *key), []).append(row)
    seen = set()
    for known, some in alike.items():
        if len(some) > MOST_ALIKE:
            continue
        for first, second in combinations(some, 2):
            ids = (first["image_id"], second["image_id"], at_once := known[2] != "name")
            if ids not in seen:
                seen.add(ids)
                yield first, second, at_once


def _keys(row: Row) -> Iterator[tuple[str, ...]]:
    """What an image shares with those that may be the same scan: file, time, or name near by."""
    path = PurePosixPath(row["path"])
    yield "file", row["file_id"]
    at = row["acquired"] or ""
    if re.search(r"T\d\d:\d\d:\d\d", at) and path.suffix.lower() not in PICTURES:
        yield "time", str(path.parent), at
    words = re.findall(r"[^\W_]+", path.stem.lower())
    while words:
        for home in (path.parent, path.parent.parent):
            yield "name", str(home), *words
        if words.pop().isdigit():  # a number counts scans; what else stands behind a name tells what was made of one
            break


def same_scan(first: Maps, second: Maps, at_once: bool) -> str:
    """What two images of one shape have the same that makes them one scan; "" where they are two.

    Of one scan the noise is the same, however it was exported or filtered; detectors have noise of their own, but where
    they counted at once all columns lie at the same pixels.
    """
    both = (first.difference != 0) & (second.difference != 0)
    if both.sum() < LEAST_PIXELS:
        return ""
    rows, cols = (np.abs(np.fft.fftfreq(n, 1 / n)) for n in both.shape)
    away_px = np.hypot(rows[:, None], cols)
    noise = correlation(_noise(first.difference, both), _noise(second.difference, both), MOST_OF_A_WAVE)
    if noise[0, 0] > max(SAME_NOISE, OVER_OTHERS * np.abs(noise[away_px > NEAR_PX]).max()):
        return f"same noise (correlation {noise[0, 0]:.2f})"
    if not at_once:
        return ""
    bulk = np.abs(correlation(_level(first.prediction, both), _level(second.prediction, both)))
    here = bulk[away_px <= SAME_PLACE_PX].max() > NEARLY * bulk.max()
    return "same time and places of columns" if here else ""


def _level(values: Array, where: Bools) -> Array:
    """Values about their mean, 0 elsewhere."""
    return np.where(where, values - values[where].mean(), 0)


def _noise(values: Array, where: Bools) -> Array:
    """Values in robust standard deviations, clipped, about their mean; 0 elsewhere."""
    middle = float(np.median(values[where]))
    spread = 1.4826 * float(np.median(np.abs(values[where] - middle)))
    return _level(np.clip((values - middle) / max(spread, TINY), -CLIPPED, CLIPPED), where)


def correlation(first: Array, second: Array, most: float | None = None) -> Array:
    """Correlation of two images (rows, cols) at every shift, round about; [0, 0] is that at none.

    A wave counts with at most `most` of the usual amplitude of an image: what repeats itself does not outweigh noise.
    """
    spectra = [scipy.fft.rfft2(image) for image in (first, second)]
    for spectrum in spectra if most is not None else ():
        size = np.abs(spectrum)
        spectrum *= np.minimum(1, most * np.median(size) / np.maximum(size, TINY))
    found = np.asarray(scipy.fft.irfft2(spectra[0] * np.conj(spectra[1]), s=first.shape))
    alone = [float(scipy.fft.irfft2(np.abs(spectrum) ** 2, s=first.shape)[0, 0]) for spectrum in spectra]
    return found / max(math.sqrt(alone[0] * alone[1]), TINY)
