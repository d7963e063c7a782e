"""The formats that are read."""

from pathlib import Path

from oddlattice.read.formats import dm, emd_ncem, emd_velox
from oddlattice.read.signals import Signal


def load(path: Path, kind: str) -> list[Signal]:
    """Read all signals of a checked file, lazily.

    Parameters
    ----------
    path : Path
        A plain name, see checks.safe_name.
    kind : str
        "dm" or "emd", see checks.family.

    Raises
    ------
    Refused
        If the file claims more data than it is long.
    Exception
        Whatever the reader raises.
    """
    if kind == "dm":
        return dm.load(path)
    if emd_velox.is_velox(path):
        return emd_velox.load(path)
    return emd_ncem.load(path)
