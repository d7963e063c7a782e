"""A row of a table, or what is said of an image: values by name."""

from typing import Any

Row = dict[str, Any]
