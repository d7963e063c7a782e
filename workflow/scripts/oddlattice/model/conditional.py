"""One convolutional VAE for every crystal, on one page: it bends the image's own mean cell and draws no pixels."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oddlattice.model.activation import TanhGELU, activated

PATCH_PX, CENTRE_PX = 40, 20  # of a patch, and of its part that is predicted: the stride
RIM_PX = (PATCH_PX - CENTRE_PX) // 2
REACH_PX = 6  # how far the decoder looks: three 5 x 5 convolutions
FIRST_STEP = 4  # of the encoder's first layer [px]
BATCH = 64  # places at once: their features stay in the processor's cache


@dataclass(frozen=True)
class ConditionalConfig:
    """Architecture: `latent` dimensions, `channels` of the three encoder stages, `width` of the decoder."""

    latent: int = 8
    channels: tuple[int, int, int] = (32, 64, 96)
    width: int = 32

    def as_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {**asdict(self), "channels": list(self.channels)}


class ConditionalVAE(nn.Module):
    """Patch and the mean cell laid under it, both (B, 1, 40, 40), standardised -> latents -> bulk (B, 1, 20, 20).

    The latents stand for conditions that vary from place to place. They modulate, channel by channel, convolutions of
    the mean cell (FiLM; Perez et al. 2018, doi:10.1609/aaai.v32i1.11671), whose sum is what the place adds to it.
    """

    def __init__(self, config: ConditionalConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3 = config.channels
        self.encoder = nn.Sequential(
            nn.Conv2d(2, c1, kernel_size=FIRST_STEP, stride=FIRST_STEP),  # (B, c1, 10, 10)
            TanhGELU(),
            nn.Conv2d(c1, c2, kernel_size=3, stride=2, padding=1),  # (B, c2, 5, 5)
            TanhGELU(),
            nn.Conv2d(c2, c3, kernel_size=3),  # (B, c3, 3, 3)
            TanhGELU(),
            nn.Flatten(),
        )
        self.posterior = nn.Linear(9 * c3, 2 * config.latent)  # (B, 2 latent): mean, log variance
        self.first = nn.Conv2d(1, config.width, kernel_size=5)
        self.second = nn.Conv2d(config.width, config.width, kernel_size=5)
        self.last = nn.Conv2d(config.width, 1, kernel_size=5)
        self.bend_first = nn.Linear(config.latent, 2 * config.width)
        self.bend_second = nn.Linear(config.latent, 2 * config.width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def encode(self, patch: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, each (B, latent)."""
        centre, log_variance = self.posterior(self.encoder(torch.cat([patch - mean, mean], 1))).chunk(2, dim=1)
        return centre, log_variance.clamp(-12.0, 8.0)

    def encode_places(self, wide: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        """Posterior mean (n, latent) at places (rows, cols) of an image, of which patches overlap.

        The first layer's steps divide those of the places, so it is applied once.

        Parameters
        ----------
        wide : Tensor of shape (2, 20 p + 20, 20 q + 20)
            What the image has beyond the mean cell laid under it, and the latter, about p x q places.
        """
        side, step = PATCH_PX // FIRST_STEP, CENTRE_PX // FIRST_STEP
        first = self.encoder[:2](wide[None])[0].permute(1, 2, 0)  # (5 p + 5, 5 q + 5, c1)
        windows = first.unfold(0, side, step).unfold(1, side, step).permute(0, 1, 3, 4, 2)  # (p, q, 10, 10, c1)
        parts = zip(torch.split(rows, BATCH), torch.split(cols, BATCH), strict=True)
        found = [self.posterior(self.encoder[2:](windows[at].permute(0, 3, 1, 2))) for at in parts]
        return torch.cat(found).chunk(2, dim=1)[0]

    def decode(self, latent: Tensor, mean: Tensor) -> Tensor:
        """Bulk of the patch's centre (B, 1, 20, 20)."""
        near = RIM_PX - REACH_PX
        seen = mean[..., near : PATCH_PX - near, near : PATCH_PX - near]  # (B, 1, 32, 32)
        return self.added(latent, seen) + mean[..., RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]

    def added(self, latent: Tensor, seen: Tensor) -> Tensor:
        """What is added to a mean (B, 1, m, n) of any sides, but for REACH_PX along its rim: (B, 1, m - 12, n - 12)."""
        x = activated(bent(self.first(seen), self.bend_first(latent)))  # (B, width, m - 4, n - 4)
        x = activated(bent(self.second(x), self.bend_second(latent)))  # (B, width, m - 8, n - 8)
        out: Tensor = self.last(x)
        return out


def bent(features: Tensor, by: Tensor) -> Tensor:
    """Features (B, c, m, n) scaled and shifted channel by channel by (B, 2 c)."""
    scale, shift = by[..., None, None].chunk(2, dim=1)
    return features * (1 + scale) + shift


def conditional_loss(
    model: ConditionalVAE, patch: Tensor, mean: Tensor, target: Tensor, variance: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The two terms of the negative evidence bound, per patch: misfit and Kullback-Leibler divergence [nats].

    Parameters
    ----------
    patch, mean : Tensor of shape (B, 1, 40, 40)
    target : Tensor of shape (B, 1, 20, 20)
        Bulk without noise and without odd columns.
    variance : Tensor of shape (B, 1, 1, 1)
        Mean noise variance of the input.
    """
    centre, log_variance = model.encode(patch, mean)
    noise = torch.randn(centre.shape, generator=generator, dtype=centre.dtype, device=centre.device)
    prediction = model.decode(centre + noise * torch.exp(0.5 * log_variance), mean)
    misfit = ((target - prediction) ** 2 / (2 * variance)).sum(dim=(1, 2, 3))
    divergence = 0.5 * (centre**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return misfit, divergence
