"""The convolutional variational autoencoder, on one page."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oddlattice.crystal import CELL_PX

PATCH_PX = 2 * CELL_PX  # a patch is 2x2 cells, centred on a cell


@dataclass(frozen=True)
class VAEConfig:
    """Architecture: `latent` dimensions, `channels` of the three encoder stages (mirrored by the decoder)."""

    latent: int = 8
    channels: tuple[int, int, int] = (16, 32, 64)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {**asdict(self), "channels": list(self.channels)}


class VAE(nn.Module):
    """Patch (B, 1, 40, 40) of an image divided by its local mean -> posterior of the latents -> patch of bulk.

    The first convolution takes 4x4-px blocks and the last one gives them back (pixel shuffle), so that the layers in
    between are small: most of the speed on a CPU comes from this. The decoder adds to a learned mean patch `bulk`, so
    that zero latents already mean the mean crystal.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3 = config.channels
        self.encoder = nn.Sequential(
            nn.Conv2d(1, c1, kernel_size=4, stride=4),  # (B, c1, 10, 10)
            nn.GELU(approximate="tanh"),
            nn.Conv2d(c1, c2, kernel_size=3, stride=2, padding=1),  # (B, c2, 5, 5)
            nn.GELU(approximate="tanh"),
            nn.Conv2d(c2, c3, kernel_size=3),  # (B, c3, 3, 3)
            nn.GELU(approximate="tanh"),
            nn.Flatten(),
        )
        self.posterior = nn.Linear(9 * c3, 2 * config.latent)  # (B, 2 latent): mean, log variance
        self.expand = nn.Linear(config.latent, 25 * c2)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (c2, 5, 5)),
            nn.GELU(approximate="tanh"),
            nn.ConvTranspose2d(c2, c1, kernel_size=4, stride=2, padding=1),  # (B, c1, 10, 10)
            nn.GELU(approximate="tanh"),
            nn.Conv2d(c1, 16, kernel_size=3, padding=1),  # (B, 16, 10, 10)
            nn.PixelShuffle(4),  # (B, 1, 40, 40)
        )
        self.bulk = nn.Parameter(torch.ones(1, 1, PATCH_PX, PATCH_PX))

    def encode(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, each (B, latent)."""
        mean, log_variance = self.posterior(self.encoder(patch - self.bulk)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 8.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Bulk patch (B, 1, 40, 40)."""
        out: Tensor = self.decoder(self.expand(latent)) + self.bulk
        return out

    def forward(self, patch: Tensor) -> Tensor:
        """Prediction from the posterior mean: the same input gives the same output. (B, 1, 40, 40)."""
        return self.decode(self.encode(patch)[0])


def loss_terms(
    model: VAE, patch: Tensor, target: Tensor, variance: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The two terms of the negative evidence bound, per patch: misfit and Kullback-Leibler divergence [nats].

    The likelihood is Gaussian with the counting noise's `variance` at each pixel (not grey-value cross-entropy):
    sum (target - prediction)^2 / (2 variance). Source: Kingma and Welling 2014, eq. 10, doi:10.48550/arXiv.1312.6114.

    Parameters
    ----------
    patch, target, variance : Tensor of shape (B, 1, 40, 40)
        Input; what is to be predicted (the expectation where a simulator knows it, else the input without the pasted
        defects); noise variance of the input.
    """
    mean, log_variance = model.encode(patch)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    prediction = model.decode(mean + noise * torch.exp(0.5 * log_variance))
    misfit = ((target - prediction) ** 2 / (2 * variance)).sum(dim=(1, 2, 3))
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return misfit, divergence
