"""A polynomial in the latents stands for the decoder: exact where the decoder is one, near where it is not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from oddlattice.predict import conditional, decoder_fit
from oddlattice.predict.conditional import FIT_ERROR, Conditioned, shipped_network
from oddlattice.predict.decoder_fit import SAMPLES, fit_decoder, from_far_to_near, pays


def cubic(latents: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """What a decoder adds that multiplies the mean cell by a cubic in two latents."""
    a, b = latents[:, 0], latents[:, 1]
    inner = seen[..., 6:-6, 6:-6]
    return (1 + a + a * b + a * b * b)[:, None, None, None] * inner


@pytest.mark.parametrize("sides", [(20, 20), (14, 26), (7, 41)])
def test_a_cubic_decoder_is_met_at_every_place_of_any_cell(sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    cell, latents = rng.normal(size=sides), rng.normal(size=(900, 2)).astype(np.float32)
    rows, cols = (index.ravel() for index in np.indices((30, 30)))
    made = fit_decoder(SimpleNamespace(added=cubic), cell, latents, 3).at(latents, rows, cols)  # type: ignore[arg-type]
    a, b = latents.T
    laid = np.tile(cell, [600 // n + 1 for n in sides])[:600, :600]
    places = laid.reshape(30, 20, 30, 20).swapaxes(1, 2).reshape(-1, 20, 20)
    assert np.allclose(made, (1 + a + a * b + a * b * b)[:, None, None] * places, atol=1e-3)


def test_a_fit_is_of_few_cells_and_pays_for_many_places_only() -> None:
    assert not pays(3, 400, 2 * SAMPLES[3] - 1) and pays(3, 400, 2 * SAMPLES[3])
    seen = list[int]()

    def counted(latents: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        seen.append(len(latents))
        return cubic(latents, cell)

    latents = np.random.default_rng(1).normal(size=(5000, 2)).astype(np.float32)
    fit_decoder(SimpleNamespace(added=counted), np.ones((20, 20)), latents, 3)  # type: ignore[arg-type]
    assert sum(seen) == SAMPLES[3]
    assert from_far_to_near(latents)[0] == np.argmax((((latents - latents.mean(0)) / latents.std(0)) ** 2).sum(1))


def test_places_with_latents_of_their_own_are_the_networks_to_a_part_of_the_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    u = (np.arange(20) + 0.5) / 20 - 0.5
    cell = 0.4 + 2 * np.exp(-(u[:, None] ** 2 + u**2) / 0.03)
    rng, mask = np.random.default_rng(0), np.ones((26, 26), np.uint8)
    slope = np.linspace(0.95, 1.05, 520)[:, None]
    tiles = (np.tile(cell / cell.mean(), mask.shape) * slope + rng.normal(0, 0.3, (520, 520))).astype(np.float32)
    one = Conditioned(shipped_network(), tiles, mask)
    latents = one.encoded(tiles)
    orders = list[int]()
    monkeypatch.setattr(conditional, "fit_decoder", lambda *given: orders.append(given[3]) or fit_decoder(*given))
    by_fit = one.predicted(latents, 0.0)
    monkeypatch.setattr(conditional, "pays", lambda *_: False)
    monkeypatch.setattr(Conditioned, "_is_near", lambda *_: False)
    itself = one.predicted(latents, 0.0)
    inner = np.s_[20:-20, 20:-20]
    off = decoder_rms(by_fit[inner] - itself[inner]) / one.contrast
    assert orders[:2] == [1, 2] and 0 < off < FIT_ERROR * one.noise


def decoder_rms(off: np.ndarray) -> float:
    """Rms of what is left under a column's kernel."""
    return float(np.sqrt(np.mean(conditional.gaussian_filter(off, conditional.COLUMN_PX) ** 2)))


def test_terms_are_products_of_latents() -> None:
    off = np.array([[2.0, 3.0]])
    terms = ((), (0,), (1,), (0, 0), (0, 1), (1, 1))
    assert decoder_fit._products(off, terms).tolist() == [[1, 2, 3, 4, 6, 9]]
