"""Bulk prediction over the cells of an image: VAE per chunk, then the image's own mean residual taken up."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from oddlattice.crystal import CELL_PX, PX_PER_CELL
from oddlattice.lattice.columns import as_cells, mean_cell
from oddlattice.lattice.subareas import CHUNK_CELLS
from oddlattice.model.patches import padded, patches_of, standardised
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.predict.gpu import Careful, OnDevice, own_stream
from oddlattice.predict.latents import smooth_latents, smooth_latents_on_gpu
from oddlattice.predict.own_residual import own_residual_on_gpu
from oddlattice.predict.readings import read_cells


def chunk_cells(mask: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.intp]]:
    """Analysed cells (u, v) of each chunk of 32x32 cells, in order; chunks without any are left out."""
    found = []
    for i in range(0, mask.shape[0], CHUNK_CELLS):
        for j in range(0, mask.shape[1], CHUNK_CELLS):
            inside = np.argwhere(mask[i : i + CHUNK_CELLS, j : j + CHUNK_CELLS])
            if len(inside):
                found.append(inside + np.array([i, j]))
    return found


def predict_bulk(
    careful: Careful,
    tiles: Float,
    mask: npt.NDArray[np.uint8],
    width: float,
    threads: int = 1,
    contrast: float | None = None,
) -> Float:
    """The network's prediction of every analysed cell, 0 elsewhere.

    Patches are encoded (of `read_cells`); the latents are smoothed over the field; every cell is decoded. The work is
    cut into the same chunks whatever `threads` is, and one thread computes a chunk, so the bytes do not depend on it.

    Parameters
    ----------
    tiles : ndarray of shape (U * 20, V * 20), float32
    mask : ndarray of shape (U, V), uint8
    width : float
        Width of the neighbourhood over which conditions vary [cells].
    contrast : float, optional
        Of the image's mean cell, where `tiles` are a part of the image.

    Returns
    -------
    ndarray of shape (U * 20, V * 20), float32
    """
    contrast = contrast if contrast is not None else contrast_of(mean_cell(tiles, mask))
    prediction = np.zeros_like(tiles)
    cells_of = as_cells(prediction, PX_PER_CELL)
    latents = np.zeros((*mask.shape, careful.engine.vae.config.latent), dtype=np.float32)

    def encode(cells: npt.NDArray[np.intp]) -> None:
        latents[cells[:, 0], cells[:, 1]] = careful.run("encode", patches_of(rimmed, cells))

    def decode(cells: npt.NDArray[np.intp]) -> None:
        decoded = careful.run("decode", smooth[cells[:, 0], cells[:, 1]])
        cells_of[cells[:, 0], cells[:, 1]] = 1 + contrast * decoded

    if careful.engine.device == "cuda":
        with own_stream("cuda"):
            engine, there = careful.engine, OnDevice(careful.engine, mask, width)
            return engine.to_host(network_on_gpu(careful, engine.to_device(tiles), there, contrast))
    torch.set_num_threads(1)
    rimmed, read = standardised(padded(tiles), contrast), read_cells(mask, width)
    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        list(pool.map(encode, chunk_cells(read)))
        smooth = smooth_latents(latents, read, width)
        list(pool.map(decode, chunk_cells(mask)))
    return prediction


@torch.inference_mode()
def network_on_gpu(careful: Careful, tiles: torch.Tensor, there: OnDevice, contrast: float) -> torch.Tensor:
    """`predict_bulk` where the tiles are, on a GPU: patches are cut there, and nothing comes back in between.

    Parameters
    ----------
    tiles : tensor of shape (U * 20, V * 20), float32

    Returns
    -------
    tensor of shape (U * 20, V * 20), float32, on the same device
    """
    half = CELL_PX // 2
    rimmed = torch.nn.functional.pad(tiles[None, None], (half, half, half, half), mode="reflect")[0, 0]
    rimmed = ((rimmed - 1) / contrast).contiguous()
    latents = torch.zeros((*there.shape, careful.engine.vae.config.latent), device=tiles.device)
    careful.each("encode_at", there.read.cells, rimmed, latents)
    prediction = torch.zeros_like(tiles)
    careful.each("decode_at", there.cells, smooth_latents_on_gpu(latents, there.read), contrast, prediction)
    return prediction


@torch.inference_mode()
def predict_on_gpu(careful: Careful, tiles: Float, mask: Mask, width: float, contrast: float) -> tuple[Float, Float]:
    """Raw prediction and the one with the image's own mean residual, by a GPU: tiles go there once, both come back."""
    engine = careful.engine
    with own_stream(engine.device):
        there, seen = OnDevice(engine, mask, width), engine.to_device(tiles)
        raw = network_on_gpu(careful, seen, there, contrast)
        whole = raw + own_residual_on_gpu(there.masked(seen - raw), there)
        return engine.to_host(raw), engine.to_host(whole)


def contrast_of(cell: npt.NDArray[np.float64]) -> float:
    """Contrast of a mean cell, its standard deviation; never 0."""
    return max(float(cell.std()), 1e-6)
