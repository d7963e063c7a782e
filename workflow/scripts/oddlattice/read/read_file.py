"""One file of the archive becomes images in a folder: the body of the child process of read_images.

It imports no more than it needs: the fork server that loads it must stay free of threads.
"""

import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from oddlattice.numerics.arrays import Array
from oddlattice.process.sandbox import Refused
from oddlattice.read import checks, images, stacks, virtual_detector
from oddlattice.read.calibration import pixel_size_nm
from oddlattice.read.formats import registry
from oddlattice.read.images import Survey
from oddlattice.read.rows import row
from oddlattice.read.signals import Signal
from oddlattice.run.stage_settings import ReadSettings
from oddlattice.storage import omezarr
from oddlattice.storage.groups import array_of, attributes_of
from oddlattice.storage.rows import Row


@dataclass(frozen=True)
class _Task:
    """What all images of a file share."""

    folder: Path
    file: Mapping[str, Any]
    sha256: Future[str]
    settings: ReadSettings
    threads: int
    only_signal: bool


def read_file(
    file: Mapping[str, Any], path: str, folder: str, settings: Mapping[str, Any], threads: int = 1, fault: str = ""
) -> list[Row]:
    """Read one file in this process; its images are written as groups of a zarr store of their own.

    Parameters
    ----------
    file : mapping
        Row of the shard's table (products.SHARD).
    path : str
        Where the file is; odd bytes as surrogate escapes.
    folder : str
        The new store.
    settings : mapping
        The configuration's section "read", as it comes through a pipe.
    threads : int
        Chunks compressed at the same time.
    fault : str
        Why the file could not be had, "" where it could.

    Returns
    -------
    list of dict
        Rows of products.READ: one for each image, one for each signal that is none.

    Raises
    ------
    Refused
        If the whole file is refused.
    Exception
        Whatever the reader raises.
    """
    if fault:
        raise Refused(fault)
    handle = checks.open_checked(path, file["size_bytes"], file["mtime_ns"])
    formats = registry.candidates(handle)
    Path(folder).mkdir(parents=True, exist_ok=True)
    ending = registry.ending_of(path, formats)
    named = checks.safe_name(handle, ending, Path(folder), path, formats[0].beside)
    with ThreadPoolExecutor(1) as beside, named as name:
        digest = beside.submit(checks.sha256, handle)
        if threads == 1:
            digest.result()
        try:
            signals = registry.load(name, formats)
            if not signals:
                raise Refused("holds no image")
            is_only = len(signals) == 1
            rows = _read_signals(
                _Task(Path(folder), file, digest, ReadSettings.of(settings), threads, is_only), signals
            )
        finally:
            digest.result()  # what is wrong with the file as a whole comes first, whatever the number of threads
    checks.check_unchanged(handle, file["size_bytes"], file["mtime_ns"])
    return rows


def _read_signals(task: _Task, signals: list[Signal]) -> list[Row]:
    rows: dict[int, list[Row]] = {}
    usable = []
    for signal in _with_virtual_detectors(task, signals):
        reason = images.refusal(signal, task.settings.min_px)
        if reason:
            rows[signal.index] = [_refused(task, signal, reason)]
        else:
            usable.append(signal)
    taken, left = images.chosen(usable, task.settings.detectors)
    for signal in taken:
        rows[signal.index] = _read_signal(task, signal)
    if task.settings.detectors == "auto" and not _any_read(rows):
        for signal in left:  # the dark-field image was no good: better another detector than none
            rows[signal.index] = _read_signal(task, signal)
    else:
        names = ", ".join(repr(_name(signal)) for signal in taken)
        detectors = task.settings.as_dict()["detectors"]
        asked = f"read.detectors is {detectors!r}".replace("'", "")
        why = f"was left out: {asked} and the file has {names}" if taken else f"was left out: {asked}"
        for signal in left:
            rows[signal.index] = [_refused(task, signal, why)]
    return [found for index in sorted(rows) for found in rows[index]]


def _with_virtual_detectors(task: _Task, signals: list[Signal]) -> list[Signal]:
    """The signals, 4D-STEM among them as images of a virtual detector where the file has no other image."""
    if not any(map(virtual_detector.is_four_dimensional, signals)):
        return signals
    if any(not images.refusal(signal, task.settings.min_px) for signal in signals):
        return signals
    disks = task.settings.virtual_dark_field
    return [
        virtual_detector.dark_field(signal, disks) if virtual_detector.is_four_dimensional(signal) else signal
        for signal in signals
    ]


def _any_read(rows: dict[int, list[Row]]) -> bool:
    return any(found["state"] == "read" for of_signal in rows.values() for found in of_signal)


def _name(signal: Signal) -> str:
    return signal.name or signal.detector or f"signal {signal.index}"


def _refused(task: _Task, signal: Signal, reason: str, frame: int = 0) -> Row:
    subject = "The signal" if task.only_signal else f"The signal {_name(signal)!r}"
    return row(task.file, _image_id(task, signal), _name(signal), frame, f"{subject} {reason}.")


def _image_id(task: _Task, signal: Signal, frame: int | None = None) -> str:
    file_id = str(task.file["file_id"])
    if frame is not None:
        return f"{file_id}-s{signal.index}-f{frame:04d}"
    return file_id if task.only_signal else f"{file_id}-s{signal.index}"


def _read_signal(task: _Task, signal: Signal) -> list[Row]:
    data = stacks.frames_first(signal)
    if len(data) == 1:
        _, bands = next(stacks.frames(data))
        return [_write(task, signal, bands, data.shape[1:], data.dtype, _image_id(task, signal), 0)]
    if task.settings.frames == "sum":
        return [_write_sum(task, signal, data)]
    if task.settings.frames not in ("series", "each"):
        raise ValueError(f"read.frames: {task.settings.frames!r}; need series, each or sum")
    return _write_frames(task, signal, data)


def _write_frames(task: _Task, signal: Signal, data: Any) -> list[Row]:
    """Write the frames of a stack, as many at a time as there are threads; more are not read ahead."""
    rows: list[Row] = []
    under_way: deque[Future[Row]] = deque()
    alone = replace(task, threads=1)
    with ThreadPoolExecutor(task.threads) as pool:
        for frame, bands in stacks.frames(data):
            if task.threads == 1 or stacks.is_large(data):
                rows.append(_write_frame(task, signal, data, frame, bands))
                continue
            if len(under_way) == task.threads:
                rows.append(under_way.popleft().result())
            under_way.append(pool.submit(_write_frame, alone, signal, data, frame, bands))
        rows += [written.result() for written in under_way]
    _keep_metadata(task, signal, rows)
    return rows


def _keep_metadata(task: _Task, signal: Signal, rows: list[Row]) -> None:
    """Metadata of a stack lie with its first frame; where that one was refused, with the first that was read."""
    read = [str(found["image_id"]) for found in rows if found["state"] == "read"]
    if rows[0]["state"] == "read" or not read:
        return
    for image_id in read:
        folder = task.folder / image_id
        said = attributes_of(zarr.open_group(folder, mode="r"))
        kept = signal.metadata if image_id == read[0] else {"_kept_with": read[0]}
        omezarr.add_attribute(folder, "oddlattice", said | {"original_metadata": kept})


def _write_frame(task: _Task, signal: Signal, data: Any, frame: int, bands: Iterator[Array]) -> Row:
    return _write(task, signal, bands, data.shape[1:], data.dtype, _image_id(task, signal, frame), frame)


def _write_sum(task: _Task, signal: Signal, data: Any) -> Row:
    total, shifts_px = stacks.aligned_sum(data)
    if min(total.shape) < task.settings.min_px:
        drift = "drifted so far that its frames share no field large enough"
        return _refused(task, signal, f"{drift} ({total.shape[0]} x {total.shape[1]} px)", -1)
    furthest = int(np.abs(shifts_px).max())
    note = f"Sum of {len(data)} frames after alignment by up to {furthest} px; only the field they share is kept."
    return _write(task, signal, iter([total]), total.shape, total.dtype, _image_id(task, signal), -1, [note])


def _write(
    task: _Task,
    signal: Signal,
    bands: Iterator[Array],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    image_id: str,
    frame: int,
    notes: list[str] | None = None,
) -> Row:
    """Write one image, counting its pixels on the way; an image found to be of no use is removed again."""
    row_axis, col_axis = stacks.image_axes(signal)
    pixel_nm, warnings = pixel_size_nm(row_axis, col_axis)
    name = _name(signal) if frame <= 0 else f"{_name(signal)} [{frame}]"
    survey = Survey(shape)
    folder = task.folder / image_id
    omezarr.write_bands(folder, survey.watch(bands), shape, dtype, pixel_nm, name=name, threads=task.threads)
    reason, more = _judge(folder, survey)
    if reason:
        shutil.rmtree(folder)
        subject = (
            f"Frame {frame}" if frame > 0 else "The signal" if task.only_signal else f"The signal {_name(signal)!r}"
        )
        return row(task.file, image_id, _name(signal), frame, f"{subject} {reason}.")
    if survey.not_finite:
        _fill(folder, pixel_nm, name, task.threads)
    said = {
        "image_id": image_id,
        "file_id": task.file["file_id"],
        "path": task.file["path"],
        "signal": _name(signal),
        "frame": frame,
        "rows": shape[0],
        "cols": shape[1],
        "pixel_nm_header": None if pixel_nm is None else list(pixel_nm),
        "units_header": col_axis.units,
        "scan_id": survey.scan_id,
        "sha256": task.sha256.result(),
        "acquired": signal.acquired,
        "detector": signal.detector,
        "warnings": warnings + (notes or []) + more,
        "original_metadata": signal.metadata if frame <= 0 else {"_kept_with": _image_id(task, signal, 0)},
    }
    omezarr.add_attribute(folder, "oddlattice", said)
    return row(task.file, image_id, _name(signal), frame, "", survey.scan_id)


def _judge(folder: Path, survey: Survey) -> tuple[str, list[str]]:
    """Refusal and warnings by the pixels of an image just written."""
    reason = images.refusal_of_pixels(survey)
    if reason:
        return reason, []
    warnings = []
    if survey.not_finite:
        share = 100 * survey.not_finite / survey.pixels
        warnings.append(f"{share:.2g} % of the pixels were not numbers; they are set to the image's mean.")
    if survey.saturated > images.NOTABLE_SATURATED and images.is_clipped(survey, _count_just_below(folder, survey)):
        bands = omezarr.bands_of(array_of(zarr.open_group(folder, mode="r"), "0"))
        reason = images.refusal_of_saturation(survey, images.saturated_in_patches(bands, float(survey.highest)))
        share = 100 * survey.saturated
        warnings.append(f"{share:.2g} % of the pixels sit at the highest value ({survey.highest:g}): cut off there.")
    return reason, warnings


def _count_just_below(folder: Path, survey: Survey) -> int:
    """Number of pixels in the 1/64 of the range below the highest value."""
    highest = float(survey.highest)
    low = highest - max((highest - float(survey.lowest)) / 64, 1.0 if survey.dtype.kind in "iu" else 0.0)
    array = array_of(zarr.open_group(folder, mode="r"), "0")
    return sum(int(np.count_nonzero((band >= low) & (band < highest))) for band in omezarr.bands_of(array))


def _fill(folder: Path, pixel_nm: omezarr.PixelNm | None, name: str, threads: int) -> None:
    """Write an image anew, with the mean of its other pixels where one is not finite."""
    array = array_of(zarr.open_group(folder, mode="r"), "0")
    kept = [band[np.isfinite(band)] for band in omezarr.bands_of(array)]
    value = sum(float(some.sum(dtype=np.float64)) for some in kept) / sum(some.size for some in kept)
    filled = (np.where(np.isfinite(band), band, np.float32(value)) for band in omezarr.bands_of(array))
    other = folder.with_name(f"{folder.name}-filled")
    shape = (array.shape[0], array.shape[1])
    omezarr.write_bands(other, filled, shape, array.dtype, pixel_nm, name=name, threads=threads)
    shutil.rmtree(folder)
    other.rename(folder)
