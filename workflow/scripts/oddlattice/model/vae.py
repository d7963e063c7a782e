"""The convolutional variational autoencoder, on one page."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oddlattice.crystal import CELL_PX
from oddlattice.model.activation import TanhGELU

PATCH_PX = 2 * CELL_PX  # a patch is 2x2 cells, centred on a cell


@dataclass(frozen=True)
class VAEConfig:
    """Architecture: `latent` dimensions, `channels` of the three encoder stages, width `basis` of the decoder."""

    latent: int = 16
    channels: tuple[int, int, int] = (16, 32, 64)
    basis: int = 128

    def as_dict(self) -> dict[str, Any]:
        """Plain values for YAML."""
        return {**asdict(self), "channels": list(self.channels)}


class VAE(nn.Module):
    """Patch (B, 1, 40, 40), standardised (patches.standardised) -> posterior of the latents -> patch of bulk.

    The latents stand for conditions (thickness, blur, background, ...), not for pixels: bulk under all conditions is a
    smooth, low-dimensional family. So the decoder is a small network on the latents whose output weighs `basis` learned
    patches (one transposed convolution) on top of a learned mean patch `bulk`: zero latents mean the mean crystal.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3 = config.channels
        self.encoder = nn.Sequential(
            nn.Conv2d(1, c1, kernel_size=4, stride=4),  # (B, c1, 10, 10)
            TanhGELU(),
            nn.Conv2d(c1, c2, kernel_size=3, stride=2, padding=1),  # (B, c2, 5, 5)
            TanhGELU(),
            nn.Conv2d(c2, c3, kernel_size=3),  # (B, c3, 3, 3)
            TanhGELU(),
            nn.Flatten(),
        )
        self.posterior = nn.Linear(9 * c3, 2 * config.latent)  # (B, 2 latent): mean, log variance
        self.decoder = nn.Sequential(
            nn.Linear(config.latent, config.basis),
            TanhGELU(),
            nn.Linear(config.basis, config.basis),
            TanhGELU(),
            nn.Linear(config.basis, config.basis),
            nn.Unflatten(1, (config.basis, 1, 1)),  # (B, basis, 1, 1)
        )
        self.patches = nn.ConvTranspose2d(config.basis, 1, kernel_size=PATCH_PX, bias=False)  # (B, 1, 40, 40)
        self.bulk = nn.Parameter(torch.zeros(1, 1, PATCH_PX, PATCH_PX))

    @torch.no_grad()
    def start_from(self, bulk: Tensor) -> None:
        """Begin with the mean and the principal components of bulk patches (n, 1, 40, 40): training is then short."""
        mean = bulk.mean(dim=0, keepdim=True)
        _, size, components = torch.linalg.svd((bulk - mean).flatten(1), full_matrices=False)
        rank = min(self.config.basis, len(size))
        self.bulk.copy_(mean)
        self.patches.weight.zero_()
        scaled = components[:rank] * (size[:rank, None] / len(bulk) ** 0.5)
        self.patches.weight[:rank] = scaled.reshape(rank, 1, PATCH_PX, PATCH_PX)

    def encode(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, each (B, latent)."""
        mean, log_variance = self.posterior(self.encoder(patch - self.bulk)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 8.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Bulk patch (B, 1, 40, 40)."""
        return self._weighed(latent, self.patches.weight, self.bulk)

    def decode_centre(self, latent: Tensor) -> Tensor:
        """The central cell (B, 1, 20, 20) of the bulk patch, without the work for the rest."""
        centre = slice(CELL_PX // 2, CELL_PX // 2 + CELL_PX)
        return self._weighed(latent, self.patches.weight[..., centre, centre], self.bulk[..., centre, centre])

    def _weighed(self, latent: Tensor, patches: Tensor, bulk: Tensor) -> Tensor:
        # the transposed convolution of a single pixel is a product of matrices, and thirty times faster as one
        flat: Tensor = self.decoder(latent).flatten(1) @ patches.reshape(len(patches), -1)
        return flat.view(-1, *patches.shape[1:]) + bulk

    def forward(self, patch: Tensor) -> Tensor:
        """Prediction from the posterior mean: the same input gives the same output. (B, 1, 40, 40)."""
        return self.decode(self.encode(patch)[0])


class Autoencoder(Protocol):
    """What `loss_terms` asks of a network."""

    def encode(self, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, each (B, latent)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Bulk patch (B, 1, rows, cols)."""
        ...


def loss_terms(
    model: Autoencoder, patch: Tensor, target: Tensor, variance: Tensor, generator: torch.Generator
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
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    prediction = model.decode(mean + noise * torch.exp(0.5 * log_variance))
    misfit = ((target - prediction) ** 2 / (2 * variance)).sum(dim=(1, 2, 3))
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return misfit, divergence
