"""What is known of an image once it is registered, and the tiles that are cut with it."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import PX_PER_CELL, Crystal, PxPerCell
from oddlattice.lattice.frame import Frame
from oddlattice.lattice.mean_cell import MeanCell
from oddlattice.lattice.origin import OriginFit
from oddlattice.lattice.record import Record
from oddlattice.numerics.arrays import Array, Float


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
    foreign : ndarray of shape (U n_u, V n_v), float32
        As of `Record`.
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
    foreign: Float = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @cached_property
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
            self.foreign,
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


def render(image: Float, registration: Registration, cells: tuple[slice, slice]) -> Float:
    """Cut a window of cells, indices into `registration.mask`, from an image; see `Record.cut`."""
    return registration.record.cut(image, cells)
