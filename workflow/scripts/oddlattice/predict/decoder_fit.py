"""The decoder of the network of every crystal over one mean cell, as a polynomial in its latents.

The network adds to the mean cell, which repeats: with the same latents everywhere so does what it adds. So some hundred
decoded cells, at latents that the image holds, stand for tens of thousands of places.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch

from oddlattice.model.conditional import BATCH, CENTRE_PX, REACH_PX, ConditionalVAE
from oddlattice.numerics.arrays import Array, Float, Index

SAMPLES = {1: 32, 2: 128, 3: 600}  # cells decoded for a polynomial of this order
FAR_PART = 1 / 3  # of the samples: those farthest off the mean, which a polynomial through the others would miss


@dataclass(frozen=True)
class DecoderFit:
    """What the decoder adds to a mean cell (n_u, n_v), as a polynomial in latents.

    Attributes
    ----------
    middle, scale : ndarray of shape (latent,)
        Latents about which and in units of which the terms are.
    terms : tuple of tuple of int
        The latents that each term multiplies.
    layers : ndarray of shape (terms, n_u, n_v), float32
    """

    middle: Array
    scale: Array
    terms: tuple[tuple[int, ...], ...]
    layers: Float

    def at(self, latents: Float, rows: Index, cols: Index) -> Float:
        """What is added at places (rows, cols), each (n,) [20 px], with latents (n, latent); shape (n, 20, 20)."""
        known = _products((latents - self.middle) / self.scale, self.terms).astype(np.float32)
        out = np.empty((len(known), CENTRE_PX, CENTRE_PX), np.float32)
        for own, (u, v) in _alike(rows, cols, self.layers.shape[1:]):
            seen = self.layers[:, u[:, None], v].reshape(len(self.terms), -1)
            out[own] = (known[own] @ seen).reshape(-1, CENTRE_PX, CENTRE_PX)
        return out


def fit_decoder(network: ConditionalVAE, cell: Array, latents: Float, order: int) -> DecoderFit:
    """Polynomial of `order` through what the decoder makes of a mean cell with some of an image's latents.

    Parameters
    ----------
    cell : ndarray of shape (n_u, n_v)
        Mean cell, standardised.
    latents : ndarray of shape (n, latent)
        Of all places.
    """
    middle, scale, each = latents.mean(0, dtype=np.float64), _scatter(latents), range(latents.shape[1])
    terms = tuple(term for k in range(order + 1) for term in combinations_with_replacement(each, k))
    some = latents[_sample(latents, SAMPLES[order])]
    added = added_to(network, cell, some).reshape(len(some), -1)
    known = _products((some - middle) / scale, terms)
    layers = np.linalg.lstsq(known, added.astype(np.float64), rcond=1e-8)[0]
    return DecoderFit(middle, scale, terms, layers.reshape(len(terms), *cell.shape).astype(np.float32))


def pays(order: int, cell_px: int, places: int) -> bool:
    """Whether a fit costs less than half of decoding so many places one by one."""
    return 2 * SAMPLES[order] * cell_px <= places * CENTRE_PX**2


def from_far_to_near(latents: Float) -> Index:
    """Places (n,), the one first whose latents (n, latent) are farthest off the mean, in units of their scatter."""
    off = latents - latents.mean(0, dtype=np.float64)
    return np.argsort(-((off / _scatter(latents)) ** 2).sum(1), kind="stable")


def _scatter(latents: Float) -> Array:
    spread = latents.std(0, dtype=np.float64)
    return np.where(spread > 0, spread, 1.0)


def _sample(latents: Float, number: int) -> Index:
    """Places (n,) to be decoded: a third are every other one of the farthest, the rest is even from far to near.

    So half of the farthest can be held against the fit.
    """
    ranked, far = from_far_to_near(latents), 2 * round(FAR_PART * number)
    if len(ranked) <= max(number, far):
        return ranked
    rest = np.linspace(far, len(ranked) - 1, number - far // 2).astype(np.int64)
    return np.concatenate([ranked[:far:2], ranked[rest]])


@torch.inference_mode()
def added_to(network: ConditionalVAE, cell: Array, latents: Float) -> Float:
    """What the decoder adds to a mean cell (n_u, n_v) that repeats, with latents (n, latent); shape (n, n_u, n_v)."""
    wide = torch.from_numpy(np.pad(cell, REACH_PX, mode="wrap").astype(np.float32))[None, None]
    parts = torch.split(torch.from_numpy(np.ascontiguousarray(latents, dtype=np.float32)), BATCH)
    return np.asarray(torch.cat([network.added(part, wide.expand(len(part), -1, -1, -1)) for part in parts])[:, 0])


def _products(off: Array, terms: tuple[tuple[int, ...], ...]) -> Array:
    """Values (n, terms) of the terms at latents (n, latent)."""
    found: dict[tuple[int, ...], Array] = {(): np.ones(len(off))}
    for term in terms[1:]:  # each is a shorter one times one latent more
        found[term] = found[term[:-1]] * off[:, term[-1]]
    return np.stack([found[term] for term in terms], axis=1)


def _alike(rows: Index, cols: Index, sides: tuple[int, ...]) -> Iterator[tuple[Index, tuple[Index, Index]]]:
    """Places that see the mean cell alike: which ones, and the rows and columns of the cell that each has."""
    n_u, n_v = sides
    phase = rows * CENTRE_PX % n_u * n_v + cols * CENTRE_PX % n_v
    order, steps = np.argsort(phase, kind="stable"), np.arange(CENTRE_PX)
    phases, starts = np.unique(phase[order], return_index=True)
    for k, start, end in zip(phases, starts, [*starts[1:], len(order)], strict=False):
        yield order[start:end], ((k // n_v + steps) % n_u, (k % n_v + steps) % n_v)
