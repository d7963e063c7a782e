"""Which model an image is of: how well each one's network knows the image's mean cell.

Each model is judged by itself, so that one more in the list changes no image that another one fits better. A process
per image asks about a single cell: numpy answers in a millisecond, PyTorch would take two seconds to load.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from oddlattice.crystal import CELL_PX, Crystal, load_crystal
from oddlattice.lattice.tile_image import crystal_of_stack, tile_image
from oddlattice.model.misfit import misfit, share_of_limit
from oddlattice.numerics.arrays import Array
from oddlattice.process.sandbox import Fault, result_or_fault
from oddlattice.storage.rows import Row

Weights = Mapping[str, Any]


def gelu(x: Array) -> Array:
    """Gaussian error linear unit in its tanh form, as `vae.VAE` has it."""
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def convolved(x: Array, weights: Weights, name: str, stride: int, padding: int = 0) -> Array:
    """Convolution of channels (c, m, n) by the layer `name`."""
    kernel = weights[f"{name}.weight"]  # (out, c, k, k)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
    return np.asarray(np.einsum("cijkl,ockl->oij", windows, kernel) + weights[f"{name}.bias"][:, None, None])


def predicted_cell(weights: Weights, cell: Array) -> Array:
    """What a network makes of a cell that repeats: `VAE.decode_centre` of `VAE.encode`, for one patch.

    Parameters
    ----------
    weights : mapping of str to ndarray
        A model's weights.safetensors.
    cell : ndarray of shape (20, 20)
        Standardised (`patches.standardised`).

    Returns
    -------
    ndarray of shape (20, 20)
    """
    half = CELL_PX // 2
    x = np.roll(np.tile(cell, (2, 2)), (half, half), axis=(0, 1)) - weights["bulk"][0, 0]
    for layer, stride, padding in ((0, 4, 0), (2, 2, 1), (4, 1, 0)):
        x = gelu(convolved(x if x.ndim == 3 else x[None], weights, f"encoder.{layer}", stride, padding))
    latent = len(weights["posterior.bias"]) // 2
    x = weights["posterior.weight"][:latent] @ x.ravel() + weights["posterior.bias"][:latent]
    for layer in (0, 2, 4):
        x = weights[f"decoder.{layer}.weight"] @ x + weights[f"decoder.{layer}.bias"]
        x = gelu(x) if layer < 4 else x
    centre = np.s_[0, half : half + CELL_PX, half : half + CELL_PX]
    return np.asarray(np.tensordot(x, weights["patches.weight"][:, *centre], 1) + weights["bulk"][0, *centre])


class Judge:
    """Misfits of an image's mean cell to the models that its lattice and content allow.

    Parameters
    ----------
    folders : sequence of Path
        Of the models.
    crystals : sequence of Crystal
        Theirs, in the same order.
    """

    def __init__(self, folders: Sequence[Path], crystals: Sequence[Crystal], limit: float = 1.0) -> None:
        self._limit = limit
        self._weights = [load_file(folder / "weights.safetensors") for folder in folders]
        self._crystals = crystals

    def __call__(self, crystal: Crystal, cell: Array, stretch: float) -> float:
        """Misfit of a cell (20, 20), mean 1, distorted by `stretch`, over the limit; all models have the same limit."""
        (weights,) = (w for w, known in zip(self._weights, self._crystals, strict=True) if known is crystal)
        contrast = max(float(cell.std()), 1e-6)
        seen = (cell - 1) / contrast
        return misfit(seen, predicted_cell(weights, seen)) / share_of_limit(stretch) / self._limit


def tile_one(crystal_files: Sequence[str], misfit_limit: float | None = None, **job: Any) -> Row:
    """Tile one image on the lattice of the model that fits it best; see `tile_image.tile_image`.

    Where a `misfit_limit` is given, an image that is further off every model is laid on the crystal it shows itself.
    """
    return tile_image(**_models(crystal_files, misfit_limit), **job)


def know_stack(crystal_files: Sequence[str], misfit_limit: float | None = None, **job: Any) -> dict[str, Any] | None:
    """The crystal that a stack shows itself; see `tile_image.crystal_of_stack`."""
    return crystal_of_stack(**_models(crystal_files, misfit_limit), **job)


def _models(crystal_files: Sequence[str], misfit_limit: float | None) -> dict[str, Any]:
    paths = [Path(path) for path in crystal_files]
    crystals = [load_crystal(path) for path in paths]
    folders = [path.parent for path in paths]
    own = misfit_limit is not None
    judge = Judge(folders, crystals, misfit_limit or 1.0) if own or len(paths) > 1 else None  # one has no rival
    models = {folder.name: crystal for folder, crystal in zip(folders, crystals, strict=True)}
    return {"models": models, "judge": judge, "own": own}


def tile_or_tell(**job: Any) -> tuple[Row, None] | tuple[None, Fault]:
    """Body of the child process of one image: its row, or what went wrong."""
    return result_or_fault(tile_one, **job)


def know_or_tell(**job: Any) -> tuple[dict[str, Any] | None, None] | tuple[None, Fault]:
    """Body of the child process of one stack: its own crystal if that is what it shows, or what went wrong."""
    return result_or_fault(know_stack, **job)
