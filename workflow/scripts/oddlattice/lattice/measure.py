"""What is measured of an image on a lattice that is decided: shifts of lines, steps of the current, mask, mean."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oddlattice.crystal import LEAST_CELLS, PX_PER_CELL, Crystal
from oddlattice.lattice.cell_statistics import (
    CellStatistics,
    cell_amplitude,
    cell_shifts,
    crystalline,
    local_mean_of,
    within,
)
from oddlattice.lattice.fit_frame import fit_frame
from oddlattice.lattice.flattener import Flattener, fit_flattener
from oddlattice.lattice.flyback import bent_ends_px
from oddlattice.lattice.fourier import Lattice, NoLatticeError
from oddlattice.lattice.frame import Frame
from oddlattice.lattice.line_gain import line_gain
from oddlattice.lattice.mean_cell import MeanCell, measure_mean_cell
from oddlattice.lattice.origin import OriginFit
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.resample import inside_cells, nodes_of
from oddlattice.lattice.scan_lines import ColumnShifts, coarse_row_shifts, fine_pass, shrunk, slow_part, with_slow_rows
from oddlattice.numerics.arrays import Array, Float
from oddlattice.storage.windows import Scaled, Transposed

MOST_CUTS = 4  # half periods that may be left out at the ends of lines
SCAN_PX = 384  # side of the part of an image that tells along which direction it was scanned


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
