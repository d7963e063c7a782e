"""Bulk of any crystal, from the image's own mean cell and, where it pays, the network of every crystal.

Several predictions are made, from the mean cell alone to one in which every place has conditions of its own. The image
decides: the one of least risk by Stein's estimate is taken (Stein 1981, doi:10.1214/aos/1176345632; the divergence by a
random probe, Ramani et al. 2008, doi:10.1109/TIP.2008.2001404), under a kernel as wide as a column, with a median in
place of the mean: odd columns do not ask to be followed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter

from oddlattice.lattice.columns import as_cells, cells_at, mean_cell, px_of, repeated, sample_of
from oddlattice.lattice.subareas import in_px
from oddlattice.lattice.trial_part import densest_part
from oddlattice.model.conditional import BATCH, CENTRE_PX, REACH_PX, RIM_PX, ConditionalVAE
from oddlattice.model.folder import load_conditional
from oddlattice.numerics.arrays import Array, Float, Index, Mask
from oddlattice.numerics.local_plane import Planes
from oddlattice.numerics.medians import median
from oddlattice.predict.decoder_fit import SAMPLES, DecoderFit, fit_decoder, from_far_to_near, pays
from oddlattice.predict.latents import smooth_latents
from oddlattice.predict.own_residual import own_residual

ANY_CRYSTAL = Path(__file__).parents[4] / "models/any_crystal"
COLUMN_PX = 2.3  # width of a column
MEDIAN_OF_SQUARE = 0.4549  # of a standard normal number
PAYS = 0.02  # of the noise: the network must save so much, or the mean cell is taken; it costs half as much at most
CHOICE_CELLS = 16  # side of the part of an image that decides
SEED = 0  # of the probes: the same for every image
CENTRE = (CENTRE_PX, CENTRE_PX)
NEAR_PX = RIM_PX - REACH_PX  # of a patch's rim: as much as the decoder does not see
BAND_PLACES = 4  # rows of places that are encoded together
CHECKED = 32  # places at which a polynomial is held against the network itself
FIT_ERROR = 0.05  # of the noise under a column's kernel: what it may be off there


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
    along = np.asarray(mask, dtype=np.uint8)
    for side, cells in zip(shape, mask.shape, strict=True):  # down, then across
        pixels = np.pad(np.repeat(along, side // cells, 0), ((0, -side % CENTRE_PX), (0, 0)), mode="edge")
        along = pixels.reshape(-1, CENTRE_PX, along.shape[1]).min(axis=1).T
    return np.ascontiguousarray(along)


class Conditioned:
    """The network of every crystal on one image.

    Patch and stride are fixed in pixels, whatever the cell's sides: the mean cell is laid out over the image, and every
    place of 20 px has the patch of 40 px about it, of the image and of the mean cell.

    Parameters
    ----------
    tiles : ndarray of shape (R, C), float32
    mask : ndarray of shape (U, V), uint8
    fit : DecoderFit, optional
        Of another part of the image, which may do here too.
    """

    def __init__(self, network: ConditionalVAE, tiles: Float, mask: Mask, fit: DecoderFit | None = None) -> None:
        self.network, self.shape = network, (tiles.shape[0], tiles.shape[1])
        self.known = on_places(mask, self.shape)
        self.cell = mean_cell(tiles, mask)
        self.contrast = max(float(self.cell.std()), 1e-6)
        rows, cols = (with_rim(n) % k for n, k in zip(self.shape, self.cell.shape, strict=True))
        self.wide = self.cell.astype(np.float32)[:, cols][rows]  # the mean cell laid over the image and its rim
        self.laid: Float = self.wide[RIM_PX : RIM_PX + self.shape[0], RIM_PX : RIM_PX + self.shape[1]]
        self._tiles, self._mask = tiles, mask
        self.fit = fit

    @property
    def bare(self) -> Array:
        """The mean cell (n_u, n_v), standardised."""
        return (self.cell - 1) / self.contrast

    @cached_property
    def noise(self) -> float:
        """Of the tiles under a column's kernel, standardised."""
        left = cells_at(self._tiles, sample_of(self._mask), px_of(self._tiles, self._mask)) - self.cell
        white = 2 * np.sqrt(np.pi) * COLUMN_PX  # of white noise a kernel of unit sum leaves one over this
        return 1.4826 * float(np.median(np.abs(left))) / self.contrast / white if len(left) else 1.0

    @torch.inference_mode()
    def encoded(self, tiles: Float) -> Float:
        """Posterior mean of the latents at every known place, 0 elsewhere; shape (places, places, latent)."""
        beyond, px = self._mask == 0, px_of(tiles, self._mask)
        if beyond.any():  # what is masked looks like bulk to its neighbours
            tiles = tiles.copy()
            as_cells(tiles, px)[beyond] = self.cell
        seen, latents = rimmed(tiles), np.zeros((*self.known.shape, self.network.config.latent), dtype=np.float32)
        for first in range(0, len(latents), BAND_PLACES):
            known = np.nonzero(self.known[first : first + BAND_PLACES])
            if len(known[0]):
                strip = slice(CENTRE_PX * first, CENTRE_PX * (first + BAND_PLACES + 1))
                beyond, under = seen[strip] - self.wide[strip], self.wide[strip] - np.float32(1)
                pair = torch.from_numpy(np.stack([beyond, under]) / np.float32(self.contrast))
                found = self.network.encode_places(pair, *map(torch.from_numpy, known))
                latents[first : first + BAND_PLACES][known] = found.numpy()
        return latents

    def predicted(self, latents: Float, width_places: float) -> Float:
        """The bulk that smoothed latents stand for; shape of the tiles. Places that are not known have the mean ones.

        By the polynomial of least order that is the network's own to a part of the noise, else place by place.
        """
        own = self._smoothed(latents, width_places)
        if not len(own):
            return self.laid
        for fit in self._fits(own):
            if self._is_near(fit, own):
                self.fit = fit
                return self._laid_out(fit, own)
        return self._laid_out(fit, own, self._decoded(own, *np.nonzero(self.known)))

    def _fits(self, latents: Float) -> Iterator[DecoderFit]:
        """What is there already, then polynomials of growing order through these latents (n, latent)."""
        if self.fit is not None:
            yield self.fit
        for order in SAMPLES:
            if order == 1 or pays(order, self.cell.size, len(latents)):
                yield fit_decoder(self.network, self.bare, latents, order)

    def roughly(self, latents: Float, width_places: float) -> Float:
        """`predicted` by one polynomial for all latents and widths that are tried."""
        own = self._smoothed(latents, width_places)
        if not len(own):
            return self.laid
        if self.fit is None:
            self.fit = fit_decoder(self.network, self.bare, latents[self.known > 0], 2)
        return self._laid_out(self.fit, own)

    def _smoothed(self, latents: Float, width_places: float) -> Float:
        """Latents (n, latent) of the known places, from those of all."""
        if width_places and self.known.any():
            latents = smooth_latents(latents, self.known, width_places)
        return latents[self.known > 0]

    def _laid_out(self, fit: DecoderFit, latents: Float, added: Float | None = None) -> Float:
        """The mean cell and what a fit adds, with latents (n, latent) at the known places and their mean at others.

        `added` (n, 20, 20) are the known places' own.
        """
        places = np.tile(latents.mean(0), (self.known.size, 1))
        places[self.known.ravel() > 0] = latents
        there = fit.at(places, *np.indices(self.known.shape).reshape(2, -1)).reshape(*self.known.shape, *CENTRE)
        if added is not None:
            there[self.known > 0] = added
        flat = there.swapaxes(1, 2).reshape(CENTRE_PX * there.shape[0], -1)[: self.shape[0], : self.shape[1]]
        flat *= np.float32(self.contrast)
        flat += self.laid
        return flat

    def _is_near(self, fit: DecoderFit, latents: Float) -> bool:
        """Whether a fit is the network's own under a column's kernel, among the latents farthest off their mean.

        At the rim the patches of the mean cell do not repeat; there a polynomial knows better.
        """
        rows, cols = np.nonzero(self.known)
        ranked = from_far_to_near(latents)[1::2]  # a fit is through the others
        last_row, last_col = (n - 1 for n in self.known.shape)
        inner = (rows > 0) & (rows < last_row) & (cols > 0) & (cols < last_col)
        some = ranked[inner[ranked]][:CHECKED]
        if not len(some):
            return False
        at = latents[some], rows[some], cols[some]
        error = np.sqrt(np.mean(gaussian_filter(fit.at(*at) - self._decoded(*at), (0, COLUMN_PX, COLUMN_PX)) ** 2))
        return bool(error <= FIT_ERROR * self.noise)

    @torch.inference_mode()
    def _decoded(self, latents: Float, rows: Index, cols: Index) -> Float:
        """What the network itself adds at places with latents (n, latent); shape (n, 20, 20)."""
        added, side = np.empty((len(latents), *CENTRE), np.float32), CENTRE_PX + 2 * REACH_PX
        under = sliding_window_view(self.wide[NEAR_PX:, NEAR_PX:], (side, side))[::CENTRE_PX, ::CENTRE_PX]
        for start in range(0, len(latents), BATCH):
            part = slice(start, start + BATCH)
            seen = (under[rows[part], cols[part], None] - np.float32(1)) / np.float32(self.contrast)
            added[part] = self.network.added(torch.from_numpy(latents[part]), torch.from_numpy(seen))[:, 0].numpy()
        return added


def with_rim(pixels: int) -> Index:
    """Pixels of a line made up to whole places of 20 px by the last one, with a mirrored rim: each has a patch then."""
    whole = np.minimum(np.arange(pixels + -pixels % CENTRE_PX), pixels - 1)
    return np.pad(whole, RIM_PX, mode="reflect")


def rimmed(image: Float) -> Float:
    """An image with the rim of `with_rim`."""
    more = [(0, -n % CENTRE_PX) for n in image.shape]
    whole = np.pad(image, more, mode="edge") if np.any(more) else image
    return np.pad(whole, RIM_PX, mode="reflect")


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


def raw_by(
    seen: Conditioned, tiles: Float, candidates: Sequence[Candidate], predict: Callable[[Float, float], Float]
) -> dict[float | None, Float]:
    """Predictions of `tiles` by every width of latents among candidates, before their own residual is taken up.

    `predict` makes them of latents and width: `seen.predicted` or, where a choice is made, `seen.roughly`.
    """
    widths = dict.fromkeys(candidate.latents_places for candidate in candidates)
    latents = seen.encoded(tiles) if any(width is not None for width in widths) else None
    return {w: seen.laid if w is None or latents is None else predict(latents, w) for w in widths}


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
    return np.asarray(drawn * repeated(spread, mask), dtype=np.float32)


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

    The last, whose places have latents of their own, is not taken (infinite) where smoothed ones do not help either.
    """
    seen = Conditioned(network, tiles, mask)

    def made_of(image: Float) -> list[Float]:
        return made_by(CANDIDATES, raw_by(seen, image, CANDIDATES, seen.roughly), image, mask)

    made = made_of(tiles)
    probe = noise_like(tiles - made[-2], mask)
    again = made_of(tiles + probe)
    found = [risk(tiles - one, other - one, probe, mask) for one, other in zip(made, again, strict=True)]
    plain = [one for one, candidate in zip(found, CANDIDATES, strict=True) if candidate.latents_places is None]
    return found if min(found[:-1]) < min(plain) else [*found[:-1], np.inf]


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
        self.fit: DecoderFit | None = None

    def __call__(self, tiles: Float, mask: Mask, _network: object = None) -> Float:
        """Prediction of the analysed cells, the image's own residual taken up; shape of `tiles`."""
        torch.set_num_threads(1)
        if self.candidate is None:
            cells = densest_part(mask, CHOICE_CELLS)
            px = in_px(cells, px_of(tiles, mask))
            self.candidate = chosen(risks_of(self.network, tiles[px], mask[cells]))
        seen = Conditioned(self.network, tiles, mask, self.fit)
        raw = raw_by(seen, tiles, [self.candidate], seen.predicted)
        self.fit = seen.fit
        return made_by([self.candidate], raw, tiles, mask)[0]


@cache
def shipped_network() -> ConditionalVAE:
    """The network of models/any_crystal, loaded once a process."""
    return load_conditional(ANY_CRYSTAL).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
