"""Sets of crops from a folder of .npy files, checked; a light module, for the rule file imports it too."""

from pathlib import Path

import numpy as np

from oddlattice.numerics.arrays import Float

SIDE_PX = 64
TRAIN, TEST = "bulk_train", "bulk_test"
FEWEST = 20  # crops of a set


class CropsError(ValueError):
    """A folder of crops cannot be used; the message names file, what was found and what is needed."""


def read_set(path: Path) -> Float:
    """Read one set of crops (n, 64, 64).

    Raises
    ------
    CropsError
        If the file is no such array of finite numbers.
    """
    needed = f"needed a .npy array of finite numbers of shape (N, {SIDE_PX}, {SIDE_PX}), N at least {FEWEST}"
    try:
        found = np.lib.format.open_memmap(path, mode="r")  # of .npy files only, and never of pickled objects
    except (OSError, ValueError) as error:
        raise CropsError(f"{path}: found {' '.join(str(error).split())}; {needed}") from None
    if found.ndim != 3 or found.shape[1:] != (SIDE_PX, SIDE_PX) or len(found) < FEWEST:
        raise CropsError(f"{path}: found shape {found.shape}; {needed}")
    if found.dtype.kind not in "iuf":
        raise CropsError(f"{path}: found dtype {found.dtype}; {needed}")
    crops = np.asarray(found, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(crops).all(axis=(1, 2)))
    if len(bad):
        raise CropsError(
            f"{path}: found values that are not finite in {len(bad)} crops, first in crop {bad[0]}; {needed}"
        )
    flat = np.flatnonzero(np.ptp(crops, axis=(1, 2)) == 0)
    if len(flat):
        raise CropsError(f"{path}: found {len(flat)} crops of one value, first crop {flat[0]}; needed images")
    return crops


def read_sets(folder: Path) -> dict[str, Float]:
    """Read all sets of a folder: bulk_train and bulk_test first, then every other by name.

    Raises
    ------
    CropsError
        If the folder, one of the two bulk sets or every defect is missing, or a file cannot be used.
    """
    if not folder.is_dir():
        raise CropsError(f"{folder}: found no folder; needed one with {TRAIN}.npy, {TEST}.npy and one .npy per defect")
    names = sorted(path.stem for path in folder.glob("*.npy"))
    missing = [f"{name}.npy" for name in (TRAIN, TEST) if name not in names]
    if missing or len(names) < 3:
        found = ", ".join(f"{name}.npy" for name in names) or "no .npy file"
        raise CropsError(f"{folder}: found {found}; needed {TRAIN}.npy, {TEST}.npy and at least one defect's .npy")
    ordered = [TRAIN, TEST, *(name for name in names if name not in (TRAIN, TEST))]
    return {name: read_set(folder / f"{name}.npy") for name in ordered}
