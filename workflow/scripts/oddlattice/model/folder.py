"""A model folder: crystal.yaml, model.yaml and weights.safetensors, never a pickle."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save

from oddlattice.crystal import CELL_PX, Crystal, crystal_from_dict
from oddlattice.model.conditional import ConditionalConfig, ConditionalVAE
from oddlattice.model.vae import PATCH_PX, VAE, VAEConfig
from oddlattice.run.yaml_files import read_mapping

FORMAT = 1
MAX_WEIGHTS_BYTES = 100_000_000
PREPROCESSING = {
    "cell_px": CELL_PX,
    "patch_px": PATCH_PX,
    "scale": "divided by the local mean, less 1, over the contrast",
}


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes
    ----------
    name : str
    crystal : Crystal
    vae : VAE
        In evaluation mode, on the CPU, float32.
    sha256 : str
        Of the weights.
    meta : dict
        model.yaml as read.
    """

    name: str
    crystal: Crystal
    vae: VAE
    sha256: str
    meta: dict[str, Any]


def sha256_of(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def recipe_sha256(recipe: dict[str, Any]) -> str:
    """SHA-256 of a training recipe, whatever the order of its keys."""
    return sha256_of(yaml.safe_dump(recipe, sort_keys=True).encode())


def save_model(folder: Path, vae: VAE, meta: dict[str, Any]) -> None:
    """Write model.yaml and weights.safetensors into `folder`; `meta` gains format, architecture and hashes."""
    weights = save({key: value.detach().cpu().contiguous() for key, value in vae.state_dict().items()})
    described = {
        "format": FORMAT,
        **meta,
        "architecture": vae.config.as_dict(),
        "preprocessing": PREPROCESSING,
        "weights_sha256": sha256_of(weights),
    }
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def save_conditional(folder: Path, network: ConditionalVAE, meta: dict[str, Any]) -> None:
    """Write model.yaml and weights.safetensors of the network of every crystal, as `save_model` does."""
    weights = save({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()})
    described = {
        "format": FORMAT,
        **meta,
        "architecture": network.config.as_dict(),
        "weights_sha256": sha256_of(weights),
    }
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.yaml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def load_conditional(folder: Path) -> ConditionalVAE:
    """Load and check the network of every crystal; in evaluation mode, on the CPU, float32.

    Raises
    ------
    ValueError
        As `load_model`.
    """
    meta = read_mapping(folder / "model.yaml")
    path = folder / "weights.safetensors"
    data = path.read_bytes()
    if (found := sha256_of(data)) != meta.get("weights_sha256"):
        raise ValueError(
            f"{folder / 'weights.safetensors'}: sha256 {found}; model.yaml says {meta.get('weights_sha256')}"
        )
    first, second, third = meta["architecture"]["channels"]
    config = ConditionalConfig(meta["architecture"]["latent"], (first, second, third), meta["architecture"]["width"])
    network = ConditionalVAE(config)
    network.load_state_dict(load(data))
    return network.eval()


def _build(architecture: Any, path: Path) -> VAE:
    try:
        first, second, third = (int(c) for c in architecture["channels"])
        config = VAEConfig(int(architecture["latent"]), (first, second, third), int(architecture["basis"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: architecture: found {architecture!r}; needed latent, three channels, basis"
        ) from None
    if not (1 <= config.latent <= 512 and all(1 <= c <= 1024 for c in (*config.channels, config.basis))):
        raise ValueError(f"{path}: architecture: found {config}; needed latent 1-512, channels and basis 1-1024")
    return VAE(config)


def load_model(folder: Path) -> Model:
    """Load and check a model folder.

    Raises
    ------
    ValueError
        If a file is missing, the weights' hash is not the one in model.yaml, the weights do not fit the architecture,
        or the preprocessing is another version's; the message names the file, what was found and what is needed.
    """
    crystal = crystal_from_dict(read_mapping(folder / "crystal.yaml"), folder / "crystal.yaml")
    meta_path, weights_path = folder / "model.yaml", folder / "weights.safetensors"
    meta = read_mapping(meta_path)
    if meta.get("format") != FORMAT:
        raise ValueError(f"{meta_path}: format: found {meta.get('format')!r}; needed {FORMAT}: train the model again")
    if meta.get("preprocessing") != PREPROCESSING:
        raise ValueError(f"{meta_path}: preprocessing: found {meta.get('preprocessing')!r}; needed {PREPROCESSING}")
    if not weights_path.is_file():
        raise ValueError(f"{weights_path}: not found; train the model again")
    if weights_path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise ValueError(f"{weights_path}: found {weights_path.stat().st_size} bytes; at most {MAX_WEIGHTS_BYTES}")
    data = weights_path.read_bytes()
    found = sha256_of(data)
    if found != meta.get("weights_sha256"):
        raise ValueError(f"{weights_path}: sha256 {found}; {meta_path.name} says {meta.get('weights_sha256')}")
    vae = _build(meta.get("architecture"), meta_path)
    try:
        vae.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights_path}: does not fit the architecture of {meta_path.name} ({reason})") from None
    if not all(torch.isfinite(value).all() for value in vae.state_dict().values()):
        raise ValueError(f"{weights_path}: holds values that are not finite")
    return Model(name=folder.name, crystal=crystal, vae=vae.eval(), sha256=found, meta=meta)
