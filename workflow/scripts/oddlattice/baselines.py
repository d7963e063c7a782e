"""What a VAE has to beat: the mean cell as a template, and principal components of the image's own patches."""

import numpy as np
import numpy.typing as npt

from oddlattice.columns import as_cells, mean_cell
from oddlattice.crystal import CELL_PX
from oddlattice.inference import chunk_cells, padded, patches_of

Float = npt.NDArray[np.float32]
COMPONENTS = 20
SAMPLE = 4096  # patches from which the components are computed, evenly taken


def predict_template(tiles: Float, mask: npt.NDArray[np.uint8]) -> Float:
    """The image's median cell, repeated; shape of `tiles` (U * 20, V * 20)."""
    return np.tile(mean_cell(tiles, mask), mask.shape).astype(np.float32)


def predict_pca(tiles: Float, mask: npt.NDArray[np.uint8], components: int = COMPONENTS) -> Float:
    """Central cells of the patches rebuilt from the image's own principal components; shape of `tiles`."""
    rimmed = padded(tiles)
    inside = np.argwhere(mask)
    sample = patches_of(rimmed, inside[:: max(1, len(inside) // SAMPLE)]).reshape(-1, 4 * CELL_PX**2)
    mean = sample.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((sample - mean).T))
    basis = vectors[:, -components:].astype(np.float32)
    half = CELL_PX // 2
    out = np.zeros_like(tiles)
    cells_of = as_cells(out)
    for cells in chunk_cells(mask):
        flat = patches_of(rimmed, cells).reshape(len(cells), -1)
        rebuilt = (mean + (flat - mean) @ basis @ basis.T).reshape(-1, 2 * CELL_PX, 2 * CELL_PX)
        cells_of[cells[:, 0], cells[:, 1]] = rebuilt[:, half : half + CELL_PX, half : half + CELL_PX]
    return out
