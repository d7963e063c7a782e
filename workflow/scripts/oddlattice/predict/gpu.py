"""The network on a device: which one, in which precision, and what happens when its memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock, local
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from oddlattice.crystal import CELL_PX
from oddlattice.lattice.subareas import CHUNK_CELLS
from oddlattice.model.vae import VAE
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.numerics.local_plane import Planes, planes_through
from oddlattice.predict.readings import read_cells


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
        if chosen == "cuda":
            torch.cuda.synchronize()  # the threads of the images have streams of their own
        return cls(moved, chosen, bf16)

    def encode(self, patches: Float) -> Float:
        """Posterior mean of the latents, (n, latent) float32, of patches (n, 40, 40) float32."""
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            mean, _ = self.vae.encode(torch.from_numpy(patches)[:, None].to(self.device))
        return np.asarray(mean.float().cpu().numpy(), dtype=np.float32)

    def to_device(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """An array on the device; by way of pinned memory to a GPU, so that the copy does not wait for its work."""
        here = torch.from_numpy(values)
        return here.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else here

    def to_host(self, values: torch.Tensor) -> Float:
        """A tensor of the device as an array; by way of pinned memory from a GPU."""
        if self.device != "cuda":
            return np.asarray(values.numpy(), dtype=np.float32)
        back = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return np.asarray(back.copy_(values).numpy(), dtype=np.float32)

    def encode_at(self, cells: torch.Tensor, rimmed: torch.Tensor, latents: torch.Tensor) -> None:
        """`encode` of the patches about `cells` (n, 2), cut from tiles with a rim, into `latents` (U, V, k) there."""
        rows, cols = rimmed.shape
        side = 2 * CELL_PX
        view = rimmed.as_strided(
            (rows // CELL_PX - 1, cols // CELL_PX - 1, side, side), (CELL_PX * cols, CELL_PX, cols, 1)
        )
        u, v = cells.unbind(1)
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            mean, _ = self.vae.encode(view[u, v][:, None].to(self.device))
            latents[u, v] = mean.float().to(latents.device)

    def decode_at(self, cells: torch.Tensor, latents: torch.Tensor, contrast: float, prediction: torch.Tensor) -> None:
        """`decode` for `cells` (n, 2), written in units of the local mean into `prediction` (U * 20, V * 20) there."""
        u, v = cells.unbind(1)
        rows, cols = (n // CELL_PX for n in prediction.shape)
        with torch.inference_mode():
            out = self.vae.decode_centre(latents[u, v].to(self.device))
            scaled = (1 + contrast * out[:, 0]).to(prediction.device)
            prediction.view(rows, CELL_PX, cols, CELL_PX)[u, :, v] = scaled

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
        self._lock = Lock()

    def run(self, verb: str, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Apply the engine's `verb` (``encode`` or ``decode``) to all rows of `given`."""
        return np.concatenate(self.each(verb, given))

    def each(self, verb: str, given: Any, *others: Any) -> list[Any]:
        """What the engine's `verb` gives for batches of rows of `given`, an array or a tensor, with `others`."""
        found, start = list[Any](), 0
        while start < len(given):
            engine, batch = self.engine, self.batch
            try:
                found.append(getattr(engine, verb)(given[start : start + batch], *others))
                start += batch
            except torch.OutOfMemoryError:
                if engine.device != "cuda":
                    raise
                self._fall_back(batch)
        return found

    def _fall_back(self, tried: int) -> None:
        with self._lock:  # images are predicted side by side
            torch.cuda.empty_cache()
            if self.engine.device != "cuda" or self.batch < tried:
                return
            if self.batch >= 128:
                self.batch //= 2
                self.say(f"GPU memory is short: batch halved to {self.batch} patches")
            else:
                self.engine, self.batch = Engine.start(_on_cpu(self.engine.vae), "cpu"), CHUNK_CELLS**2
                self.say("GPU memory is too short for 64 patches: going on with the CPU")


def _on_cpu(vae: VAE) -> VAE:
    """A copy of a network beside the processor; the one on the GPU goes on where it is in use."""
    copy = VAE(vae.config)
    copy.load_state_dict({name: values.cpu() for name, values in vae.state_dict().items()})
    return copy


def median_of(values: torch.Tensor) -> torch.Tensor:
    """Median along the last axis, as numpy has it, kept as an axis of length 1."""
    line, n = values.sort(dim=-1).values, values.shape[-1]
    return (line[..., (n - 1) // 2, None] + line[..., n // 2, None]) / 2


class OnDevice:
    """The analysed cells of an image and the planes through them, on a device.

    Made once an image, before its work: nothing on a GPU has to wait for the processor after that.

    Parameters
    ----------
    engine : Engine
    mask : ndarray of shape (U, V), uint8
    width : float
        Of the planes [cells].
    """

    def __init__(self, engine: Engine, mask: Mask, width: float) -> None:
        self._given = engine, mask
        self.shape, self.width = (mask.shape[0], mask.shape[1]), width
        self.cells = engine.to_device(np.argwhere(mask))
        self._index = engine.to_device(np.flatnonzero(mask))
        self._mask = engine.to_device(mask.astype(np.float32))
        planes = Planes(mask.astype(np.float64), width)
        self._terms = {
            kind: [engine.to_device(np.ascontiguousarray(x)) for x in planes.terms(as_numpy)]
            for kind, as_numpy in ((torch.float64, np.float64), (torch.float32, np.float32))
        }

    @cached_property
    def read(self) -> "OnDevice":
        """The same of the cells that are read."""
        engine, mask = self._given
        return OnDevice(engine, read_cells(mask, self.width), self.width)

    def of_cells(self, layers: torch.Tensor) -> torch.Tensor:
        """Values (k, n) of layers (k, U, V) in the analysed cells."""
        return layers.flatten(1).index_select(1, self._index)

    def laid_out(self, values: torch.Tensor) -> torch.Tensor:
        """Layers (k, U, V) of values (k, n) of the analysed cells, 0 elsewhere."""
        layers = values.new_zeros(len(values), self.shape[0] * self.shape[1])
        return layers.index_copy_(1, self._index, values).view(-1, *self.shape)

    def masked(self, values: torch.Tensor) -> torch.Tensor:
        """A map (U 20, V 20) with 0 in the cells that are not analysed."""
        rows, cols = self.shape
        cells = values.view(rows, CELL_PX, cols, CELL_PX) * self._mask[:, None, :, None]
        return cells.view(values.shape)

    def smooth(self, layers: torch.Tensor) -> torch.Tensor:
        """`Planes.smooth` of layers (k, U, V)."""
        return torch.as_tensor(planes_through(layers, *self._terms[layers.dtype]))


_threads = local()


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Work of this thread on a GPU goes on beside that of other threads."""
    if device != "cuda":
        yield
        return
    if not hasattr(_threads, "stream"):
        _threads.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_threads.stream):
        yield
