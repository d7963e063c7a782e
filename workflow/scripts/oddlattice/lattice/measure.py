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
from oddlattice.lattice.spoilt import Seen
from oddlattice.numerics.arrays import Array, Float
from oddlattice.storage.windows import Scaled, Transposed

MOST_CUTS = 4  # half periods that may be left out at the ends of lines
SCAN_PX = 384  # side of the part of an image that tells along which direction it was scanned


@dataclass(frozen=True)
class OnLattice:
    """An image on a lattice whose cell and origin are decided: what all else is measured on.

    Attributes
    ----------
    image : array of shape (rows, cols)
        Counts; anything that slices to an ndarray.
    flattener : Flattener
    frame : Frame
    mean_cell : MeanCell
    crystal : Crystal or None
    origin_fit : OriginFit or None
    """

    image: Any
    flattener: Flattener
    frame: Frame
    mean_cell: MeanCell
    crystal: Crystal | None = None
    origin_fit: OriginFit | None = None

    @classmethod
    def of(cls, image: Any, frame: Frame, flattener: Flattener, crystal: Crystal | None = None) -> "OnLattice":
        """An image on a frame, with the mean cell that it has there."""
        (mean_cell,) = measure_mean_cell(image, flattener, frame, [np.eye(2, dtype=np.int64)])
        return cls(image, flattener, frame, mean_cell, crystal)

    @property
    def transposed(self) -> "OnLattice":
        """The image with rows and columns exchanged, on the same lattice."""
        exchanged = Transposed(self.image), self.flattener.transposed, self.frame.transposed
        return OnLattice(*exchanged, self.mean_cell, self.crystal, self.origin_fit)

    def moved(self, shift: Array) -> "OnLattice":
        """The same with its origin at lattice coordinates `shift`."""
        return replace(self, frame=self.frame.moved(shift), mean_cell=self.mean_cell.moved(shift))

    def divided_by(self, gain: Array) -> "OnLattice":
        """The image with its lines divided by `gain`."""
        if (gain == 1).all():
            return self
        even: Any = Scaled(self.image, gain)
        return replace(self, image=even, flattener=fit_flattener(even, self.frame.period_px, self.flattener.seen))

    def without_ends(self, px: tuple[int, int], lattice: Lattice, transposed: bool) -> "OnLattice":
        """The same fitted anew without so many pixels at the beginning and the end of all lines."""
        seen = self.flattener.seen.transposed if transposed else self.flattener.seen
        seen = seen.without_ends(*px)
        return self._where(seen.transposed if transposed else seen, lattice)

    def without_vacuum(self, lattice: Lattice) -> "OnLattice":
        """The same fitted anew without the vacuum beside the crystal."""
        seen = self.flattener.seen.without_vacuum(self.image, self.frame.period_px)
        return self if seen is self.flattener.seen else self._where(seen, lattice)

    def _where(self, seen: Seen, lattice: Lattice) -> "OnLattice":
        """The same fitted anew to what is seen."""
        flattener = fit_flattener(self.image, self.frame.period_px, seen)
        return replace(self, flattener=flattener, frame=refitted(self.frame, self.image, lattice, flattener))


def measured_on(on: OnLattice, lattice: Lattice, known: Registration | None = None) -> Registration:
    """Row shifts, local mean and mask of an image on a lattice that is decided; `lattice` is the coarse one.

    Whether the scan is transposed is asked of the image. Where the ends of the lines are bent, they are left out and
    all is measured again. What another registration of the image says of the scan is `known`: its direction, the steps
    of its current, and sound ends of its lines.
    """
    on = on.without_vacuum(lattice)
    if known is not None:
        return _without_bent_ends(_measured(on, known.transposed, known), on, lattice)
    found = _measured(on, transposed=False)
    # rows that jitter are lines of the scan: only where they do not is it asked whether columns are
    jitters = found.row_shift_px.var() > found.row_sigma_px**2
    if not jitters and scanned_down(on.image, lattice):
        found = _measured(on, transposed=True)
    return _without_bent_ends(found, on, lattice)


def _without_bent_ends(found: Registration, on: OnLattice, lattice: Lattice) -> Registration:
    """The registration with bent ends of lines left out, as far as they are; its `bent_ends_px` say how far."""
    cut = (0, 0)
    for _ in range(MOST_CUTS):
        if found.bent_ends_px == (0, 0):
            break
        cut = cut[0] + found.bent_ends_px[0], cut[1] + found.bent_ends_px[1]
        try:
            on = on.without_ends(found.bent_ends_px, lattice, found.transposed)
            found = _measured(on, transposed=found.transposed)
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
        on = OnLattice.of(middle, fit_frame(middle, lattice, flattener), flattener)
        rows_px2, _ = _jitter_px2(on)
        cols_px2, error_px2 = _jitter_px2(on.transposed)
    except NoLatticeError:
        return False
    return cols_px2 > 1.5 * rows_px2 + error_px2


def _jitter_px2(on: OnLattice) -> tuple[float, float]:
    """Variance of the row shifts, their slow part left out, and that of the error of one; (0, infinite) without any."""
    found = _first_pass(on)
    shifts = found.shift_px - slow_part(found.shift_px, found.sigma_px, 2.0 * on.frame.period_px)
    known = np.isfinite(found.sigma_px)
    if not known.any():
        return 0.0, np.inf
    return float(shrunk(shifts, found.sigma_px).var()), float(np.median(found.sigma_px[known])) ** 2


@dataclass(frozen=True)
class _FirstPass:
    """Row shifts (rows,) to begin with, their errors, and the lattice less their slow part, its mean cell sharpened."""

    on: OnLattice
    coarse_px: Array
    shift_px: Array
    sigma_px: Array
    column_shifts: ColumnShifts


def _first_pass(on: OnLattice) -> _FirstPass:
    coarse = coarse_row_shifts(on.image, on.flattener, on.frame, on.mean_cell)
    known = np.where(coarse != 0, 1.0, np.inf)
    slow = slow_part(coarse, known, 2.0 * on.frame.period_px)
    frame, coarse = with_slow_rows(on.frame, slow), coarse - slow
    (sharper,) = measure_mean_cell(on.image, on.flattener, frame, [np.eye(2, dtype=np.int64)], coarse)
    shifts, sigmas, _, column_shifts = fine_pass(on.image, on.flattener, frame, sharper, coarse, by_cell=False)
    return _FirstPass(replace(on, frame=frame, mean_cell=sharper), coarse, shifts, sigmas, column_shifts)


def _second_pass(begun: _FirstPass) -> tuple[Frame, Array, Array, CellStatistics]:
    """The frame with its slow part, row shifts (rows,) and their errors, and the sums over cells."""
    on, odd = begun.on, begun.column_shifts.outliers()
    start, left_out = (begun.shift_px, odd) if odd.any() else (begun.coarse_px, None)
    shifts, sigmas, statistics, _ = fine_pass(on.image, on.flattener, on.frame, on.mean_cell, start, left_out)
    slow = slow_part(shifts, sigmas, 2.0 * on.frame.period_px)
    shifts = np.where(np.isfinite(sigmas), shifts - slow, 0.0)
    return with_slow_rows(on.frame, slow), shrunk(shifts, sigmas), sigmas, statistics


def _measured(on: OnLattice, transposed: bool, known: Registration | None = None) -> Registration:
    """Row shifts, mask and local mean on a known frame; of an image `transposed`, with rows and columns exchanged."""
    if transposed:
        found = _measured(on.transposed, transposed=False, known=known)
        return replace(found, frame=found.frame.transposed, nodes_px=found.nodes_px[::-1], transposed=True)
    gain = line_gain(on.image, on.flattener, on.frame, on.mean_cell) if known is None else known.line_gain
    on = on.divided_by(gain)
    begun = _first_pass(on)
    sharper, seen = begun.on.mean_cell, on.flattener.seen
    frame, shifts, sigmas, statistics = _second_pass(begun)
    first, count = statistics.first, (statistics.pixels.shape[0], statistics.pixels.shape[1])
    nodes = nodes_of(frame, first, count)
    margin = float(np.abs(shifts).max()) if len(shifts) else 0.0
    whole, broken = seen.cells(nodes) & ~frame.cut_cells(nodes), frame.broken_cells(nodes)
    inside = inside_cells(nodes, frame.shape, min(margin, 0.5 * frame.period_px)) & whole
    mask = crystalline(within(statistics, whole), inside) & ~broken
    if mask.sum() < LEAST_CELLS:
        raise NoLatticeError(
            f"no lattice: only {int(mask.sum())} whole cells of crystal are in the image; "
            f"at least {LEAST_CELLS} are needed"
        )
    finite = np.isfinite(sigmas)
    return Registration(
        frame=frame,
        crystal=on.crystal,
        origin_fit=on.origin_fit,
        mean_cell=sharper,
        first=first,
        nodes_px=nodes,
        row_shift_px=shifts,
        row_sigma_px=float(np.median(sigmas[finite])) if finite.any() else float("nan"),
        local_mean=local_mean_of(statistics, mask),
        pedestal=on.flattener.pedestal,
        mask=mask,
        inside=inside,
        amplitude=cell_amplitude(statistics, 0.0),
        shift_uv=cell_shifts(statistics, sharper),
        depth_px=np.minimum(seen.depth_px(nodes), frame.from_cuts_px(np.moveaxis(nodes, 0, -1))),
        line_gain=gain,
        bent_ends_px=(0, 0)
        if known is not None and known.bent_ends_px == (0, 0)
        else bent_ends_px(on.image, on.flattener, begun.on.frame, sharper, begun.shift_px),
        px_per_cell=PX_PER_CELL if on.crystal is None else on.crystal.px_per_cell,
    )
