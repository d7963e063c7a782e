"""When the frames of a stack were taken and how many electrons each of them cost, as far as the file's own tags say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oddlattice.lattice.pixel_size import PixelNm

ELEMENTARY_CHARGE_C = 1.602176634e-19  # exact, SI 2019


@dataclass(frozen=True)
class Dose:
    """What a frame cost.

    Attributes
    ----------
    frame_s : float or None
        From the beginning of a frame to that of the next [s].
    e_per_nm2 : float or None
        Electrons per area of a frame.
    source : str
        What both were taken from; "" where neither is known.
    """

    frame_s: float | None = None
    e_per_nm2: float | None = None
    source: str = ""


def _number(tags: Any, *way: str) -> float | None:
    """A positive number in nested tags; None where there is none."""
    for key in way:
        tags = tags.get(key) if isinstance(tags, Mapping) else None
    try:
        value = float(tags)
    except (TypeError, ValueError):
        return None
    return value if 0 < value < float("inf") else None


def _of_tags(tags: Mapping[str, Any], pixels: int) -> tuple[float | None, float | None, float | None, str]:
    """Time of a frame [s], dwell time of a pixel [s], beam current [A], and what the current is, by a file's tags."""
    if "BinaryResult" in tags:  # Velox
        current = _number(tags, "Optics", "ScreenCurrent")
        return _number(tags, "Scan", "FrameTime"), _number(tags, "Scan", "DwellTime"), current, "screen current"
    image = tags.get("ImageList", {})
    image = image.get("TagGroup0", {}).get("ImageTags", {}) if isinstance(image, Mapping) else {}
    dwell_us = _number(image, "DigiScan", "Sample Time")
    current_na = _number(image, "Microscope Info", "Probe Current (nA)")
    dwell = None if dwell_us is None else 1e-6 * dwell_us
    current = None if current_na is None else 1e-9 * current_na
    return None if dwell is None else dwell * pixels, dwell, current, "probe current"


def dose_of(tags: Mapping[str, Any], shape: tuple[int, int], pixel_nm: PixelNm | None) -> Dose:
    """Time and dose of a frame of `shape` [px] by the file's tags; what they do not state stays None.

    Velox: frame time, dwell time and screen current; DigitalMicrograph: sample time of DigiScan, times the pixels (what
    the beam does between the lines is left out), and probe current. A header's current is what was measured last, not
    while the stack was taken.
    """
    frame_s, dwell_s, current_a, name = _of_tags(tags, shape[0] * shape[1])
    said = []
    if frame_s is not None:
        said.append(f"{frame_s:.3g} s a frame")
    dose = None
    if dwell_s is not None and current_a is not None and pixel_nm is not None:
        dose = current_a * dwell_s / ELEMENTARY_CHARGE_C / (pixel_nm[0] * pixel_nm[1])
        said.append(f"{1e12 * current_a:.3g} pA ({name} measured last) for {1e6 * dwell_s:.3g} µs a pixel")
    return Dose(frame_s, dose, "; ".join(said))
