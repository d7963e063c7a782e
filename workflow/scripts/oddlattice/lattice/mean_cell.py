"""The mean unit cell of an image: a short Fourier series over the lattice coordinates (u, v), fitted to the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.crystal import PX_PER_CELL, PxPerCell
from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.frame import Frame, lifted
from oddlattice.lattice.grid import strips
from oddlattice.numerics.arrays import Array, Complex, Float
from oddlattice.numerics.compiled import compiled

TABLE = 256  # steps of the look-up table along u and v
BINS = 32  # bins of a cell along u and v into which pixels are gathered
HIGHEST_ORDER = 4.6  # harmonics kept, in units of 1/sqrt(cell area); columns are about 0.1 cell wide (rms)
HIGHEST_FREQUENCY = 0.46  # [cycles/px]
GOOD = 0.6  # quality of the lattice from which pixels make the mean cell
BINNED_PX = 1 << 20  # pixels that make the mean cell; more would not make it better than its systematic errors


@dataclass(frozen=True)
class MeanCell:
    """Mean cell of an image as a Fourier series: value(u, v) = 1 + Re sum_h c_h exp(2 pi i h.(u, v)).

    Attributes
    ----------
    orders : ndarray of shape (n, 2), int
        Harmonics h, one of each pair h, -h.
    amplitudes : ndarray of shape (n,), complex
        c_h, relative to the local mean.
    noise : float
        Standard error of one c_h (real and imaginary part each).
    """

    orders: npt.NDArray[np.int64]
    amplitudes: Complex
    noise: float

    def at(self, u: Array, v: Array) -> Array:
        """Value at lattice coordinates of any common shape."""
        phase = 2 * np.pi * (self.orders[:, 0] * u[..., None] + self.orders[:, 1] * v[..., None])
        return np.asarray(1 + np.cos(phase) @ self.amplitudes.real - np.sin(phase) @ self.amplitudes.imag)

    def table(self, shape: tuple[int, int], derivative: tuple[int, int] = (0, 0)) -> Array:
        """Deviation from 1, or its first derivative by u or v, at ((i + 0.5)/n, (j + 0.5)/m); shape (n, m)."""
        (n, m), common = shape, int(np.lcm(*shape))
        spectrum = np.zeros(shape, dtype=complex)
        phase = np.exp(1j * np.pi * (self.orders * (common // n, common // m)).sum(1) / common)
        factor = (2j * np.pi * self.orders[:, 0]) ** derivative[0] * (2j * np.pi * self.orders[:, 1]) ** derivative[1]
        spectrum[self.orders[:, 0] % n, self.orders[:, 1] % m] = self.amplitudes * phase * factor
        return np.asarray(np.fft.ifft2(spectrum).real * n * m)

    @cached_property
    def tables(self) -> Float:
        """Look-up table of the deviation and its derivatives by u and v; shape (TABLE * TABLE, 3)."""
        layers = [self.table((TABLE, TABLE), by).astype(np.float32).ravel() for by in ((0, 0), (1, 0), (0, 1))]
        return np.ascontiguousarray(np.stack(layers, axis=1))

    @cached_property
    def values(self) -> Float:
        """The first column of `tables`: the deviation alone; shape (TABLE * TABLE,)."""
        return np.ascontiguousarray(self.tables[:, 0])

    def cell(self, px_per_cell: PxPerCell = PX_PER_CELL) -> Array:
        """The mean cell as a tile shows it; shape `px_per_cell`, mean 1."""
        return 1 + self.table(px_per_cell)

    def moved(self, shift: Array) -> "MeanCell":
        """The same cell with the origin moved to `shift` (u, v)."""
        turn = np.exp(2j * np.pi * self.orders @ np.asarray(shift))
        return MeanCell(self.orders, self.amplitudes * turn, self.noise)


def harmonics(vectors_px: Array) -> npt.NDArray[np.int64]:
    """Harmonics that the image resolves, one of each pair h, -h; shape (n, 2)."""
    reciprocal = np.linalg.inv(vectors_px).T
    limit = min(HIGHEST_FREQUENCY, HIGHEST_ORDER / np.sqrt(abs(np.linalg.det(vectors_px))))
    reach = int(np.ceil(limit * max(np.hypot(*vectors_px[0]), np.hypot(*vectors_px[1])))) + 1
    grid = np.array([(h, k) for h in range(reach + 1) for k in range(-reach, reach + 1) if h > 0 or k > 0])
    return np.asarray(grid[np.hypot(*(grid @ reciprocal).T) <= limit])


def fit_mean_cell(value: Array, count: Array, place: Array, square: float, vectors_px: Array) -> MeanCell:
    """Fit the series to binned pixels.

    Parameters
    ----------
    value : ndarray of shape (n,)
        Mean relative deviation of the pixels in each bin.
    count : ndarray of shape (n,)
        Pixels in each bin.
    place : ndarray of shape (n, 2)
        Mean (u, v) of the pixels in each bin.
    square : float
        Mean square of the deviation over all pixels.
    vectors_px : ndarray of shape (2, 2)
        Decides which harmonics are resolved.
    """
    orders = harmonics(vectors_px)
    full = count > 0
    value, count, place = value[full], count[full], place[full]
    orders = orders[: max((int(full.sum()) - 4) // 4, 1)] if full.sum() < 4 * len(orders) else orders
    phase = 2 * np.pi * place @ orders.T
    design = np.concatenate([np.ones((len(value), 1)), np.cos(phase), -np.sin(phase)], axis=1)
    root = np.sqrt(count)[:, None]
    normal = (design * root).T @ (design * root)
    ridge = 1e-6 * count.sum() * np.eye(design.shape[1])
    solution = np.linalg.solve(normal + ridge, (design * count[:, None]).T @ value)
    n = len(orders)
    fitted = design @ solution
    residual = max(square - float((count * fitted**2).sum() / count.sum()), 0.0)
    noise = float(np.sqrt(2 * residual / count.sum()))
    return MeanCell(orders, solution[1 : n + 1] + 1j * solution[n + 1 :], noise)


@compiled("void(float64[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1])")
def _gather(sums: Array, deviation: Float, quality: Float, u: Float, v: Float, inverse: Float) -> None:
    """Add pixels of good lattice to bins (BINS * BINS, 4) of the cell: count, deviation, u, v.

    `inverse` takes (u, v) to the coordinates of the cell.
    """
    least, most = np.float32(GOOD), np.int32(BINS - 1)
    for r in range(deviation.shape[0]):
        for c in range(deviation.shape[1]):
            if quality[r, c] > least:
                at_u = u[r, c] * inverse[0, 0] + v[r, c] * inverse[1, 0]
                at_v = u[r, c] * inverse[0, 1] + v[r, c] * inverse[1, 1]
                at_u -= np.floor(at_u)
                at_v -= np.floor(at_v)
                i = min(np.int32(at_u * np.float32(BINS)), most)
                bin_sums = sums[i * BINS + min(np.int32(at_v * np.float32(BINS)), most)]
                bin_sums[0] += 1
                bin_sums[1] += deviation[r, c]
                bin_sums[2] += at_u
                bin_sums[3] += at_v


def peaks_of_mean_cell(mean_cell: Array) -> list[tuple[float, float, float]]:
    """Columns seen in a mean cell, to propose the columns of a new crystal.

    Parameters
    ----------
    mean_cell : ndarray of shape (n, n)
        Mean cell; pixel k has its centre at (k + 0.5) / n.

    Returns
    -------
    list of (u, v, relative intensity)
        Brightest first, relative to the brightest; heights above the lowest value of the cell. Maxima lower than
        12 % of the brightest are left out.
    """
    n, m = mean_cell.shape
    wide = np.pad(np.asarray(mean_cell, dtype=float), 2, mode="wrap")
    floor = float(mean_cell.min())
    top = float(mean_cell.max()) - floor
    found = []
    peaks = wide == ndimage.maximum_filter(wide, size=3)
    for i, j in np.argwhere(peaks):
        if not (2 <= i < n + 2 and 2 <= j < m + 2) or wide[i, j] - floor < 0.12 * top:
            continue
        di = _vertex(wide[i - 1, j], wide[i, j], wide[i + 1, j])
        dj = _vertex(wide[i, j - 1], wide[i, j], wide[i, j + 1])
        u, v = ((i - 2 + di + 0.5) / n) % 1.0, ((j - 2 + dj + 0.5) / m) % 1.0
        found.append((float(u), float(v), float((wide[i, j] - floor) / top)))
    return sorted(found, key=lambda peak: -peak[2])


def _vertex(left: float, middle: float, right: float) -> float:
    bend = left - 2 * middle + right
    return float(0.5 * (left - right) / bend) if bend < 0 else 0.0


def _sampled_strips(shape: tuple[int, int]) -> list[slice]:
    """Strips of rows, spread over the image, that hold about BINNED_PX pixels."""
    parts = list(strips(shape))
    pixels = shape[0] * shape[1]
    if pixels <= 1.3 * BINNED_PX:
        return parts
    height = max(parts[0].stop // 8, 8)
    count = max(BINNED_PX // (height * shape[1]), 1)
    starts = np.linspace(0, shape[0] - height, count).astype(int)
    return [slice(int(s), int(s) + height) for s in starts]


def measure_mean_cell(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    cells: Sequence[npt.NDArray[np.int64]],
    row_shift_px: Array | None = None,
) -> list[MeanCell]:
    """Mean cell of an image on its frame, for each of several cells of the lattice (rows in steps of the frame's)."""
    uv, quality = lifted(flattener, frame)
    per_col = np.linalg.inv(frame.vectors_px)[1]
    sums = [np.zeros((4, BINS * BINS)) for _ in cells]
    square, pixels = 0.0, 0.0
    for rows in _sampled_strips(frame.shape):
        flat = flattener.flat(image, rows)
        u, v = uv.strip(rows)
        if row_shift_px is not None:
            shift = row_shift_px[rows, None].astype(np.float32)
            u, v = u + shift * np.float32(per_col[0]), v + shift * np.float32(per_col[1])
        here = quality.strip(rows)[0]
        good = flat[here > GOOD]
        square += float((good.astype(np.float64) ** 2).sum())
        pixels += good.size
        for total, cell in zip(sums, cells, strict=True):
            part = np.zeros((BINS * BINS, 4))
            _gather(part, flat, here, u, v, np.linalg.inv(cell).astype(np.float32))
            total += part.T
    if pixels < 100:
        raise NoLatticeError("no lattice: no part of the image is crystalline enough to make a mean cell")
    result = []
    for total, cell in zip(sums, cells, strict=True):
        count = np.maximum(total[0], 1e-9)
        result.append(
            fit_mean_cell(total[1] / count, total[0], (total[2:] / count).T, square / pixels, cell @ frame.vectors_px)
        )
    return result
