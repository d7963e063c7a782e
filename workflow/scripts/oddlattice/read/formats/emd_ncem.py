"""EMD of the Berkeley lab (.emd): plain HDF5 groups of an array and its axes."""

from pathlib import Path

from oddlattice.read.signals import Signal, loaded, signal_of

MODULES = ("rsciio.emd._api", "rsciio.emd._emd_ncem")


def load(path: Path) -> list[Signal]:
    """Read all signals of a checked file, lazily."""
    return [signal_of(i, s) for i, s in enumerate(loaded(path, file_format="EMD", stack_group=False))]
