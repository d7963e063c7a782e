"""The network of every crystal: what it is trained on, that it learns, and its folder."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu

from oddlattice.model.activation import activated
from oddlattice.model.any_crystal import Draw, conditional_batches, draw_batch, images_of
from oddlattice.model.conditional import ConditionalConfig, ConditionalVAE, conditional_loss
from oddlattice.model.folder import load_conditional
from oddlattice.model.train_any import rate_at, train_any, train_conditional
from oddlattice.run.stage_settings import TrainSettings
from support.settings import ROOT, default

SMALL = ConditionalConfig(latent=3, channels=(4, 4, 4), width=4)


def test_batches_are_the_same_for_a_seed_and_standardised() -> None:
    one, other = (next(conditional_batches(2, 7)) for _ in range(2))
    assert torch.equal(one.patch, other.patch)
    assert one.patch.shape == one.mean.shape and one.patch.shape[1:] == (1, 40, 40)
    assert one.target.shape == (len(one.patch), 1, 20, 20) and one.variance.shape == (len(one.patch), 1, 1, 1)
    for _ in range(4):
        batch = draw_batch(Draw(3, "cpu"), 2)
        assert abs(float(batch.mean.mean())) < 0.2 and 0.7 < float(batch.mean.std()) < 1.4


def test_odd_columns_are_in_the_input_and_bulk_is_the_target() -> None:
    found = [images_of(Draw(seed, "cpu"), 4, (20, 24), (5, 4)) for seed in range(4)]
    assert all(odd.shape == bulk.shape == (4, 100, 96) and (bulk > 0).all() for odd, bulk in found)
    assert any((odd != bulk).any() for odd, bulk in found)


def test_an_untrained_network_gives_the_mean_cell() -> None:
    batch = draw_batch(Draw(1, "cpu"), 1)
    network = ConditionalVAE(SMALL)
    with torch.no_grad():
        made = network.decode(network.encode(batch.patch, batch.mean)[0], batch.mean)
    torch.testing.assert_close(made, batch.mean[..., 10:30, 10:30])


def test_places_of_an_image_are_encoded_as_their_patches_are() -> None:
    network, generator = ConditionalVAE(SMALL), torch.Generator().manual_seed(0)
    wide = torch.randn((2, 20 * 3 + 20, 20 * 4 + 20), generator=generator)  # 3 x 4 places
    rows, cols = torch.tensor([0, 2, 1]), torch.tensor([3, 0, 1])
    beyond, under = (
        torch.stack([one[20 * r : 20 * r + 40, 20 * c : 20 * c + 40] for r, c in zip(rows, cols, strict=True)])
        for one in wide
    )
    with torch.inference_mode():
        found = network.encode_places(wide, rows, cols)
        torch.testing.assert_close(found, network.encode((beyond + under)[:, None], under[:, None])[0])


def test_the_activation_is_the_same_where_nothing_is_learnt() -> None:
    x = torch.linspace(-12, 12, 10_001)
    with torch.inference_mode():
        torch.testing.assert_close(activated(x), gelu(x, approximate="tanh"), rtol=1e-6, atol=1e-6)
        half = x.to(torch.bfloat16)
        torch.testing.assert_close(activated(half), gelu(half, approximate="tanh"))


def test_the_network_can_follow_conditions() -> None:
    batch, generator = draw_batch(Draw(2, "cpu"), 2), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = ConditionalVAE(ConditionalConfig(latent=4, channels=(8, 8, 8), width=8))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    misfits = []
    for _ in range(40):
        misfit, divergence = conditional_loss(network, batch.patch, batch.mean, batch.target, batch.variance, generator)
        misfits.append(float(misfit.detach().mean()))
        optimiser.zero_grad()
        (misfit + divergence).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert misfits[-1] < 0.6 * misfits[0]


def test_training_is_the_same_for_a_seed_and_its_rate_falls_to_nothing() -> None:
    one, other = (train_conditional(SMALL, 1, 3, 2, lambda _: None, "cpu") for _ in range(2))
    assert one[1] == other[1] and one[1][-1].step == 3
    assert rate_at(0.05) == pytest.approx(3e-3, rel=0.01) and rate_at(1.0) < 1e-5


def test_source_any_makes_a_folder_that_loads(tmp_path: Path) -> None:
    settings = default(TrainSettings, source="any", steps=2, batch=64, latent=3, channels=[4, 4, 4], basis=4)
    said: list[str] = []
    train_any(settings, 1, tmp_path / "mine", said.append)
    assert load_conditional(tmp_path / "mine").config == SMALL
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "model.yaml", "weights.safetensors", "card.md", "card.png", "history.csv"
    }  # fmt: skip
    (tmp_path / "mine/weights.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="weights.safetensors: sha256"):
        load_conditional(tmp_path / "mine")


def test_the_shipped_network_loads_and_is_small() -> None:
    assert load_conditional(ROOT / "models/any_crystal").config == ConditionalConfig()
    assert (ROOT / "models/any_crystal/weights.safetensors").stat().st_size < 1e6
