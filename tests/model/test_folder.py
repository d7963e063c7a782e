"""Model folders: what is written is read back; everything forged is refused with one sentence."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from oddlattice.model.folder import load_model, recipe_sha256, save_model, sha256_of
from oddlattice.model.vae import PATCH_PX, VAE, VAEConfig

SHIPPED = Path(__file__).parents[2] / "models/srtio3_001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vae = VAE(VAEConfig(latent=3, channels=(4, 4, 4), basis=8))
    save_model(tmp_path, vae, {"name": "tiny", "recipe": {"seed": 1}})
    shutil.copy(SHIPPED / "crystal.yaml", tmp_path)
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    meta = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump(meta | changes))


def test_round_trip(folder: Path) -> None:
    model = load_model(folder)
    patch = torch.rand(5, 1, PATCH_PX, PATCH_PX)
    assert model.vae(patch).shape == patch.shape
    again = load_model(folder)
    assert torch.equal(model.vae(patch), again.vae(patch))
    assert model.sha256 == sha256_of((folder / "weights.safetensors").read_bytes())


def test_shipped_model_is_small_and_whole() -> None:
    model = load_model(SHIPPED)
    assert model.crystal.name == "srtio3_001"
    assert sum(f.stat().st_size for f in SHIPPED.iterdir()) < 5_000_000
    assert model.meta["recipe_sha256"] == recipe_sha256(model.meta["recipe"])
    assert (SHIPPED / "card.md").exists() and (SHIPPED / "card.png").exists()


def test_wrong_hash(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="weights.safetensors: sha256 .* says"):
        load_model(folder)


@pytest.mark.parametrize(
    "header",
    [b"{}", b"not json", json.dumps({"w": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}}).encode()],
)
def test_forged_weights(folder: Path, header: bytes) -> None:
    data = struct.pack("<Q", len(header)) + header + b"\0" * 8
    (folder / "weights.safetensors").write_bytes(data)
    rewrite(folder, weights_sha256=sha256_of(data))
    with pytest.raises(ValueError, match="does not fit"):
        load_model(folder)


def test_header_longer_than_the_file(folder: Path) -> None:
    data = struct.pack("<Q", 1 << 62)
    (folder / "weights.safetensors").write_bytes(data)
    rewrite(folder, weights_sha256=sha256_of(data))
    with pytest.raises(ValueError, match="does not fit"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 99}, "format: found 99; needed 1"),
        ({"preprocessing": {"cell_px": 24}}, "preprocessing: found"),
        ({"architecture": {"latent": 3}}, "architecture: found"),
        ({"architecture": {"latent": 10**9, "channels": [4, 4, 4], "basis": 8}}, "needed latent 1-512"),
        ({"architecture": {"latent": 4, "channels": [4, 4, 4], "basis": 8}}, "does not fit the architecture"),
    ],
)
def test_bad_description(folder: Path, changes: dict[str, object], says: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=says):
        load_model(folder)


def test_missing_and_broken_files(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match="weights.safetensors: not found"):
        load_model(folder)
    (folder / "model.yaml").write_text("[1, 2")
    with pytest.raises(ValueError, match="model.yaml: found .*; needed a readable YAML file"):
        load_model(folder)
    (folder / "model.yaml").unlink()
    with pytest.raises(ValueError, match="model.yaml: found .*No such file.*; needed a readable YAML file"):
        load_model(folder)


def test_weights_that_are_not_numbers(folder: Path) -> None:
    vae = VAE(VAEConfig(latent=3, channels=(4, 4, 4), basis=8))
    with torch.no_grad():
        vae.bulk[0, 0, 0, 0] = np.nan
    save_model(folder, vae, {"name": "tiny"})
    with pytest.raises(ValueError, match="not finite"):
        load_model(folder)


def test_decoding_is_the_transposed_convolution() -> None:
    vae = VAE(VAEConfig(latent=3, channels=(4, 4, 4), basis=8))
    latent = torch.randn(5, 3)
    whole = vae.patches(vae.decoder(latent)) + vae.bulk
    torch.testing.assert_close(vae.decode(latent), whole)
    torch.testing.assert_close(vae.decode_centre(latent), whole[..., 10:30, 10:30])
