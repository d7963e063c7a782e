"""Crops below each other as one image in the lattice frame: so every method of the pipeline predicts their bulk.

What a crop does not show looks like the cell that all crops share, and between two crops lie such cells: nothing of one
reaches the prediction of another.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom

from oddlattice.benchmark.crops.cell import Cell, Fit, sample_cell
from oddlattice.benchmark.crops.columns import CANVAS_PX, find_columns, lay_out
from oddlattice.crystal import CELL_PX, Column
from oddlattice.lattice.columns import as_cells, mean_cell, with_bulk_around
from oddlattice.lattice.shapes import fit_shape
from oddlattice.model.patches import ImagePatches, image_batches, padded, patches_of, standardised
from oddlattice.model.training import Progress, train_vae
from oddlattice.model.vae import VAEConfig
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.predict.gpu import Careful, Engine
from oddlattice.predict.methods import METHODS, Network
from oddlattice.predict.network import contrast_of, predict_bulk

CONTRAST = 0.3  # of the cell in a sheet, of the local mean: about that of an image
SEEN_PART = 0.25  # of a cell, from which on a crop shows enough of it to predict it
SMOOTH_CELLS = 1.0  # width over which conditions are taken together: a crop shows three cells
CONFIG = VAEConfig(latent=8, basis=48)
STEPS, BATCH, HELD_OUT = 600, 64, 16  # HELD_OUT: one patch in so many
AT_ONCE = 200  # crops predicted at once, and crops of bulk that are laid above them


@dataclass(frozen=True)
class Sheet:
    """n crops in the lattice frame, each K x K cells of 20 x 20 px, below each other.

    Attributes
    ----------
    tiles : ndarray of shape (20 n K, 20 K), float32
        Local mean 1.
    seen : ndarray of shape (20 n K, 20 K), bool
    mask : ndarray of shape (n K, K), uint8
        Cells of which a crop shows enough.
    pattern : ndarray of shape (20, 20)
        The cell that all crops share, as the tiles have it.
    """

    tiles: Float
    seen: npt.NDArray[np.bool_]
    mask: Mask
    pattern: Array

    @classmethod
    def of(cls, cell: Cell, fit: Fit, rest: Float) -> "Sheet":
        """Lay crops on a sheet by what they are beside the cell, `rest` (n, side, side) [counts]."""
        canvas = lay_out(cell, fit, rest, CELL_PX)
        line = (np.arange(CELL_PX) + 0.5) / CELL_PX
        pattern = 1 + CONTRAST * sample_cell(cell.values, np.stack(np.meshgrid(line, line, indexing="ij"), -1))
        seen = canvas.seen.reshape(-1, canvas.seen.shape[2])
        cells = seen.shape[0] // CELL_PX, seen.shape[1] // CELL_PX
        tiles = np.tile(pattern, cells) + CONTRAST * canvas.rest.reshape(seen.shape)
        shown = as_cells(seen.astype(np.float64), (CELL_PX, CELL_PX)).mean(axis=(2, 3))
        return cls(tiles.astype(np.float32), seen, (shown >= SEEN_PART).astype(np.uint8), pattern)

    def part(self, crops: slice) -> "Sheet":
        """Some of the crops."""
        cells = self.mask.shape[1]
        rows = slice(crops.start * cells, crops.stop * cells)
        pixels = slice(rows.start * CELL_PX, rows.stop * CELL_PX)
        return Sheet(self.tiles[pixels], self.seen[pixels], self.mask[rows], self.pattern)

    def below(self, other: "Sheet") -> "Sheet":
        """These crops below others."""
        both = {key: np.concatenate([getattr(other, key), getattr(self, key)]) for key in ("tiles", "seen", "mask")}
        return replace(self, **both)

    @property
    def crops(self) -> int:
        """How many crops there are."""
        return int(self.mask.shape[0] // self.mask.shape[1])


def beyond_cell(method: str, sheet: Sheet, network: Network, bulk: Sheet | None = None) -> Float:
    """What the bulk of every crop is beside the cell by a method of the pipeline, in units of the cell.

    Methods that take their bulk from the image itself find `bulk` in it: every crop of a set may hold the same defect.

    Returns
    -------
    ndarray of shape (n, 12 K, 12 K), float32
        As `columns.lay_out` lays crops.
    """
    if bulk is not None:
        starts = range(0, sheet.crops, AT_ONCE)
        parts = [sheet.part(slice(start, start + AT_ONCE)) for start in starts]
        both = [beyond_cell(method, part.below(bulk), network)[bulk.crops :] for part in parts]
        return np.concatenate(both)
    off = METHODS[method].begin()(sheet.tiles, sheet.mask, network) - np.tile(sheet.pattern, sheet.mask.shape)
    off *= np.kron(sheet.mask, np.ones((CELL_PX, CELL_PX), np.uint8)) / CONTRAST
    side = off.shape[1]
    of_each = off.reshape(-1, side, side)
    ratio = CANVAS_PX / CELL_PX
    return np.asarray(zoom(of_each, (1, ratio, ratio), order=1, grid_mode=True, mode="nearest"), dtype=np.float32)


def bulk_patches(sheet: Sheet, cell: Cell) -> ImagePatches:
    """Patches about every cell of bulk crops, for training; of what a crop does not show the variance is infinite."""
    cells = np.argwhere(sheet.mask)
    contrast = contrast_of(mean_cell(sheet.tiles, sheet.mask))
    patches = patches_of(padded(standardised(sheet.tiles, contrast)), cells)
    shown = patches_of(np.pad(sheet.seen, CELL_PX // 2).astype(np.float32), cells) > 0
    left = np.where(sheet.seen, sheet.tiles - np.tile(sheet.pattern, sheet.mask.shape), np.nan) / contrast
    spread = 1.4826 * np.nanmedian(np.abs(as_cells(left, (CELL_PX, CELL_PX))[sheet.mask > 0]), axis=0)
    px = CELL_PX / float(np.sqrt(abs(np.linalg.det(cell.vectors_px))))
    alike = max(1.0, cell.correlation_px * px**2)  # pixels over which the noise is one and the same
    variance = np.roll(np.tile(alike * spread**2 + 1e-4, (2, 2)), (CELL_PX // 2,) * 2, axis=(0, 1))
    columns = [Column("", float(u), float(v), {}, 0.0, True) for u, v in find_columns(cell)]
    shapes = [fit_shape((sheet.pattern - 1) / contrast + 1, column) for column in columns]
    return ImagePatches(patches, np.where(shown, variance, np.inf).astype(np.float32), shapes)


def train_network(sheet: Sheet, cell: Cell, seed: int, say: Callable[[str], None]) -> Network:
    """The pipeline's network, trained by its own loop on the patches of bulk crops: the same seed, the same weights."""
    every = bulk_patches(sheet, cell)
    held = np.arange(len(every.patches)) % HELD_OUT == 0
    train, test = (ImagePatches(every.patches[some], every.variance[some], every.shapes) for some in (~held, held))

    def told(at: Progress) -> None:
        say(f"step {at.step}: misfit {at.misfit:.1f}, held out {at.held_out:.1f} nats a patch")

    batches = image_batches(train, BATCH, seed)
    vae, _ = train_vae(
        CONFIG, batches, [next(image_batches(test, 4 * BATCH, seed + 1))], steps=STEPS, seed=seed, say=told
    )
    careful = Careful(Engine.start(vae, "cpu", "float32"))
    return lambda tiles, mask: predict_bulk(careful, with_bulk_around(tiles, mask), mask, SMOOTH_CELLS)
