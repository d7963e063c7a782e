"""Pictures of a stack: its frames on one scale of gray, their mean on one lattice, and a small moving picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from oddlattice.defects.kinds import KINDS
from oddlattice.numerics.arrays import Array
from oddlattice.report import pictures
from oddlattice.storage.rows import Row

MOST_PX = 768  # longer side of a frame's picture
QUALITY = 82
RANGE_FRAMES = 9  # that tell the scale of gray
MOVING_FRAMES, MOVING_PX, MOVING_GRAYS = 40, 320, 32
MOVING_MS = 120  # a frame is shown


@dataclass(frozen=True)
class Shown:
    """How a stack is drawn: shape (rows, cols) [px] of a frame, range of its gray, names of the frames' pictures."""

    shape: tuple[int, int]
    low: float
    high: float
    names: list[str]


def _small(frame: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    values = np.asarray(frame, dtype=np.float32)
    while max(values.shape) > MOST_PX:
        values = pictures.halved(values)
    return values


def write_frames(frames: Sequence[Any], numbers: Sequence[int], folder: Path) -> Shown:
    """Write the picture of every frame, one after the other."""
    some = frames[:: max(1, -(-len(frames) // RANGE_FRAMES))]
    step = max(1, pictures.sample_step(frames[0].shape))
    ranges = [pictures.range_of(np.asarray(frame[::step, ::step]), 0.2, 99.8) for frame in some]
    low, high = (float(np.median(ends)) for ends in zip(*ranges, strict=True))
    names = []
    for number, frame in zip(numbers, frames, strict=True):
        names.append(f"{folder.name}/frame_{number:04d}.jpg")
        pictures.save_lossy(pictures.to_bytes(_small(frame[:]), low, high), folder.parent / names[-1], QUALITY)
    return Shown((int(frames[0].shape[0]), int(frames[0].shape[1])), low, high, names)


def mean_of(frames: Sequence[Any], drift_px: Array) -> npt.NDArray[np.float32]:
    """Mean of frames (rows, cols) each moved back by its drift (T, 2), whole pixels; NaN where none shows the place."""
    total, weight = (np.zeros(frames[0].shape, np.float32) for _ in range(2))
    for frame, (rows, cols) in zip(frames, np.rint(drift_px).astype(int).tolist(), strict=True):
        (to_r, from_r), (to_c, from_c) = (_shared(size, by) for size, by in zip(total.shape, (rows, cols), strict=True))
        values = np.asarray(frame[from_r, from_c], dtype=np.float32)
        known = np.isfinite(values)
        total[to_r, to_c] += np.where(known, values, 0)
        weight[to_r, to_c] += known
    return np.where(weight > 0, total / np.maximum(weight, 1), np.float32(np.nan))


def _shared(size: int, by: int) -> tuple[slice, slice]:
    """Where a side of `size` px and the same moved `by` overlap: in the first, and in the moved one."""
    length = max(size - abs(by), 0)
    start = max(-by, 0)
    return slice(start, start + length), slice(start + by, start + by + length)


def write_mean(frames: Sequence[Any], drift_px: Array, shown: Shown, folder: Path) -> None:
    """Write the mean of the frames, moved back by their drift."""
    view = pictures.covered_bytes(_small(mean_of(frames, drift_px)), shown.low, shown.high)[0]
    pictures.save_lossy(view, folder / "mean.jpg", QUALITY)


def write_moving(frames: Sequence[Row], markers: Sequence[Sequence[Row]], shown: Shown, folder: Path) -> None:
    """Write a moving picture with markers, for a talk: some of the frames, small, in few grays."""
    every = max(1, -(-len(frames) // MOVING_FRAMES))
    scale = min(MOVING_PX / max(shown.shape), 1.0)
    size = (round(shown.shape[1] * scale), round(shown.shape[0] * scale))
    drawn = []
    for k in range(0, len(frames), every):
        with Image.open(folder.parent / shown.names[k]) as picture:
            gray = picture.convert("L").resize(size, Image.Resampling.BOX)
        gray = gray.point([round(v * (MOVING_GRAYS - 1) / 255) * 255 // (MOVING_GRAYS - 1) for v in range(256)])
        view = gray.convert("RGB")
        pen = ImageDraw.Draw(view)
        for mark in markers[k]:
            x, y = (mark["col_px"] + 0.5) * scale, (mark["row_px"] + 0.5) * scale
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), outline=KINDS[mark["kind"]].colour, width=2)
        drawn.append(view.quantize(MOVING_GRAYS + len(KINDS), dither=Image.Dither.NONE))
    drawn[0].save(folder / "moving.gif", save_all=True, append_images=drawn[1:], duration=MOVING_MS, loop=0)
