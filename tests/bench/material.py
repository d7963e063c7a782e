"""Files to measure with: scans of any size, drawn in seconds, because their lattice repeats after a whole number of px.

The lattice vectors are (p, q) and (-q, p) px, so a block of p^2 + q^2 px a side repeats without a seam: a scan of 16k
is its rows laid side by side, each shifted by its own jitter, with counting noise and with changed columns.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from oddlattice.crystal import Crystal, column_nm2, load_crystal
from support.raw_files import write_dm

Float = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[2]
CRYSTAL = ROOT / "models/srtio3_001/crystal.yaml"
DOSE = 400.0  # electrons in the mean pixel
JITTER_PM = 4.0
BLUR_NM = 0.035
BACKGROUND = 0.15  # of the mean
BAND_PX = 512
ONE_IN = 1000  # one column in so many is changed


@dataclass(frozen=True)
class Lattice:
    """Vectors (p, q) and (-q, p) [px]."""

    p: int = 24
    q: int = 7

    @property
    def repeat_px(self) -> int:
        return self.p**2 + self.q**2

    @property
    def cell_px(self) -> float:
        return float(np.hypot(self.p, self.q))


def columns_in_block(crystal: Crystal, lattice: Lattice) -> tuple[Float, Float, Float]:
    """Places (n, 2) [px], rms widths (n,) [px] and integrals (n,) of the columns of one block."""
    n = lattice.repeat_px
    vectors = np.array([[lattice.p, lattice.q], [-lattice.q, lattice.p]], dtype=float)
    span = np.arange(-n, n + 1)
    steps = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)
    corner = steps @ vectors
    corner = corner[((corner >= 0) & (corner < n)).all(1)]
    assert len(corner) == n, f"{len(corner)} cells in a block of {n} px"
    pixel_nm = crystal.a_nm / lattice.cell_px
    places, widths, weights = [], [], []
    for column in crystal.columns:
        places.append(corner + np.array([column.u, column.v]) @ vectors)
        widths.append(np.full(n, np.hypot(BLUR_NM, column.rms_nm) / pixel_nm))
        weights.append(np.full(n, column_nm2(column)))
    return np.concatenate(places), np.concatenate(widths), np.concatenate(weights)


@cache
def block(lattice: Lattice) -> Float:
    """Expectation of one block, mean 1; shape (repeat, repeat)."""
    n = lattice.repeat_px
    places, widths, weights = columns_in_block(load_crystal(CRYSTAL), lattice)
    total = np.zeros((n, n))
    for (row, col), width, weight in zip(places, widths, weights, strict=True):
        reach = int(np.ceil(5 * width))
        at_row = np.arange(int(row) - reach, int(row) + reach + 1)
        at_col = np.arange(int(col) - reach, int(col) + reach + 1)
        peak = np.exp(-((at_row[:, None] - row) ** 2 + (at_col - col) ** 2) / (2 * width**2))
        total[np.ix_(at_row % n, at_col % n)] += weight * peak / (2 * np.pi * width**2)
    return BACKGROUND + (1 - BACKGROUND) * total / total.mean()


def bands(shape: tuple[int, int], seed: int, lattice: Lattice) -> Iterator[npt.NDArray[np.uint16]]:
    """Bands of rows of one scan."""
    rng = np.random.default_rng(seed)
    n = lattice.repeat_px
    start = rng.integers(0, n, 2)
    pixel_pm = 1000 * load_crystal(CRYSTAL).a_nm / lattice.cell_px
    spectrum = np.fft.rfft(block(lattice), axis=1)
    waves = -2j * np.pi * np.fft.rfftfreq(n)
    for first in range(0, shape[0], BAND_PX):
        rows = np.arange(first, min(first + BAND_PX, shape[0]))
        shift = rng.normal(0.0, JITTER_PM / pixel_pm, len(rows))
        lines = np.fft.irfft(spectrum[(rows + start[0]) % n] * np.exp(waves * shift[:, None]), n, axis=1)
        expected = lines[:, (np.arange(shape[1]) + start[1]) % n] * DOSE
        change(expected, rng, lattice)
        # counting noise: at these counts normal, and drawn ten times faster than Poisson's
        noise = rng.standard_normal(expected.shape, dtype=np.float32)
        yield np.maximum(np.rint(expected + noise * np.sqrt(expected)), 0).astype(np.uint16)


def change(expected: Float, rng: np.random.Generator, lattice: Lattice) -> None:
    """Empty some columns of a band, in place: the brightest pixels of a column fall to the background."""
    number = round(expected.size / lattice.cell_px**2 * 2 / ONE_IN)
    reach = int(lattice.cell_px / 4)
    rows, cols = expected.shape
    if rows <= 4 * reach:
        return
    for row, col in zip(
        rng.integers(2 * reach, rows - 2 * reach, number),
        rng.integers(2 * reach, cols - 2 * reach, number),
        strict=True,
    ):
        near = expected[row - reach : row + reach + 1, col - reach : col + reach + 1]
        peak = np.array(np.unravel_index(near.argmax(), near.shape)) - reach + [row, col]
        at = np.arange(-reach, reach + 1)
        fade = np.exp(-(at[:, None] ** 2 + at**2) / (2 * (reach / 2) ** 2))
        place = np.s_[peak[0] - reach : peak[0] + reach + 1, peak[1] - reach : peak[1] + reach + 1]
        part = expected[place]
        part -= fade[: part.shape[0], : part.shape[1]] * (part - part.min())


def scan(shape: tuple[int, int], seed: int = 0, lattice: Lattice | None = None) -> npt.NDArray[np.uint16]:
    """A whole scan."""
    return np.concatenate(list(bands(shape, seed, lattice or Lattice())))


def write_scan(path: Path, shape: tuple[int, int], seed: int = 0, lattice: Lattice | None = None) -> None:
    """A scan as .dm4 with its pixel size."""
    lattice = lattice or Lattice()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dm(path, scan(shape, seed, lattice), load_crystal(CRYSTAL).a_nm / lattice.cell_px)


def write_archive(folder: Path, number: int, shape: tuple[int, int]) -> None:
    """An archive of `number` scans, each its own noise; every one after the first 50 is a copy of an earlier one."""
    drawn = min(number, 50)
    for k in range(drawn):
        write_scan(folder / f"{k:04d}.dm4", shape, seed=k)
    for k in range(drawn, number):
        shutil.copyfile(folder / f"{k % drawn:04d}.dm4", folder / f"{k:04d}.dm4")


def config_file(folder: Path, archive: Path, **sections: object) -> Path:
    """A config file for an archive whose files need not settle."""
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump({"archive": str(archive), "settle_s": 0, **sections}), encoding="utf-8")
    return path
