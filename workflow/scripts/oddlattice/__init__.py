"""oddlattice: finds what does not belong in atomic-resolution STEM images.

    import oddlattice

    results = oddlattice.open("results")

gives the images, maps and defects of a run as arrays and tables with units; see `oddlattice.results.Results`.
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddlattice.results import Results

__version__ = "0.1.0"


def open(path: str | PathLike[str] = "results") -> "Results":  # noqa: A001 (as in h5py and zarr)
    """Open the results of a run, by their folder; arrays and tables are read when they are asked for.

    Raises
    ------
    FileNotFoundError
        If the folder holds no results.
    """
    from oddlattice.results import Results  # here, not above: every script imports this package

    return Results(path)
