"""EMD of the Berkeley lab (.emd): plain HDF5 groups of an array and its axes."""

from pathlib import Path

from oddlattice.read.signals import Signal, loaded, signal_of

MODULES = ("rsciio.emd._api", "rsciio.emd._emd_ncem")


def is_one(path: Path) -> bool:
    """Whether an HDF5 file is an EMD, by its version or by one of its groups."""
    from rsciio.emd._api import is_EMD_NCEM

    return bool(is_EMD_NCEM(str(path)))


def load(path: Path) -> list[Signal]:
    """Read all signals of a checked file, lazily."""
    return [signal_of(i, s) for i, s in enumerate(loaded(path, file_format="EMD", stack_group=False))]
