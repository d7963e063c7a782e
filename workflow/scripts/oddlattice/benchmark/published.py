"""The published method, its faults mended: one patch in, one patch out, a rule on the largest difference.

What is as published: patches of 64 x 64 px at 23.8 px a cell, blurred by 2 px; the network, its loss and its training;
the score (average near maximum) and the band of 1.5 standard deviations of bulk.
What is mended: every patch is compared with its own prediction, from the posterior mean of its own latents; the scale
is the image's brightness, not the patch's own maximum, which a defect changes.
What is given to it: the registration of the others. Its patches are centred on columns, in training and in use, so that
it need not learn every phase of the lattice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save
from scipy import ndimage
from torch import Tensor, nn

from oddlattice.benchmark.fields import compose_field, detection_conditions
from oddlattice.benchmark.plans import Plan
from oddlattice.crystal import CELL_PX, Crystal
from oddlattice.defects import published_score
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.registration import render
from oddlattice.numerics.arrays import Float
from oddlattice.predict.gpu import cpu_has_bf16
from oddlattice.simulate.library import Library

PATCH_PX = 64
PX_PER_CELL = 23.8
BLUR_PX = 2.0
THRESHOLD = 0.2
BOX_PX = 13
LATENT = 20
BATCH = 16
LEARNING_RATE = 1e-4
REACH_CELLS = PATCH_PX / PX_PER_CELL / 2


class PublishedVAE(nn.Module):
    """Patch (B, 1, 64, 64) in [0, 1] -> latents (B, 20) -> patch (B, 1, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 64, 3, stride=2),  # (B, 64, 31, 31)
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2),  # (B, 128, 15, 15)
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, stride=2),  # (B, 128, 7, 7)
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128 * 7 * 7, 2 * LATENT),  # (B, 40): mean, log variance
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 8 * 8 * 32),
            nn.ReLU(),
            nn.Unflatten(1, (32, 8, 8)),
            nn.ConvTranspose2d(32, 128, 3, stride=2, padding=1, output_padding=1),  # (B, 128, 16, 16)
            nn.ReLU(),
            nn.ConvTranspose2d(128, 128, 3, stride=2, padding=1, output_padding=1),  # (B, 128, 32, 32)
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1),  # (B, 64, 64, 64)
            nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 3, padding=1),  # (B, 1, 64, 64)
        )

    def encode(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, each (B, 20)."""
        mean, log_variance = self.encoder(patch).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def forward(self, patch: Tensor) -> Tensor:
        """Prediction from the posterior mean, in [0, 1]."""
        out: Tensor = torch.sigmoid(self.decoder(self.encode(patch)[0]))
        return out

    def loss(self, patch: Tensor, generator: torch.Generator) -> Tensor:
        """Binary cross-entropy summed over the patch, plus the divergence; mean over the batch."""
        mean, log_variance = self.encode(patch)
        noise = torch.randn(mean.shape, generator=generator)
        drawn = self.decoder(mean + noise * torch.exp(0.5 * log_variance))
        entropy = nn.functional.binary_cross_entropy_with_logits(drawn, patch, reduction="none").sum(dim=(1, 2, 3))
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return (entropy + divergence).mean()


def prepared(tiles: Float) -> Float:
    """A registered image (20 px a cell) as the method sees it: 23.8 px a cell, blurred, 1 at the brightest.

    Brightest is the 99.9th percentile of the whole image, so that noise and defects do not set the scale.
    """
    wide = ndimage.zoom(tiles, PX_PER_CELL / CELL_PX, order=3, grid_mode=True, mode="mirror")
    smooth = ndimage.gaussian_filter(wide, BLUR_PX)
    top = float(np.percentile(smooth[smooth > 0], 99.9)) if (smooth > 0).any() else 1.0
    return np.asarray(np.clip(smooth / top, 0.0, 1.0), dtype=np.float32)


def whole_patches(tiles: Float, uv: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Whether a patch centred on lattice coordinates `uv` (n, 2) [cells] has data (tiles > 0) everywhere."""
    half = int(np.ceil(REACH_CELLS * CELL_PX)) + 3
    known = ndimage.minimum_filter((tiles > 0).astype(np.uint8), size=2 * half + 1, mode="constant", cval=0)
    row, col = np.clip(np.rint(uv * CELL_PX).astype(int), 0, np.array(tiles.shape) - 1).T
    return np.asarray(known[row, col] > 0)


def patches_at(image: Float, uv: npt.NDArray[np.floating]) -> Float:
    """Patches (n, 64, 64) centred on lattice coordinates `uv` (n, 2) [cells] to the nearest pixel.

    Raises
    ------
    ValueError
        If a patch would leave the image.
    """
    start = np.rint(uv * PX_PER_CELL - PATCH_PX / 2).astype(int)
    if len(start) and (start.min() < 0 or (start + PATCH_PX > np.array(image.shape)).any()):
        raise ValueError(f"patches of {PATCH_PX} px reach beyond an image of {image.shape[0]} x {image.shape[1]} px")
    view = np.lib.stride_tricks.sliding_window_view(image, (PATCH_PX, PATCH_PX))
    return np.ascontiguousarray(view[start[:, 0], start[:, 1]])


def train_published(
    patches: Float, epochs: int, seed: int, say: Callable[[str], None] = lambda _: None, rate: float = LEARNING_RATE
) -> PublishedVAE:
    """Train on bulk patches (n, 64, 64): Adam, batches of 16, `epochs` passes; 200 at a rate of 1e-4 as published."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    model = PublishedVAE()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    data = torch.from_numpy(patches)[:, None]
    fast = cpu_has_bf16()
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        total = 0.0
        for start in range(0, len(data) - BATCH + 1, BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = model.loss(data[order[start : start + BATCH]], generator)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * BATCH
        if epoch % 10 == 0 or epoch == epochs - 1:  # as published it takes half an hour
            say(f"published method: epoch {epoch + 1} of {epochs}, loss {total / len(data):.1f} nats per patch")
    return model.eval()


def predict(model: PublishedVAE, patches: Float) -> Float:
    """Predictions (n, 64, 64) of patches (n, 64, 64), each from its own latents."""
    with torch.inference_mode():
        found = [
            model(torch.from_numpy(patches[start : start + 16])[:, None])[:, 0].numpy()
            for start in range(0, len(patches), 16)  # so few stay in the processor's cache
        ]
    return np.concatenate(found) if found else np.empty((0, PATCH_PX, PATCH_PX), np.float32)


def average_near_maximum(difference: Float, threshold: float = THRESHOLD) -> npt.NDArray[np.float64]:
    """The published score: differences below `threshold` set to 0, signed mean of the box at the largest; shape (n,).

    Boxes are cut off at the border of the patch.
    """
    kept = np.where(np.abs(difference) < threshold, np.float32(0), difference)
    return published_score.average_near_maximum(kept, BOX_PX)


@dataclass(frozen=True)
class Band:
    """What the published rule calls bulk: scores within `width` standard deviations of the mean of bulk."""

    mean: float
    std: float
    width: float = 1.5

    @classmethod
    def of(cls, bulk: npt.NDArray[np.floating], width: float = 1.5) -> "Band":
        """The band of bulk scores (n,)."""
        return cls(float(bulk.mean()), float(bulk.std()), width)

    def outside(self, score: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which scores the rule calls defects."""
        return np.asarray(np.abs(score - self.mean) > self.width * self.std)


def save_published(model: PublishedVAE, path: Path) -> None:
    """Write the weights as safetensors."""
    path.write_bytes(save({key: value.contiguous() for key, value in model.state_dict().items()}))


def load_published(path: Path) -> PublishedVAE:
    """Read weights written by `save_published`."""
    model = PublishedVAE()
    model.load_state_dict(load_file(str(path)))
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def bulk_patches(plan: Plan, library: Library, crystal: Crystal, seed: int) -> Float:
    """Patches (n, 64, 64) in [0, 1] centred on columns, of composed bulk fields of their own seeds."""
    crops: list[Float] = []
    while sum(len(part) for part in crops) < plan.published_patches:
        rng = np.random.default_rng([seed, len(crops)])
        conditions = detection_conditions(library, 400.0, 5.0, rng)
        shape = (plan.side_px, plan.side_px)
        scan = compose_field(library, crystal, conditions, shape, (), int(rng.integers(2**31))).scan
        found = fit_registration(scan.counts, [crystal], (conditions.pixel_nm,) * 2)
        tiles = render(scan.counts, found, (slice(0, found.mask.shape[0]), slice(0, found.mask.shape[1])))
        cells = np.argwhere(found.mask)
        uv = np.concatenate([cells + np.array([column.u, column.v]) for column in crystal.tested])
        uv = rng.permutation(uv[whole_patches(tiles, uv)])
        most = -(-plan.published_patches // 4)  # from four fields at least
        crops.append(patches_at(prepared(tiles), uv[:most]))
    return np.concatenate(crops)[: plan.published_patches]
