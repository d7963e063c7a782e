"""Bulk prediction over the cells of an image: VAE per chunk, then the image's own mean residual taken up."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.columns import as_cells, mean_cell
from oddlattice.model.patches import standardised
from oddlattice.model.vae import VAE
from oddlattice.numerics.arrays import Float
from oddlattice.numerics.local_plane import Planes, planes_through
from oddlattice.numerics.medians import median

CHUNK_CELLS = 32  # a chunk is 32x32 cells: one batch


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (without, bfloat16 is far slower than float32)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return " avx512_bf16" in flags or " amx_bf16" in flags


@dataclass(frozen=True)
class Engine:
    """A network ready to predict on a device.

    Attributes
    ----------
    vae : VAE
    device : str
        ``cpu`` or ``cuda``.
    bf16 : bool
    """

    vae: VAE
    device: str
    bf16: bool

    @classmethod
    def start(cls, vae: VAE, device: str = "auto", precision: str = "auto") -> "Engine":
        """Choose the device and the number format: bfloat16 where the hardware has it.

        Raises
        ------
        ValueError
            If a GPU is asked for and there is none.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("infer.device: found cuda, but no GPU is usable here; use auto or cpu")
        chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        bf16 = precision == "bfloat16" or (precision == "auto" and (chosen == "cuda" or cpu_has_bf16()))
        moved = vae.eval().to(chosen, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(moved, chosen, bf16)

    def encode(self, patches: Float) -> Float:
        """Posterior mean of the latents, (n, latent) float32, of patches (n, 40, 40) float32."""
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            mean, _ = self.vae.encode(torch.from_numpy(patches)[:, None].to(self.device))
        return np.asarray(mean.float().cpu().numpy(), dtype=np.float32)

    def there(self, values: Float) -> torch.Tensor:
        """An array on the device; by way of pinned memory to a GPU, so that the copy does not wait for its work."""
        here = torch.from_numpy(values)
        return here.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else here

    def here(self, values: torch.Tensor) -> Float:
        """A tensor of the device as an array; by way of pinned memory from a GPU."""
        if self.device != "cuda":
            return np.asarray(values.numpy(), dtype=np.float32)
        back = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return np.asarray(back.copy_(values).numpy(), dtype=np.float32)

    def encode_at(
        self, cells: npt.NDArray[np.intp], rimmed: torch.Tensor, latents: torch.Tensor
    ) -> npt.NDArray[np.intp]:
        """`encode` of the patches about `cells` (n, 2), cut from tiles with a rim, into `latents` (U, V, k) there."""
        rows, cols = rimmed.shape
        side = 2 * CELL_PX
        view = rimmed.as_strided(
            (rows // CELL_PX - 1, cols // CELL_PX - 1, side, side), (CELL_PX * cols, CELL_PX, cols, 1)
        )
        u, v = torch.from_numpy(cells.T.copy()).to(rimmed.device)
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            mean, _ = self.vae.encode(view[u, v][:, None].to(self.device))
            latents[u, v] = mean.float().to(latents.device)
        return cells

    def decode_at(
        self, cells: npt.NDArray[np.intp], latents: torch.Tensor, contrast: float, prediction: torch.Tensor
    ) -> npt.NDArray[np.intp]:
        """`decode` for `cells` (n, 2), written in units of the local mean into `prediction` (U * 20, V * 20) there."""
        u, v = torch.from_numpy(cells.T.copy()).to(prediction.device)
        rows, cols = (n // CELL_PX for n in prediction.shape)
        with torch.inference_mode():
            out = self.vae.decode_centre(latents[u, v].to(self.device))
            scaled = (1 + contrast * out[:, 0]).to(prediction.device)
            prediction.view(rows, CELL_PX, cols, CELL_PX)[u, :, v] = scaled
        return cells

    def decode(self, latents: Float) -> Float:
        """Central cells (n, 20, 20) float32 that latents (n, latent) float32 stand for.

        In float32: the decoder's rounding would otherwise be seen in bright columns.
        """
        with torch.inference_mode():
            out = self.vae.decode_centre(torch.from_numpy(latents).to(self.device))
        return np.asarray(out[:, 0].cpu().numpy(), dtype=np.float32)


class Careful:
    """Runs batches; when the GPU's memory runs out the batch is halved, and below 64 the CPU goes on.

    Parameters
    ----------
    engine : Engine
    batch : int
        Patches at once.
    say : callable
        Told of every fall-back.
    """

    def __init__(
        self, engine: Engine, batch: int = CHUNK_CELLS**2, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.engine, self.batch, self.say = engine, batch, say

    def run(self, verb: str, given: npt.NDArray[Any], *others: Any) -> npt.NDArray[Any]:
        """Apply the engine's `verb` (``encode``, ``decode``...) to all rows of `given`, with `others` every time."""
        parts, start = [], 0
        while start < len(given):
            try:
                parts.append(getattr(self.engine, verb)(given[start : start + self.batch], *others))
                start += self.batch
            except torch.OutOfMemoryError:
                if self.engine.device != "cuda":
                    raise
                self._fall_back()
        return np.concatenate(parts)

    def _fall_back(self) -> None:
        torch.cuda.empty_cache()
        if self.batch >= 128:
            self.batch //= 2
            self.say(f"GPU memory is short: batch halved to {self.batch} patches")
        else:
            self.engine, self.batch = Engine.start(self.engine.vae, "cpu"), CHUNK_CELLS**2
            self.say("GPU memory is too short for 64 patches: going on with the CPU")


def padded(tiles: Float) -> Float:
    """Tiles with half a cell of reflected rim, so that rim cells have a patch too; shape (U*20 + 20, V*20 + 20)."""
    return np.pad(tiles, CELL_PX // 2, mode="reflect")


def patches_of(rimmed: Float, cells: npt.NDArray[np.intp]) -> Float:
    """Patches (n, 40, 40) about `cells` (n, 2), cut from tiles with a rim (see `padded`)."""
    view = np.lib.stride_tricks.sliding_window_view(rimmed, (2 * CELL_PX, 2 * CELL_PX))
    return np.ascontiguousarray(view[cells[:, 0] * CELL_PX, cells[:, 1] * CELL_PX])


def chunk_cells(mask: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.intp]]:
    """Analysed cells (u, v) of each chunk of 32x32 cells, in order; chunks without any are left out."""
    found = []
    for i in range(0, mask.shape[0], CHUNK_CELLS):
        for j in range(0, mask.shape[1], CHUNK_CELLS):
            inside = np.argwhere(mask[i : i + CHUNK_CELLS, j : j + CHUNK_CELLS])
            if len(inside):
                found.append(inside + np.array([i, j]))
    return found


def smooth_latents(latents: Float, mask: npt.NDArray[np.uint8], width: float) -> Float:
    """The conditions of the microscope and the thickness vary slowly: so do their latents.

    Every patch's posterior mean is a noisy reading of them, and a defect's patch a wrong one. A local line through the
    readings, with those beyond three robust standard deviations clipped, is both quieter and blind to single defects.

    Parameters
    ----------
    latents : ndarray of shape (U, V, n), float32
    mask : ndarray of shape (U, V), uint8
    width : float
        Width of the neighbourhood [cells].
    """
    good = mask.astype(bool)
    planes = Planes(good.astype(np.float64), width)
    layers = latents.transpose(2, 0, 1).astype(np.float64)
    smooth = planes.smooth(layers)
    off = (layers - smooth)[:, good]
    spread = 3 * 1.4826 * median(np.abs(off - median(off, keepdims=True)), keepdims=True) + 1e-9
    layers[:, good] = smooth[:, good] + np.clip(off, -spread, spread)
    return planes.smooth(layers).transpose(1, 2, 0).astype(np.float32)


def predict_bulk(
    careful: Careful,
    tiles: Float,
    mask: npt.NDArray[np.uint8],
    width: float,
    threads: int = 1,
    contrast: float | None = None,
) -> Float:
    """The network's prediction of every analysed cell, 0 elsewhere.

    Every patch is encoded; the latents are smoothed over the field; every cell is decoded. The work is cut into the
    same chunks whatever `threads` is, and one thread computes a chunk, so the bytes do not depend on it.

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
    cells_of = as_cells(prediction)
    latents = np.zeros((*mask.shape, careful.engine.vae.config.latent), dtype=np.float32)

    def encode(cells: npt.NDArray[np.intp]) -> None:
        latents[cells[:, 0], cells[:, 1]] = careful.run("encode", patches_of(rimmed, cells))

    def decode(cells: npt.NDArray[np.intp]) -> None:
        decoded = careful.run("decode", smooth[cells[:, 0], cells[:, 1]])
        cells_of[cells[:, 0], cells[:, 1]] = 1 + contrast * decoded

    if careful.engine.device == "cuda":
        engine = careful.engine
        return engine.here(predict_there(careful, engine.there(tiles), mask, width, contrast))
    torch.set_num_threads(1)
    rimmed, chunks = standardised(padded(tiles), contrast), chunk_cells(mask)
    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        list(pool.map(encode, chunks))
        smooth = smooth_latents(latents, mask, width)
        list(pool.map(decode, chunks))
    return prediction


@torch.inference_mode()
def predict_there(
    careful: Careful, tiles: torch.Tensor, mask: npt.NDArray[np.uint8], width: float, contrast: float
) -> torch.Tensor:
    """`predict_bulk` where the tiles are, on a GPU: patches are cut there, and nothing comes back in between.

    Parameters
    ----------
    tiles : tensor of shape (U * 20, V * 20), float32

    Returns
    -------
    tensor of shape (U * 20, V * 20), float32, on the same device
    """
    cells, half = np.argwhere(mask), CELL_PX // 2
    rimmed = torch.nn.functional.pad(tiles[None, None], (half, half, half, half), mode="reflect")[0, 0]
    rimmed = ((rimmed - 1) / contrast).contiguous()
    latents = torch.zeros((*mask.shape, careful.engine.vae.config.latent), device=tiles.device)
    careful.run("encode_at", cells, rimmed, latents)
    prediction = torch.zeros_like(tiles)
    careful.run("decode_at", cells, smooth_latents_there(latents, mask, width), contrast, prediction)
    return prediction


def _median(values: torch.Tensor) -> torch.Tensor:
    """Median along the last axis, as numpy has it, kept as an axis of length 1."""
    line, n = values.sort(dim=-1).values, values.shape[-1]
    return (line[..., (n - 1) // 2, None] + line[..., n // 2, None]) / 2


def _planes_there(good: npt.NDArray[np.bool_], width: float, like: torch.Tensor) -> list[torch.Tensor]:
    """Terms of `planes_through` beside a tensor."""
    kind = np.float64 if like.dtype == torch.float64 else np.float32
    return [torch.from_numpy(x).to(like.device) for x in Planes(good.astype(np.float64), width).terms(kind)]


def smooth_latents_there(latents: torch.Tensor, mask: npt.NDArray[np.uint8], width: float) -> torch.Tensor:
    """`smooth_latents` where they are; (U, V, n) to (U, V, n), float32."""
    good = torch.from_numpy(mask.astype(bool)).to(latents.device)
    layers = latents.permute(2, 0, 1).double()
    terms = _planes_there(mask > 0, width, layers)
    smooth = planes_through(layers, *terms)
    off = (layers - smooth)[:, good]
    spread = 3 * 1.4826 * _median((off - _median(off)).abs()) + 1e-9
    layers[:, good] = smooth[:, good] + torch.minimum(torch.maximum(off, -spread), spread)
    return torch.as_tensor(planes_through(layers, *terms)).permute(1, 2, 0).float().contiguous()


def own_mean_there(residual: torch.Tensor, mask: npt.NDArray[np.uint8], local_cells: float) -> torch.Tensor:
    """`own_mean` where the residual is."""
    rows, cols = mask.shape
    out = torch.zeros_like(residual)
    good = torch.from_numpy(mask.astype(bool)).to(residual.device)
    if not mask.any():
        return out
    cells, means = (x.view(rows, CELL_PX, cols, CELL_PX) for x in (residual, out))
    terms = _planes_there(mask > 0, local_cells, residual)
    for row in range(CELL_PX):  # a row of the cell at a time: memory stays small
        here = cells[:, row].permute(2, 0, 1)[:, good]
        middle = _median(here)
        spread = 3 * (1.4826 * _median((here - middle).abs()) + 1e-9)
        field = torch.zeros((CELL_PX, rows, cols), device=residual.device)
        field[:, good] = torch.minimum(torch.maximum(here - middle, -spread), spread)
        means[:, row].permute(2, 0, 1)[:, good] = middle + planes_through(field, *terms)[:, good]
    return out


@torch.inference_mode()
def whole_there(
    careful: Careful, tiles: Float, mask: npt.NDArray[np.uint8], width: float, contrast: float
) -> tuple[Float, Float]:
    """Raw prediction and the one with the image's own mean residual, by a GPU: tiles go there once, both come back."""
    engine = careful.engine
    seen = engine.there(tiles)
    raw = predict_there(careful, seen, mask, width, contrast)
    wide = torch.from_numpy(mask.astype(np.float32)).to(seen.device)
    known = wide.repeat_interleave(CELL_PX, 0).repeat_interleave(CELL_PX, 1)
    return engine.here(raw), engine.here(raw + own_mean_there((seen - raw) * known, mask, width))


def own_mean(residual: Float, mask: npt.NDArray[np.uint8], local_cells: float, threads: int = 1) -> Float:
    """What the prediction misses everywhere in this image: the robust mean residual of a cell, slowly varying.

    The residual of each pixel of the cell is clipped at three robust standard deviations about its median over the
    image, then follows a local line over `local_cells`; a single odd column changes it by less than 1 %.

    Parameters
    ----------
    residual : ndarray of shape (U * 20, V * 20), float32
    mask : ndarray of shape (U, V), uint8
    local_cells : float
        Width of the Gaussian [cells].

    Returns
    -------
    ndarray of shape (U * 20, V * 20), float32; 0 on masked cells
    """
    out = np.zeros_like(residual)
    cells, mean_cells = as_cells(residual), as_cells(out)
    good = mask.astype(bool)
    if not good.any():
        return out
    planes = Planes(good.astype(np.float64), local_cells)

    def take_up(row: int) -> None:  # a row of the cell at a time: memory stays small
        here = np.ascontiguousarray(cells[:, :, row][good].T)  # (20, n)
        middle = median(here, keepdims=True)
        here -= middle
        spread = np.float32(1.4826) * median(np.abs(here), keepdims=True) + np.float32(1e-9)
        field = np.zeros((CELL_PX, *mask.shape), dtype=np.float32)
        field[:, good] = np.clip(here, -3 * spread, 3 * spread)
        mean_cells[:, :, row][good] = (middle + planes.smooth(field)[:, good]).T

    with ThreadPoolExecutor(max(1, min(threads, os.cpu_count() or 1))) as pool:
        list(pool.map(take_up, range(CELL_PX)))
    return out


def contrast_of(cell: npt.NDArray[np.float64]) -> float:
    """Contrast of a mean cell, its standard deviation; never 0."""
    return max(float(cell.std()), 1e-6)
