"""The row of an image, or of what is none."""

from collections.abc import Mapping
from typing import Any

from oddlattice.storage.rows import Row


def row(file: Mapping[str, Any], image_id: str, signal: str, frame: int, reason: str, scan_id: str = "") -> Row:
    """A row of products.READ; an image was read when there is no reason against it."""
    return {
        "image_id": image_id,
        "file_id": file["file_id"],
        "scan_id": scan_id,
        "path": file["path"],
        "signal": signal,
        "frame": frame,
        "state": "rejected" if reason else "read",
        "reason": reason,
    }
