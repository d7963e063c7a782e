"""Registration of an image onto a crystal: frame, origin, row shifts, local mean, mask; and the tiles cut with them.

`fit_registration` measures everything from the image, strip by strip; `render` cuts any window of cells from it;
`register` does both and returns arrays.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from oddlattice.crystal import LEAST_CELLS, PX_PER_CELL, Crystal, PxPerCell
from oddlattice.lattice.flyback import bent_ends_px
from oddlattice.lattice.fourier import Lattice, Match, NoLatticeError, describe, find_lattice, matches, not_atomic
from oddlattice.lattice.frame import Flattener, Frame, fit_flattener, fit_frame, flat_strip, lifted, strips
from oddlattice.lattice.line_gain import line_gain
from oddlattice.lattice.mean_cell import BINS, MeanCell, fit_mean_cell, gather, peaks_of_mean_cell
from oddlattice.lattice.origin import OriginFit, fit_origin
from oddlattice.lattice.record import Record
from oddlattice.lattice.resample import inside_cells, nodes_of
from oddlattice.lattice.scan_lines import (
    CellStatistics,
    ColumnShifts,
    coarse_row_shifts,
    fine_pass,
    shrunk,
    slow_part,
    with_slow_rows,
)
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.local_plane import local_plane
from oddlattice.run.stage_settings import TileSettings
from oddlattice.storage.windows import Scaled, Transposed

MOST_CUTS = 4  # half periods that may be left out at the ends of lines
LOCAL_MEAN_CELLS = 3.0  # rms width over which the local mean is taken
LARGEST_PERIOD_NM = 1.5  # ASSUME: primitive cells in projection are smaller, unless a crystal in use says otherwise
SCAN_PX = 384  # side of the part of an image that tells along which direction it was scanned
USUAL = TileSettings(length_tolerance=0.10, strain_tolerance=0.12, content_minimum=0.6)  # as shipped
BINNED_PX = 1 << 20  # pixels that make the mean cell; more would not make it better than its systematic errors


#: Misfit of a mean cell (n_u, n_v), mean 1 and the crystal's column at its corner, to the model of a crystal, over the
#: model's limit; the last argument is the ratio of the principal stretches between crystal and image.
Judge = Callable[[Crystal, Array, float], float]


class NoModelError(ValueError):
    """The lattice is none of the crystals'; the message says what was found."""

    def __init__(self, message: str, frame: Frame | None = None) -> None:
        super().__init__(message)
        self.frame = frame


@dataclass(frozen=True)
class Registration:
    """All that is needed to cut tiles from an image. Cell (0, 0) of the arrays is cell `first` of the frame.

    Attributes
    ----------
    frame : Frame
    crystal : Crystal or None
    origin_fit : OriginFit or None
    mean_cell : MeanCell
    first : tuple of int
        Lattice coordinates of the corner of the first cell.
    nodes_px : ndarray of shape (2, U + 1, V + 1)
        (row, col) of the cells' corners [px], row shifts not included.
    row_shift_px : ndarray of shape (rows,)
        Of each line of the scan: of each column, shape (cols,), where the scan is `transposed`.
    row_sigma_px : float
        Median standard error of a row shift [px]; nan when none was measured.
    local_mean : ndarray of shape (U, V)
        [counts]
    pedestal : float
        Counts added before dividing by the mean, where the image has no positive mean.
    mask : ndarray of shape (U, V), bool
    inside : ndarray of shape (U, V), bool
        Cells that lie in the image.
    amplitude : ndarray of shape (U, V)
        Contrast of each cell, 1 in good crystal.
    shift_uv : ndarray of shape (2, U, V)
        Displacement of each cell as a whole from the frame [cells].
    depth_px : ndarray of shape (U + 1, V + 1)
        Distance of the cells' corners from what is not in the image, or blank.
    line_gain : ndarray of shape (rows,)
        Factor of each line of the scan, as `row_shift_px`: 1 where the current has no step.
    bent_ends_px : tuple of int
        Pixels left out at the beginning and the end of every line.
    transposed : bool
        Whether the lines of the scan are the image's columns, not its rows.
    px_per_cell : tuple of int
        Pixels of a cell along (u, v) in the lattice frame.
    sign : int
        -1 where columns are dark on bright ground.
    """

    frame: Frame
    crystal: Crystal | None
    origin_fit: OriginFit | None
    mean_cell: MeanCell
    first: tuple[int, int]
    nodes_px: Array
    row_shift_px: Array
    row_sigma_px: float
    local_mean: Array
    pedestal: float
    mask: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]
    amplitude: Array
    shift_uv: Array
    depth_px: Array
    line_gain: Array
    bent_ends_px: tuple[int, int] = (0, 0)
    transposed: bool = False
    px_per_cell: PxPerCell = PX_PER_CELL
    sign: int = 1

    @property
    def record(self) -> Record:
        """What is kept of it: enough to cut its tiles again."""
        return Record(
            self.nodes_px,
            self.row_shift_px,
            self.local_mean,
            self.mask,
            self.inside,
            self.pedestal,
            self.transposed,
            self.px_per_cell,
            self.first,
            self.sign,
            self.depth_px,
            self.line_gain,
        )


@dataclass(frozen=True)
class Tiles:
    """A registered image in the lattice frame.

    Attributes
    ----------
    tiles : ndarray of shape (U n_u, V n_v), float32
        Divided by its local mean; 0 where there is no data.
    mask : ndarray of shape (U, V), uint8
    registration : Registration
    """

    tiles: Float
    mask: npt.NDArray[np.uint8]
    registration: Registration


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
    mean, uv, quality = lifted(flattener, frame)
    per_col = np.linalg.inv(frame.vectors_px)[1]
    sums = [np.zeros((4, BINS * BINS)) for _ in cells]
    square, pixels = 0.0, 0.0
    for rows in _sampled_strips(frame.shape):
        flat = flat_strip(image, rows, flattener, mean)
        u, v = uv.strip(rows)
        if row_shift_px is not None:
            shift = row_shift_px[rows, None].astype(np.float32)
            u, v = u + shift * np.float32(per_col[0]), v + shift * np.float32(per_col[1])
        good = quality.strip(rows)[0] > 0.6
        flat, u, v = flat[good], u[good], v[good]
        square += float((flat.astype(np.float64) ** 2).sum())
        pixels += flat.size
        for total, cell in zip(sums, cells, strict=True):
            inverse = np.linalg.inv(cell).astype(np.float32)
            total += gather(flat, u * inverse[0, 0] + v * inverse[1, 0], u * inverse[0, 1] + v * inverse[1, 1])
    if pixels < 100:
        raise NoLatticeError("no lattice: no part of the image is crystalline enough to make a mean cell")
    result = []
    for total, cell in zip(sums, cells, strict=True):
        count = np.maximum(total[0], 1e-9)
        result.append(
            fit_mean_cell(total[1] / count, total[0], (total[2:] / count).T, square / pixels, cell @ frame.vectors_px)
        )
    return result


def choose_match(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    found: list[Match],
    content_minimum: float = 0.0,
    judge: Judge | None = None,
) -> tuple[Match, OriginFit, MeanCell, list[tuple[Match, OriginFit]]]:
    """The match whose crystal explains the mean cell best; among equals the least stretched and least rotated.

    Of several crystals whose best match explains enough, the one that the judge finds least off.
    """
    sublattices: dict[tuple[int, ...], MeanCell] = {}
    bases = {_sublattice(match.cell): match.cell for match in found}
    means = measure_mean_cell(image, flattener, frame, list(bases.values()))
    sublattices = dict(zip(bases, means, strict=True))
    tried = []
    for match in found:
        key = _sublattice(match.cell)
        change = np.rint(match.cell @ np.linalg.inv(bases[key])).astype(np.int64)
        mean = _in_basis(sublattices[key], change)
        tried.append((match, fit_origin(mean, match.crystal), mean))

    def merit(entry: tuple[Match, OriginFit, MeanCell]) -> tuple[float, float, float]:
        match, origin_fit, _ = entry
        angle = abs(rotation_deg(match.cell @ frame.vectors_px, match.crystal))
        return (round(origin_fit.explained, 2), -round(match.stretch, 2), -angle)

    best = max(tried, key=merit)
    if judge is not None:
        of_each = [max((e for e in tried if e[0].crystal is c), key=merit) for c in _each(e[0].crystal for e in tried)]
        able = [entry for entry in of_each if entry[1].explained >= content_minimum]
        off = [
            judge(m.crystal, mean.moved(origin_fit.origin).cell(m.crystal.px_per_cell), m.stretch)
            for m, origin_fit, mean in able
        ]
        best = able[int(np.argmin(off))] if able else best
    return (*best, [(match, origin_fit) for match, origin_fit, _ in tried])


def _each(crystals: Iterable[Crystal]) -> list[Crystal]:
    """The crystals without repetition, told apart as objects: two models may be of equal crystals."""
    return list({id(crystal): crystal for crystal in crystals}.values())


def _sublattice(cell: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Hermite normal form: the same for all bases of one sublattice."""
    (a, b), (c, d) = (tuple(int(x) for x in row) for row in cell)
    while c:
        quotient = a // c
        a, b, c, d = c, d, a - quotient * c, b - quotient * d
    if a < 0:
        a, b = -a, -b
    d = abs(d)
    return (a, b % d, 0, d)


def _in_basis(mean: MeanCell, change: npt.NDArray[np.int64]) -> MeanCell:
    """A mean cell counted in another basis of the same lattice: h' = change h."""
    orders = mean.orders @ change.T
    flip = (orders[:, 0] < 0) | ((orders[:, 0] == 0) & (orders[:, 1] < 0))
    orders = np.where(flip[:, None], -orders, orders)
    return MeanCell(orders, np.where(flip, np.conj(mean.amplitudes), mean.amplitudes), mean.noise)


def rotation_deg(vectors_px: Array, crystal: Crystal) -> float:
    """Rotation from the crystal's own vectors to these, from +row towards +col [deg], in (-180, 180]."""
    deformation = np.linalg.inv(crystal.vectors_nm) @ vectors_px
    left, _, right = np.linalg.svd(deformation)
    turn = left @ right
    return float(np.degrees(np.arctan2(turn[0, 1], turn[0, 0])))


def cell_amplitude(statistics: CellStatistics, sigma_cells: float) -> Array:
    """Contrast of the cells, smoothed over `sigma_cells`: 1 where they look like the mean cell, 0 without lattice."""
    overlap, energy = statistics.overlap, statistics.template_energy
    if sigma_cells > 0:
        overlap, energy = (ndimage.gaussian_filter(x, sigma_cells, mode="constant") for x in (overlap, energy))
    return np.asarray(overlap / np.maximum(energy, 1e-9 * max(float(energy.max()), 1e-300)))


def within(statistics: CellStatistics, cells: npt.NDArray[np.bool_]) -> CellStatistics:
    """The statistics of `cells` (U, V) alone: of the others it is as if they had no pixels."""
    sums = {key: values * cells for key, values in vars(statistics).items() if key != "first"}
    return replace(statistics, **sums)


def cell_shifts(statistics: CellStatistics, mean_cell: MeanCell) -> Array:
    """Displacement of each cell from the frame, from the regression of its residual on the mean cell's slopes.

    Returns
    -------
    ndarray of shape (2, U, V)
        (u, v) [cells]; noisy, one value for all columns of the cell.
    """
    by_u, by_v = mean_cell.table((64, 64), (1, 0)), mean_cell.table((64, 64), (0, 1))
    normal = np.array([[np.mean(by_u * by_u), np.mean(by_u * by_v)], [np.mean(by_u * by_v), np.mean(by_v * by_v)]])
    slopes = np.stack([statistics.slope_u, statistics.slope_v]) / np.maximum(statistics.pixels, 1.0)
    return np.asarray(np.tensordot(np.linalg.inv(normal), slopes, 1))


def crystalline(statistics: CellStatistics, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Cells that are crystal: bad regions of 3 x 3 cells and more are left out, a few empty columns are not.

    A cell is bad when the contrast around it (a mean over about 2 x 2 cells, so that one empty cell does not count)
    falls below half of what is usual, or when its residual, as a median over 3 x 3 cells, is several times the usual
    and more than half the lattice's own variance.
    """
    smooth = cell_amplitude(statistics, 0.8)
    usual = float(np.percentile(smooth[inside], 75)) if inside.any() else 1.0
    bad = smooth < 0.5 * usual
    ratio = ndimage.median_filter(statistics.residual / np.maximum(statistics.template_energy, 1e-12), size=3)
    typical = float(np.median(ratio[inside & ~bad])) if (inside & ~bad).any() else 1.0
    bad |= (ratio > 4 * typical) & (ratio > typical + 0.5)
    bad &= inside
    edge = np.pad(bad, 2, mode="edge")
    core = ndimage.binary_opening(edge, np.ones((3, 3), dtype=bool))
    region = ndimage.binary_propagation(core, mask=ndimage.binary_dilation(core, iterations=2) & edge)
    region = ndimage.binary_dilation(region)[2:-2, 2:-2]
    good = inside & ~region
    labels, count = ndimage.label(good)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return np.asarray(good & (sizes[labels] >= 9))


def local_mean_of(statistics: CellStatistics, good: npt.NDArray[np.bool_]) -> Array:
    """Slowly varying mean of the cells [counts]: local planes over good cells, odd cells left out; shape (U, V).

    The planes are fitted a second time to what the first left, so that a curved background is followed.
    """
    mean = statistics.counts / np.maximum(statistics.template, 1e-9)
    filled = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
    mean = mean[filled[0], filled[1]]
    away = mean / ndimage.median_filter(mean, size=5, mode="mirror") - 1
    spread = 1.4826 * float(np.median(np.abs(away[good])))
    weights = np.where(good & (np.abs(away) < 4 * spread + 1e-6), statistics.pixels, 0.0)
    smooth = local_plane(mean[None], weights, LOCAL_MEAN_CELLS)[0][0]
    smooth = smooth + local_plane((mean - smooth)[None], weights, LOCAL_MEAN_CELLS)[0][0]
    floor = 0.05 * float(np.median(smooth[good]))
    near = ndimage.binary_dilation(good, iterations=2)
    smooth = np.where(near, smooth, smooth[filled[0], filled[1]])
    return np.asarray(np.maximum(smooth, max(floor, 1e-12)))


def fit_registration(
    image: Float,
    crystals: Sequence[Crystal],
    pixel_nm: tuple[float, float] | None = None,
    settings: TileSettings | None = None,
    lattice: Lattice | None = None,
    judge: Judge | None = None,
) -> Registration:
    """Measure frame, origin, row shifts, local mean and mask of an image.

    Parameters
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray, read in strips of rows.
    crystals : sequence of Crystal
        Candidates; the data decide between them. Empty: the primitive lattice itself is registered, its origin at
        the brightest column.
    pixel_nm : tuple of float, optional
        Header's pixel size (row, col) [nm]; None when the file states none.
    settings : TileSettings, optional
    lattice : Lattice, optional
        Coarse lattice, when it is known.
    judge : Judge, optional
        Decides between crystals that fit in lattice and content; without it the content does.

    Raises
    ------
    NoLatticeError
        The image shows no lattice that can be analysed.
    NoModelError
        The lattice is none of the crystals'.
    """
    settings = settings or USUAL
    lattice = lattice or find_lattice(image)
    largest = max([LARGEST_PERIOD_NM, *(1.3 * np.sqrt(crystal.area_nm2) for crystal in crystals)])
    if reason := not_atomic(lattice.vectors_px, pixel_nm, float(largest)):
        raise NoLatticeError(reason)
    period = float(np.sqrt(abs(np.linalg.det(lattice.vectors_px))))
    flattener = fit_flattener(image, period)
    frame = fit_frame(image, lattice, flattener)
    if crystals:
        frame, crystal, origin_fit, mean_cell = _on_a_crystal(
            image, flattener, frame, crystals, pixel_nm, settings, judge
        )
    else:
        crystal, origin_fit = None, None
        (mean_cell,) = measure_mean_cell(image, flattener, frame, [np.eye(2, dtype=np.int64)])
        (u, v, _), *_ = peaks_of_mean_cell(mean_cell.cell())
        frame, mean_cell = frame.moved(np.array([u, v])), mean_cell.moved(np.array([u, v]))
    return measured_on(image, lattice, flattener, frame, crystal, origin_fit, mean_cell)


def measured_on(
    image: Float,
    lattice: Lattice,
    flattener: Flattener,
    frame: Frame,
    crystal: Crystal | None,
    origin_fit: OriginFit | None,
    mean_cell: MeanCell,
    transposed: bool | None = None,
) -> Registration:
    """Row shifts, local mean and mask of an image on a frame whose cell and origin are decided.

    Whether the scan is `transposed` is asked of the image where it is not known. Where the ends of the lines are bent,
    they are left out and all is measured again.
    """
    known = flattener, frame, crystal, origin_fit, mean_cell
    found = _measured(image, *known, transposed=bool(transposed))
    # rows that jitter are lines of the scan: only where they do not is it asked whether columns are
    jitters = found.row_shift_px.var() > found.row_sigma_px**2
    if transposed is None and not jitters and scanned_down(image, lattice):
        found = _measured(image, *known, transposed=True)
    return _without_bent_ends(found, image, lattice, *known)


def _without_bent_ends(
    found: Registration,
    image: Float,
    lattice: Lattice,
    flattener: Flattener,
    frame: Frame,
    crystal: Crystal | None,
    origin_fit: OriginFit | None,
    mean_cell: MeanCell,
) -> Registration:
    """The registration with bent ends of lines left out, as far as they are; its `bent_ends_px` say how far."""
    cut = (0, 0)
    for _ in range(MOST_CUTS):
        if found.bent_ends_px == (0, 0):
            break
        cut = cut[0] + found.bent_ends_px[0], cut[1] + found.bent_ends_px[1]
        seen = flattener.seen.transposed if found.transposed else flattener.seen
        seen = seen.without_ends(*found.bent_ends_px)
        flattener = fit_flattener(image, frame.period_px, seen.transposed if found.transposed else seen)
        try:
            frame = refitted(frame, image, lattice, flattener)
            found = _measured(image, flattener, frame, crystal, origin_fit, mean_cell, transposed=found.transposed)
        except NoLatticeError:  # too little would be left
            break
    return replace(found, bent_ends_px=cut)


def refitted(frame: Frame, image: Float, lattice: Lattice, flattener: Flattener) -> Frame:
    """The frame fitted anew to what the flattener leaves of an image, in the same cell, and with its origin."""
    again = fit_frame(image, lattice, flattener)
    again = again.in_cell(np.rint(frame.vectors_px @ np.linalg.inv(again.vectors_px)).astype(np.int64))
    middle = np.array([[(n - 1) / 2 for n in frame.shape]])
    return again.moved(again.uv_at(middle)[0] - frame.uv_at(middle)[0])


def scanned_down(image: Float, lattice: Lattice) -> bool:
    """Whether the lines of the scan are the image's columns: some files hold the scan with rows and columns exchanged.

    Lines jitter, each as a whole. So the middle of the image is measured both ways, and the scan runs down the columns
    where these shift by more than the rows do, and by more than the error of a shift.
    """
    part = tuple(slice(max(n - SCAN_PX, 0) // 2, max(n - SCAN_PX, 0) // 2 + SCAN_PX) for n in image.shape)
    middle = np.ascontiguousarray(image[part])
    try:
        flattener = fit_flattener(middle, float(np.sqrt(abs(np.linalg.det(lattice.vectors_px)))))
        frame = fit_frame(middle, lattice, flattener)
        (mean_cell,) = measure_mean_cell(middle, flattener, frame, [np.eye(2, dtype=np.int64)])
        rows_px2, _ = _jitter_px2(middle, flattener, frame, mean_cell)
        cols_px2, error_px2 = _jitter_px2(middle.T, flattener.transposed, frame.transposed, mean_cell)
    except NoLatticeError:
        return False
    return cols_px2 > 1.5 * rows_px2 + error_px2


def _jitter_px2(image: Float, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> tuple[float, float]:
    """Variance of the row shifts, their slow part left out, and that of the error of one; (0, infinite) without any."""
    found = _first_pass(image, flattener, frame, mean_cell)
    shifts = found.shift_px - slow_part(found.shift_px, found.sigma_px, 2.0 * frame.period_px)
    known = np.isfinite(found.sigma_px)
    if not known.any():
        return 0.0, np.inf
    return float(shrunk(shifts, found.sigma_px).var()), float(np.median(found.sigma_px[known])) ** 2


@dataclass(frozen=True)
class _FirstPass:
    """Row shifts (rows,) to begin with, their errors, the frame less its slow part, and the mean cell without them."""

    frame: Frame
    mean_cell: MeanCell
    coarse_px: Array
    shift_px: Array
    sigma_px: Array
    column_shifts: ColumnShifts


def _first_pass(image: Float, flattener: Flattener, frame: Frame, mean_cell: MeanCell) -> _FirstPass:
    coarse = coarse_row_shifts(image, flattener, frame, mean_cell)
    known = np.where(coarse != 0, 1.0, np.inf)
    slow = slow_part(coarse, known, 2.0 * frame.period_px)
    frame, coarse = with_slow_rows(frame, slow), coarse - slow
    (sharper,) = measure_mean_cell(image, flattener, frame, [np.eye(2, dtype=np.int64)], coarse)
    shifts, sigmas, _, column_shifts = fine_pass(image, flattener, frame, sharper, coarse, by_cell=False)
    return _FirstPass(frame, sharper, coarse, shifts, sigmas, column_shifts)


def _second_pass(image: Float, flattener: Flattener, begun: _FirstPass) -> tuple[Frame, Array, Array, CellStatistics]:
    """The frame with its slow part, row shifts (rows,) and their errors, and the sums over cells."""
    frame, sharper = begun.frame, begun.mean_cell
    if (odd := begun.column_shifts.outliers()).any():
        shifts, sigmas, statistics, _ = fine_pass(image, flattener, frame, sharper, begun.shift_px, odd)
    else:
        shifts, sigmas, statistics, _ = fine_pass(image, flattener, frame, sharper, begun.coarse_px)
    slow = slow_part(shifts, sigmas, 2.0 * frame.period_px)
    shifts = np.where(np.isfinite(sigmas), shifts - slow, 0.0)
    return with_slow_rows(frame, slow), shrunk(shifts, sigmas), sigmas, statistics


def _on_a_crystal(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    crystals: Sequence[Crystal],
    pixel_nm: tuple[float, float] | None,
    settings: TileSettings,
    judge: Judge | None,
) -> tuple[Frame, Crystal, OriginFit, MeanCell]:
    found = [
        match
        for crystal in crystals
        for match in matches(frame.vectors_px, crystal, pixel_nm, settings.length_tolerance, settings.strain_tolerance)
    ]
    if not found:
        raise NoModelError(no_model_sentence(frame, pixel_nm), frame)
    match, origin_fit, mean_cell, _ = choose_match(image, flattener, frame, found, settings.content_minimum, judge)
    if origin_fit.explained < settings.content_minimum:
        raise NoModelError(
            f"{no_model_sentence(frame, pixel_nm)}; the cell of {match.crystal.name} would fit in size, "
            f"but its columns explain only {origin_fit.explained:.0%} of the mean cell",
            frame,
        )
    frame = frame.in_cell(match.cell).moved(origin_fit.origin)
    return frame, match.crystal, origin_fit, mean_cell.moved(origin_fit.origin)


def no_model_sentence(frame: Frame, pixel_nm: tuple[float, float] | None) -> str:
    """What lattice was found, in px and with the header's size in nm."""
    a, b, gamma = describe(frame.vectors_px)
    sentence = f"no model for this lattice: a = {a:.2f} px, b = {b:.2f} px, gamma = {gamma:.1f} deg"
    if pixel_nm is None:
        return f"{sentence} (the file states no pixel size: give it one, or train a model from this image's own bulk)"
    a_nm, b_nm, _ = describe(frame.vectors_px * np.array(pixel_nm))
    return f"{sentence} ({a_nm:.4f} nm, {b_nm:.4f} nm by the header)"


def _measured(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    crystal: Crystal | None,
    origin_fit: OriginFit | None,
    mean_cell: MeanCell,
    transposed: bool,
) -> Registration:
    """Row shifts, mask and local mean on a known frame; of an image `transposed`, with rows and columns exchanged."""
    if transposed:
        exchanged: Any = Transposed(image)
        of_it = flattener.transposed, frame.transposed, crystal, origin_fit, mean_cell
        found = _measured(exchanged, *of_it, transposed=False)
        return replace(found, frame=found.frame.transposed, nodes_px=found.nodes_px[::-1], transposed=True)
    gain = line_gain(image, flattener, frame, mean_cell)
    if (gain != 1).any():
        even: Any = Scaled(image, gain)
        image = even
        flattener = fit_flattener(image, frame.period_px, flattener.seen)
    begun = _first_pass(image, flattener, frame, mean_cell)
    sharper = begun.mean_cell
    frame, shifts, sigmas, statistics = _second_pass(image, flattener, begun)
    first, count = statistics.first, (statistics.pixels.shape[0], statistics.pixels.shape[1])
    nodes = nodes_of(frame, first, count)
    margin = float(np.abs(shifts).max()) if len(shifts) else 0.0
    whole = flattener.seen.cells(nodes)
    inside = inside_cells(nodes, frame.shape, min(margin, 0.5 * frame.period_px)) & whole
    mask = crystalline(within(statistics, whole), inside)
    if mask.sum() < LEAST_CELLS:
        raise NoLatticeError(
            f"no lattice: only {int(mask.sum())} whole cells of crystal are in the image; "
            f"at least {LEAST_CELLS} are needed"
        )
    finite = np.isfinite(sigmas)
    return Registration(
        frame=frame,
        crystal=crystal,
        origin_fit=origin_fit,
        mean_cell=sharper,
        first=first,
        nodes_px=nodes,
        row_shift_px=shifts,
        row_sigma_px=float(np.median(sigmas[finite])) if finite.any() else float("nan"),
        local_mean=local_mean_of(statistics, mask),
        pedestal=flattener.pedestal,
        mask=mask,
        inside=inside,
        amplitude=cell_amplitude(statistics, 0.0),
        shift_uv=cell_shifts(statistics, sharper),
        depth_px=flattener.seen.depth_px(nodes),
        line_gain=gain,
        bent_ends_px=bent_ends_px(image, flattener, begun.frame, sharper, begun.shift_px),
        px_per_cell=PX_PER_CELL if crystal is None else crystal.px_per_cell,
    )


def render(image: Float, registration: Registration, cells: tuple[slice, slice]) -> Float:
    """Cut a window of cells, indices into `registration.mask`, from an image; see `Record.cut`."""
    return registration.record.cut(image, cells)


def register(
    image: Float,
    crystal: Crystal | None,
    pixel_nm: tuple[float, float] | None = None,
    settings: TileSettings | None = None,
) -> Tiles:
    """Register an image onto one crystal (None: onto its own primitive lattice) and cut all of it into the frame.

    Raises
    ------
    NoLatticeError, NoModelError
        As `fit_registration`.
    """
    found = fit_registration(image, [crystal] if crystal is not None else [], pixel_nm, settings)
    n_u, n_v = found.mask.shape
    return Tiles(render(image, found, (slice(0, n_u), slice(0, n_v))), found.mask.astype(np.uint8), found)
