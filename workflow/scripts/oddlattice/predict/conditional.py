"""Bulk of any crystal, from the image's own mean cell and, where it pays, the network of every crystal.

Several predictions are made, from the mean cell alone to one in which every place has conditions of its own. The image
decides: the one of least risk by Stein's estimate is taken (Stein 1981, doi:10.1214/aos/1176345632; the divergence by a
random probe, Ramani et al. 2008, doi:10.1109/TIP.2008.2001404), under a kernel as wide as a column, with a median in
place of the mean: odd columns do not ask to be followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import pad

from oddlattice.lattice.columns import as_cells, mean_cell, px_of
from oddlattice.lattice.subareas import in_px
from oddlattice.lattice.trial_part import densest_part
from oddlattice.model.any_crystal import patches_on_grid
from oddlattice.model.conditional import CENTRE_PX, REACH_PX, ConditionalVAE
from oddlattice.model.folder import load_conditional
from oddlattice.numerics.arrays import Array, Float, Mask
from oddlattice.numerics.local_plane import Planes
from oddlattice.numerics.medians import median
from oddlattice.predict.latents import smooth_latents
from oddlattice.predict.own_residual import own_residual

ANY_CRYSTAL = Path(__file__).parents[4] / "models/any_crystal"
BATCH = 64  # patches at once: their features stay in the cache
COLUMN_PX = 2.3  # width of a column
MEDIAN_OF_SQUARE = 0.4549  # of a standard normal number
PAYS = 0.02  # of the noise: the network must save so much, or the mean cell is taken; it costs half as much at most
CHOICE_CELLS = 16  # side of the part of an image that decides
SEED = 0  # of the probes: the same for every image
STEP = 0.25  # of a latent, by which its effect is told
CHECKED = 32  # places at which the first order is held against the network itself
FIRST_ORDER_ERROR = 0.05  # of the noise under a column's kernel: what it may be off there


@dataclass(frozen=True)
class Candidate:
    """A way to predict.

    Attributes
    ----------
    latents_places : float or None
        Width over which latents are smoothed [20 px], 0: each place has its own; None: the mean cell, no network.
    residual_cells : float
        Width over which the image's own residual is taken up.
    shrunk : bool
        Whether it is taken up by what it is worth only.
    """

    latents_places: float | None
    residual_cells: float
    shrunk: bool


CANDIDATES = (
    Candidate(None, 5.0, True),
    Candidate(None, 3.0, True),
    Candidate(None, 3.0, False),
    Candidate(3.0, 5.0, False),
    Candidate(2.0, 3.0, True),
    Candidate(1.0, 3.0, True),
    Candidate(1.0, 5.0, False),
    Candidate(0.0, 5.0, False),
)


def on_places(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Which squares of 20 px of tiles (R, C) lie in analysed cells throughout, as 0 and 1."""
    sides = [n // k for n, k in zip(shape, mask.shape, strict=True)]
    pixels = np.repeat(np.repeat(mask, sides[0], 0), sides[1], 1)
    more = [-n % CENTRE_PX for n in shape]
    pixels = np.pad(pixels, ((0, more[0]), (0, more[1])), mode="edge")
    rows, cols = (n // CENTRE_PX for n in pixels.shape)
    return np.asarray(pixels.reshape(rows, CENTRE_PX, cols, CENTRE_PX).min(axis=(1, 3)), dtype=np.uint8)


def parts_of(patches: Tensor) -> tuple[Tensor, ...]:
    """Patches in batches."""
    return torch.split(patches, BATCH)


class Conditioned:
    """The network of every crystal on one image.

    Patch and stride are fixed in pixels, whatever the cell's sides: the mean cell is laid out over the image, and every
    place of 20 px has the patch of 40 px about it, of the image and of the mean cell.

    Parameters
    ----------
    tiles : ndarray of shape (R, C), float32
    mask : ndarray of shape (U, V), uint8
    """

    def __init__(self, network: ConditionalVAE, tiles: Float, mask: Mask) -> None:
        self.network, self.shape = network, (tiles.shape[0], tiles.shape[1])
        self.known = on_places(mask, self.shape)
        self.cell = mean_cell(tiles, mask)
        self.contrast = max(float(self.cell.std()), 1e-6)
        self.laid = np.tile(self.cell, mask.shape).astype(np.float32)
        self._tiles, self._mask = tiles, mask

    @cached_property
    def under(self) -> Tensor:
        """The mean cell's patches (places, 1, 40, 40), standardised."""
        return self._patches(self.laid)

    @cached_property
    def noise(self) -> float:
        """Of the tiles under a column's kernel, standardised."""
        left = as_cells(self._tiles, px_of(self._tiles, self._mask))[self._mask > 0] - self.cell
        white = 2 * np.sqrt(np.pi) * COLUMN_PX  # of white noise a kernel of unit sum leaves one over this
        return 1.4826 * float(np.median(np.abs(left))) / self.contrast / white if len(left) else 1.0

    def _patches(self, image: Float) -> Tensor:
        seen = torch.from_numpy(((image - 1) / self.contrast).astype(np.float32))[None, None]
        more = (0, -image.shape[1] % CENTRE_PX, 0, -image.shape[0] % CENTRE_PX)
        return patches_on_grid(pad(seen, more, mode="replicate")[0], list(self.known.shape))

    @torch.inference_mode()
    def encoded(self, tiles: Float) -> Float:
        """Posterior mean of the latents at every place; shape (places, places, latent)."""
        sides = px_of(tiles, self._mask)
        inside = np.repeat(np.repeat(self._mask > 0, sides[0], 0), sides[1], 1)
        seen = np.where(inside, tiles, self.laid)  # what is masked looks like bulk to its neighbours
        pairs = zip(parts_of(self._patches(seen)), parts_of(self.under), strict=True)
        return np.asarray(torch.cat([self.network.encode(*pair)[0] for pair in pairs]).numpy()).reshape(
            *self.known.shape, -1
        )

    def predicted(self, latents: Float, width_places: float) -> Float:
        """The bulk that smoothed latents stand for; shape of the tiles.

        To first order in the latents about their mean, where that is the network's own to a part of the noise.
        """
        if width_places and self.known.any():
            latents = np.where(self.known[..., None] > 0, smooth_latents(latents, self.known, width_places), 0)
        rows, cols = np.nonzero(self.known)
        middle = latents[rows, cols].mean(0) if len(rows) else np.zeros(latents.shape[-1])
        off = np.where(self.known[..., None] > 0, latents - middle, 0)
        near = self._first_order(middle, off)
        if self._error(near, latents, off) > FIRST_ORDER_ERROR * self.noise:
            near = self._decoded(latents.reshape(-1, latents.shape[-1]), self.under).reshape(near.shape)
        out = near.transpose(0, 2, 1, 3).reshape(CENTRE_PX * near.shape[0], CENTRE_PX * near.shape[1])
        return np.asarray(1 + self.contrast * out[: self.shape[0], : self.shape[1]], dtype=np.float32)

    def _error(self, near: Float, latents: Float, off: Array) -> float:
        """Rms error of the first order under a column's kernel where latents are farthest off their mean.

        At the rim the patches of the mean cell do not repeat; there the first order knows better.
        """
        inner = np.zeros_like(self.known)
        inner[1:-1, 1:-1] = self.known[1:-1, 1:-1]
        rows, cols = np.nonzero(inner)
        if not len(rows):
            return np.inf
        farthest = np.argsort(-(off[rows, cols] ** 2).sum(1), kind="stable")[:CHECKED]
        some = rows[farthest], cols[farthest]
        exact = self._decoded(latents[some], self.under[torch.from_numpy(some[0] * self.known.shape[1] + some[1])])
        return float(np.sqrt(np.mean(gaussian_filter(near[some] - exact, (0, COLUMN_PX, COLUMN_PX)) ** 2)))

    @torch.inference_mode()
    def _decoded(self, latents: Float, under: Tensor) -> Float:
        """Bulk of places with latents (n, latent) by the network itself; shape (n, 20, 20)."""
        flat = torch.from_numpy(np.ascontiguousarray(latents, dtype=np.float32))
        pairs = zip(parts_of(flat), parts_of(under), strict=True)
        return np.asarray(torch.cat([self.network.decode(*pair) for pair in pairs])[:, 0].numpy())

    @torch.inference_mode()
    def _first_order(self, middle: Array, off: Array) -> Float:
        """Bulk of all places to first order in `off` (places, places, latent); shape (places, places, 20, 20).

        The network adds to the mean cell, which repeats: with the same latents everywhere so does what it adds.
        """
        number = len(middle)
        steps = np.concatenate([np.zeros((1, number)), STEP * np.eye(number), -STEP * np.eye(number)])
        cell = np.pad((self.cell - 1) / self.contrast, REACH_PX, mode="wrap").astype(np.float32)
        seen = torch.from_numpy(cell)[None, None].expand(len(steps), -1, -1, -1)
        added = self.network.added(torch.from_numpy((middle + steps).astype(np.float32)), seen)[:, 0].numpy()
        slopes = (added[1 : number + 1] - added[number + 1 :]) / (2 * STEP)
        layers = np.concatenate([((self.cell - 1) / self.contrast + added[0])[None], slopes])
        index = [np.arange(CENTRE_PX * n) % k for n, k in zip(self.known.shape, self.cell.shape, strict=True)]
        rows, cols = self.known.shape
        laid = [layer[np.ix_(*index)].reshape(rows, CENTRE_PX, cols, CENTRE_PX).swapaxes(1, 2) for layer in layers]
        out = np.array(laid[0], dtype=np.float32)
        for k in range(number):
            out += off[..., k, None, None].astype(np.float32) * laid[k + 1].astype(np.float32)
        return out


def left_of_noise(mask: Mask, width_cells: float) -> float:
    """Part of the variance of white noise that a local plane over `width_cells` leaves, told by trying."""
    return _left_of_noise(mask.tobytes(), mask.shape, width_cells)


@lru_cache(16)
def _left_of_noise(mask_bytes: bytes, shape: tuple[int, ...], width_cells: float) -> float:
    good = np.frombuffer(mask_bytes, np.uint8).reshape(shape).astype(bool)
    probe = np.random.default_rng(SEED).standard_normal((32, *shape)) * good
    return float((Planes(good.astype(np.float64), width_cells).smooth(probe)[:, good] ** 2).mean())


def worth(residual: Float, smoothed: Float, mask: Mask, width_cells: float) -> float:
    """How much of an image's own smoothed residual is no noise: 0 (nothing) to 1."""
    good, sides = mask.astype(bool), px_of(residual, mask)
    left = left_of_noise(mask, width_cells)
    off = as_cells(residual - smoothed, sides)[good]
    variance = float(np.mean((1.4826 * median(np.abs(off - median(off, axis=0)), axis=0)) ** 2))
    energy = float((as_cells(smoothed, sides)[good].astype(np.float64) ** 2).mean())
    return float(np.clip(1 - variance * left / (1 - left) / max(energy, 1e-12), 0, 1))


def raw_by(seen: Conditioned, tiles: Float, candidates: Sequence[Candidate]) -> dict[float | None, Float]:
    """Predictions of `tiles` by every width of latents among candidates, before their own residual is taken up."""
    widths = dict.fromkeys(candidate.latents_places for candidate in candidates)
    latents = seen.encoded(tiles) if any(width is not None for width in widths) else None
    return {w: seen.laid if w is None or latents is None else seen.predicted(latents, w) for w in widths}


def made_by(candidates: Sequence[Candidate], raw: dict[float | None, Float], tiles: Float, mask: Mask) -> list[Float]:
    """The candidates' predictions: `raw` (see `raw_by`) with the residual of `tiles` taken up."""
    found, taken = [], dict[tuple[float | None, float], Float]()
    for candidate in candidates:
        plain, key = raw[candidate.latents_places], (candidate.latents_places, candidate.residual_cells)
        if key not in taken:
            taken[key] = own_residual(tiles - plain, mask, candidate.residual_cells)
        part = worth(tiles - plain, taken[key], mask, candidate.residual_cells) if candidate.shrunk else 1.0
        found.append(np.asarray(plain + np.float32(part) * taken[key], dtype=np.float32))
    return found


def noise_like(difference: Float, mask: Mask) -> Float:
    """Random noise (R, C) with the scatter that a difference shows in each pixel of the cell."""
    off = as_cells(difference, px_of(difference, mask))[mask > 0]
    spread = 1.4826 * median(np.abs(off - median(off, axis=0)), axis=0)
    drawn = np.random.default_rng(SEED).standard_normal(difference.shape)
    return np.asarray(drawn * np.tile(spread, mask.shape), dtype=np.float32)


def risk(difference: Float, followed: Float, probe: Float, mask: Mask) -> float:
    """Stein's estimate of a prediction's squared error under a column's kernel, but for the noise's own variance.

    `followed` is what the prediction changes by when `probe` is added to the image.
    """
    good, sides = mask > 0, px_of(difference, mask)
    maps = (difference, followed, probe)
    blurred = [as_cells(gaussian_filter(x, COLUMN_PX), sides)[good] for x in maps]
    return float(np.median(blurred[0] ** 2) / MEDIAN_OF_SQUARE + 2 * np.mean(blurred[1] * blurred[2]))


def risks_of(network: ConditionalVAE, tiles: Float, mask: Mask) -> list[float]:
    """The risk of every one of CANDIDATES.

    The last, whose places have latents of their own, is not tried (infinite) where smoothed ones do not help either.
    """
    seen, smoothed = Conditioned(network, tiles, mask), CANDIDATES[:-1]
    found, probe = _risks(seen, tiles, mask, smoothed)
    plain = [one for one, candidate in zip(found, smoothed, strict=True) if candidate.latents_places is None]
    if min(found) >= min(plain):
        return [*found, np.inf]
    return found + _risks(seen, tiles, mask, CANDIDATES[-1:], probe)[0]


def _risks(
    seen: Conditioned, tiles: Float, mask: Mask, candidates: Sequence[Candidate], probe: Float | None = None
) -> tuple[list[float], Float]:
    """Risks of candidates, and the probe by which they were found."""
    raw = raw_by(seen, tiles, candidates)
    made = made_by(candidates, raw, tiles, mask)
    probe = noise_like(tiles - made[-1], mask) if probe is None else probe
    noisy = tiles + probe
    again = made_by(candidates, raw_by(seen, noisy, candidates), noisy, mask)
    return [risk(tiles - one, other - one, probe, mask) for one, other in zip(made, again, strict=True)], probe


def chosen(risks: Sequence[float]) -> Candidate:
    """The candidate of least risk; one with the network only where that pays."""
    plain = [k for k, candidate in enumerate(CANDIDATES) if candidate.latents_places is None]
    simple, best = min(plain, key=lambda k: risks[k]), int(np.argmin(risks))
    return CANDIDATES[best if risks[simple] - risks[best] > PAYS * abs(risks[simple]) else simple]


class AnyCrystal:
    """The prediction of one image: how it is made is decided once, on the part with the most analysed cells.

    So the parts of a huge image, and trials made in it, are predicted in the same way.
    """

    def __init__(self, network: ConditionalVAE | None = None) -> None:
        self.network = network or shipped_network()
        self.candidate: Candidate | None = None

    def __call__(self, tiles: Float, mask: Mask, _network: object = None) -> Float:
        """Prediction of the analysed cells, the image's own residual taken up; shape of `tiles`."""
        torch.set_num_threads(1)
        if self.candidate is None:
            cells = densest_part(mask, CHOICE_CELLS)
            px = in_px(cells, px_of(tiles, mask))
            self.candidate = chosen(risks_of(self.network, tiles[px], mask[cells]))
        raw = raw_by(Conditioned(self.network, tiles, mask), tiles, [self.candidate])
        return made_by([self.candidate], raw, tiles, mask)[0]


@cache
def shipped_network() -> ConditionalVAE:
    """The network of models/any_crystal, loaded once a process."""
    return load_conditional(ANY_CRYSTAL).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
