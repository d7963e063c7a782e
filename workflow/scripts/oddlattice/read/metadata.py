"""What a file tells beside its pixels: labels, detector, time, and all of its tags in limited size."""

import math
from typing import Any

import numpy as np

_METADATA_BYTES = 64_000
_LONGEST_TEXT = 2_000
_LONGEST_LIST = 64


def text(value: object) -> str:
    """A label from a file as text on one line; anything that is no text ("<undefined>" of traits) as nothing."""
    if not isinstance(value, str):
        return ""
    cleaned = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in cleaned).split())[:200]


def detector(original: dict[str, Any], name: str) -> str:
    """The detector's name: Velox gives it as the title; DigitalMicrograph in one of several tags, if at all."""
    if "BinaryResult" in original:
        return text(original["BinaryResult"].get("Detector", "")) or name
    tags = original
    for key in ("ImageList", "TagGroup0", "ImageTags"):
        tags = tags.get(key, {}) if isinstance(tags, dict) else {}
    for way in (
        ("DataBar", "Signal Name"),
        ("DigiScan", "Signal Name"),
        ("QuickSaved", "Temp-Tags", "Detector"),
        ("Acquisition", "Device", "Name"),
    ):
        found: Any = tags
        for key in way:
            found = found.get(key) if isinstance(found, dict) else None
        if text(found):
            return text(found)
    return ""


def acquired(date: str, time: str, original: dict[str, Any]) -> str:
    """When an image was taken, as ISO time; "" where the file does not tell."""
    if not date:
        return ""
    zone = "+00:00" if "BinaryResult" in original and time else ""  # Velox keeps seconds since 1970, read here in UTC
    return f"{date}T{time}{zone}" if time else date


def limited(metadata: dict[str, Any], budget: int = _METADATA_BYTES) -> dict[str, Any]:
    """Metadata as JSON can hold it, in about `budget` bytes; what is left out is counted under "_left_out".

    The image's own tags come before windows, rulers and printers.
    """
    left = [budget, 0]
    first = sorted(metadata, key=lambda key: key not in ("ImageList", "BinaryResult", "Scan", "Optics", "Detectors"))
    kept = {_key(key): _jsonable(metadata[key], left) for key in first if _spend(left, len(str(key)))}
    if left[1]:
        kept["_left_out"] = left[1]
    return kept


def _key(key: object) -> str:
    return str(key).encode("utf-8", "backslashreplace").decode("utf-8")[:_LONGEST_TEXT]


def _spend(left: list[int], cost: int) -> bool:
    """Take `cost` bytes from the budget; when it is used up count one item as left out."""
    left[0] -= cost + 6
    if left[0] < 0:
        left[1] += 1
    return left[0] >= 0


def _jsonable(value: Any, left: list[int], depth: int = 0) -> Any:
    if isinstance(value, dict):
        if depth > 30:
            return "..."
        return {
            _key(key): _jsonable(item, left, depth + 1) for key, item in value.items() if _spend(left, len(str(key)))
        }
    if isinstance(value, np.ndarray | list | tuple):
        if len(np.shape(value) if isinstance(value, np.ndarray) else ()) > 1 or len(value) > _LONGEST_LIST:
            return f"({len(value)} values)"
        return [_jsonable(item, left, depth + 1) for item in value if _spend(left, 8)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    kept = str(value)[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")
    return kept if _spend(left, len(kept)) else "..."
