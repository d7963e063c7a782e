"""JSON: the same bytes for the same value; what is not finite becomes null."""

import json
import math
from typing import Any


def without_nan(value: Any) -> Any:
    """`value` with every float that is not finite replaced by None, for JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def shortened(value: Any) -> Any:
    """`value` with every float to nine significant digits: half of the room, and more than any of them is known to."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: shortened(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(v) for v in value]
    return value


def json_text(value: Any) -> str:
    """JSON in ASCII, the same bytes for the same value; numbers that are not finite become null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # something is not finite
        return json.dumps(without_nan(value), separators=(",", ":"), allow_nan=False)


def json_lines(value: dict[str, Any]) -> str:
    """`json_text` for files: a line for every key, and for every element of a list of objects.

    Python's own indentation takes twelve times as long, and gives every number a line.
    """
    return "{\n" + ",\n".join(f"{json_text(str(key))}: {_lines(found)}" for key, found in value.items()) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f" {json_text(one)}" for one in value) + "\n]"
    return json_text(value)


def json_indented(value: Any) -> str:
    """JSON for people, in lines as short as can be."""
    return json.dumps(without_nan(value), indent=1, allow_nan=False)
