"""A virtual annular dark-field detector: an image from a diffraction pattern at every place of the scan (4D-STEM).

The detector is told in radii of the bright-field disk, which is the convergence angle: that needs no calibration.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from oddlattice.numerics.arrays import Array, Bools
from oddlattice.read.calibration import length_nm
from oddlattice.read.signals import Axis, Signal
from oddlattice.storage.omezarr import computed

#: What is held in memory of the patterns at a time [bytes].
AT_ONCE_BYTES = 64 << 20
PATTERNS = 400  # of which the mean shows the bright-field disk, evenly taken
DISK_EDGE = 0.5  # of the disk's usual brightness: there it ends
LEAST_CONTRAST = 2.0  # of the disk over what lies far from it
LEAST_RING_PX = 50  # detector pixels that an annulus needs


def is_four_dimensional(signal: Signal) -> bool:
    """Whether a signal has a pattern of intensities at every place of a scan."""
    return not signal.refusal and signal.data.ndim == 4 and signal.data.dtype.kind in "biuf"


def dark_field(signal: Signal, disks: tuple[float, float]) -> Signal:
    """The image of a virtual annular detector, or the signal with the reason why there is none.

    Parameters
    ----------
    signal : Signal
        Of four dimensions, see `is_four_dimensional`.
    disks : tuple of float
        Inner and outer radius of the annulus, in radii of the bright-field disk. Where the patterns end before the
        outer radius, so does the annulus.
    """
    scan, patterns = scan_axes(signal.axes)
    data = signal.data.transpose([*scan, *patterns])
    try:
        middle, radius_px = bright_disk(mean_pattern(data))
    except ValueError as error:
        return replace(signal, refusal=f"is 4D-STEM, and no dark-field image can be made of it: {error}")
    ring = annulus(data.shape[2:], middle, disks[0] * radius_px, disks[1] * radius_px)
    if ring.sum() < LEAST_RING_PX:
        return replace(
            signal,
            refusal=f"is 4D-STEM, and no dark-field image can be made of it: beyond {disks[0]:g} radii of the "
            f"bright-field disk ({radius_px:.1f} px) its patterns have {int(ring.sum())} px; "
            f"{LEAST_RING_PX} are needed",
        )
    reach = float(np.hypot(*(np.argwhere(ring) - middle).T).max() / radius_px)
    name = f"virtual annular dark field, {disks[0]:.3g} to {min(disks[1], reach):.3g} convergence angles"
    title = f"{signal.name}, {name}" if signal.name else name
    axes = tuple(signal.axes[axis] for axis in scan)
    return replace(signal, data=summed(data, ring), axes=axes, dimension=2, name=title, detector=name)


def scan_axes(axes: tuple[Axis, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Which two of four axes are the scan's and which the pattern's: by navigation, by units of length, or in order."""
    for told in (
        [k for k, axis in enumerate(axes) if axis.navigate],
        [k for k, axis in enumerate(axes) if length_nm(axis.scale, axis.units) is not None],
    ):
        if len(told) == 2:
            rest = [k for k in range(4) if k not in told]
            return (told[0], told[1]), (rest[0], rest[1])
    return (0, 1), (2, 3)


def mean_pattern(data: Any) -> Array:
    """Mean of some patterns of (rows, cols, detector rows, detector cols), evenly taken."""
    step = max(1, round((data.shape[0] * data.shape[1] / PATTERNS) ** 0.5))
    lines = [computed(data[row, step // 2 :: step]) for row in range(step // 2, data.shape[0], step)]
    return np.asarray(np.concatenate(lines).mean(axis=0, dtype=np.float64))


def bright_disk(pattern: Array) -> tuple[Array, float]:
    """Middle (row, col) [px] and radius [px] of the bright-field disk of a mean pattern (rows, cols).

    Raises
    ------
    ValueError
        The pattern shows none.
    """
    smooth = ndimage.gaussian_filter(pattern, 1.0)
    floor, top = np.percentile(smooth, [10, 99.9])
    usual = np.median(smooth[smooth > floor + DISK_EDGE * (top - floor)]) if top > floor else floor
    labels, number = ndimage.label(smooth > floor + DISK_EDGE * (usual - floor))
    sizes = np.bincount(labels.ravel())[1:]
    if not number or sizes.max() > 0.5 * pattern.size or usual < LEAST_CONTRAST * floor:
        raise ValueError("its mean pattern shows no bright-field disk")
    largest = labels == 1 + int(sizes.argmax())
    return np.asarray(ndimage.center_of_mass(largest)), float(np.sqrt(sizes.max() / np.pi))


def annulus(shape: tuple[int, ...], middle: Array, inner_px: float, outer_px: float) -> Bools:
    """Pixels of a pattern between two radii about its middle."""
    away = np.hypot(*(line - at for line, at in zip(np.indices(shape), middle, strict=True)))
    return np.asarray((away >= inner_px) & (away < outer_px))


def summed(data: Any, ring: Bools) -> Array:
    """Counts on the ring at every place of the scan, float32 of shape (rows, cols)."""
    weight = ring.ravel().astype(np.float64)
    lines = [np.concatenate([part.reshape(len(part), -1) @ weight for part in _parts(line)]) for line in data]
    return np.asarray(lines, dtype=np.float32)


def _parts(line: Any) -> Iterator[Array]:
    """Patterns of a line of the scan, as many at a time as memory allows."""
    number = max(1, AT_ONCE_BYTES // max(1, line.nbytes // line.shape[0]))
    for start in range(0, line.shape[0], number):
        yield computed(line[start : start + number])
