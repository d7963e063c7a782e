"""The variational autoencoder of crops: what thickness, focus and drift do to a crop beyond its periodic cell.

A network of its own, with the pipeline's loss: its input is cut by the rim of the crop, and what it draws must hold for
all cells of the crop at once, of a lattice that is known from some hundred crops only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oddlattice.benchmark.crops.columns import CANVAS_PX, SIDE_PX, Site, window_start
from oddlattice.model.vae import loss_terms
from oddlattice.numerics.arrays import Float

Mask = npt.NDArray[np.bool_]

LATENT = 8
CHANNELS = (16, 32, 64)
BASIS = 48
STEPS = 600
BATCH = 64
LEARNING_RATE = 2e-3
DEFECT_PART = 0.7  # of the patches get changed columns; the target stays bulk


class CropVAE(nn.Module):
    """Masked patch (B, 2, m, m) -> posterior of the latents -> patch of bulk (B, 1, m, m).

    As `vae.VAE`: the latents stand for conditions, the decoder weighs what it has learned. What it draws repeats with
    the cell and varies linearly over the crop, so it can draw a condition but neither an odd column nor noise. The
    second channel of the input says where the crop shows something.
    """

    ramps: Tensor

    def __init__(self, side: int, period: int, latent: int = LATENT, basis: int = BASIS) -> None:
        super().__init__()
        c1, c2, c3 = CHANNELS
        self.side, self.period = side, period
        line = torch.linspace(-1, 1, side)
        ramps = torch.stack([torch.ones(side, side), line[:, None].expand(side, side), line.expand(side, side)])
        self.register_buffer("ramps", ramps if period < side else ramps[:1])  # (r, m, m)
        self.encoder = nn.Sequential(
            nn.Conv2d(2, c1, kernel_size=4, stride=4),  # (B, c1, m/4, m/4)
            nn.GELU(approximate="tanh"),
            nn.Conv2d(c1, c2, kernel_size=3, stride=2, padding=1),  # (B, c2, m/8, m/8)
            nn.GELU(approximate="tanh"),
            nn.Conv2d(c2, c3, kernel_size=3, stride=2, padding=1),  # (B, c3, m/16, m/16)
            nn.GELU(approximate="tanh"),
            nn.Flatten(),
        )
        with torch.no_grad():
            features = self.encoder(torch.zeros(1, 2, side, side)).shape[1]
        self.posterior = nn.Linear(features, 2 * latent)  # (B, 2 latent): mean, log variance
        self.decoder = nn.Sequential(
            nn.Linear(latent, basis), nn.GELU(approximate="tanh"), nn.Linear(basis, basis)
        )  # (B, basis)
        self.cells = nn.Linear(basis, len(self.ramps) * period**2, bias=False)  # (B, r p p)
        self.bulk = nn.Parameter(torch.zeros(period**2))

    @torch.no_grad()
    def start_from(self, bulk: Tensor, seen: Tensor) -> None:
        """Begin with the mean and the principal components of the mean cells of bulk patches (n, m, m)."""
        folded, count = (self._folded(part) for part in (bulk * seen, seen))
        flat = folded / count.clamp(min=1)
        self.bulk.copy_(flat.mean(0))
        _, size, components = torch.linalg.svd(flat - self.bulk, full_matrices=False)
        rank = min(self.cells.weight.shape[1], len(size))
        self.cells.weight.zero_()
        self.cells.weight[: self.period**2, :rank] = (components[:rank] * size[:rank, None] / len(flat) ** 0.5).T

    def _folded(self, patch: Tensor) -> Tensor:
        count = self.side // self.period
        return patch.reshape(-1, count, self.period, count, self.period).sum((1, 3)).flatten(1)

    def encode(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, each (B, latent)."""
        mean, log_variance = self.posterior(self.encoder(patch)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 8.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Bulk patch (B, 1, m, m)."""
        count = self.side // self.period
        cells = self.cells(self.decoder(latent)).unflatten(1, (len(self.ramps), self.period, self.period))
        drawn: Tensor = (cells.tile(count, count) * self.ramps).sum(1)
        return (drawn + self.bulk.reshape(self.period, self.period).tile(count, count))[:, None]


@dataclass(frozen=True)
class TrainingSet:
    """Patches to learn from.

    Attributes
    ----------
    patches : ndarray of shape (n, m, m), float32
    seen : ndarray of shape (n, m, m), bool
    variance : ndarray of shape (m, m), float32
        Of the noise.
    correlation_px : float
        Pixels over which the noise is one and the same.
    sites : list of Site
        Columns that are changed in the inputs; none where there is no lattice.
    period : int
        Pixels after which what the network draws repeats; m where there is no lattice.
    """

    patches: Float
    seen: Mask
    variance: Float
    correlation_px: float
    sites: list[Site]
    period: int


def paste_changes(patches: Float, seen: Mask, sites: list[Site], rng: np.random.Generator) -> Float:
    """Add a changed column, whole or in part, to a random part of the patches (n, m, m)."""
    out = patches.copy()
    side = patches.shape[1]
    for k in np.flatnonzero(rng.random(len(patches)) < DEFECT_PART) if sites else ():
        site = sites[rng.integers(len(sites))]
        low = window_start(site.u, site.v) + CANVAS_PX * rng.integers(0, side // CANVAS_PX, 2)
        high = np.minimum(low + SIDE_PX, side)
        first = np.maximum(low, 0)
        part = slice(first[0], high[0]), slice(first[1], high[1])
        cut = tuple(slice(a - b, c - b) for a, b, c in zip(first, low, high, strict=True))
        change = site.changes[rng.integers(len(site.changes))] * rng.uniform(0.2, 1.0)
        out[k][part] += change[cut] * seen[k][part]
    return out


def _inputs(patches: Float, seen: Mask, scale: float) -> Tensor:
    return torch.from_numpy(np.stack([patches / scale, seen.astype(np.float32)], axis=1).astype(np.float32))


@dataclass(frozen=True)
class Predictor:
    """A trained network and the unit of its input."""

    network: CropVAE
    scale: float

    def predict(self, patches: Float, seen: Mask) -> Float:
        """Bulk patches (n, m, m) from the posterior means; 0 where the crop shows nothing."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(patches), 256):
                which = slice(start, start + 256)
                latent, _ = self.network.encode(_inputs(patches[which], seen[which], self.scale))
                parts.append(self.network.decode(latent)[:, 0].numpy())
        return np.asarray(np.concatenate(parts) * self.scale * seen, dtype=np.float32)


def train_predictor(
    data: TrainingSet, seed: int, steps: int = STEPS, say: Callable[[str], None] = lambda _: None
) -> Predictor:
    """Train on bulk patches with changed columns pasted into the inputs: the same seed gives the same weights.

    The loss is that of the pipeline's network (`loss_terms`), where the crop shows something.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed + 1)
    torch.manual_seed(seed)
    scale = float(np.sqrt(data.variance.mean()))
    network = CropVAE(data.patches.shape[1], data.period)
    network.start_from(torch.from_numpy(data.patches / scale), torch.from_numpy(data.seen.astype(np.float32)))
    variance = torch.from_numpy((data.variance * data.correlation_px / scale**2).astype(np.float32))
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        some = rng.integers(0, len(data.patches), BATCH)
        target, seen = data.patches[some], data.seen[some]
        inputs = _inputs(paste_changes(target, seen, data.sites, rng), seen, scale)
        shown = torch.where(torch.from_numpy(seen), variance, torch.inf)[
            :, None
        ]  # nothing is asked where nothing shows
        misfit, divergence = loss_terms(network, inputs, torch.from_numpy(target / scale)[:, None], shown, generator)
        loss = misfit.mean() + divergence.mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            say(f"step {step}: loss {loss.item():.1f} nats a crop, divergence {divergence.mean().item():.2f}")
    return Predictor(network.eval(), scale)
