"""Crafted files: what they would have the program do is not done, and they are refused with a reason.

Further ones in test_formats (HDF5 trees, claims of size), test_model and test_settings (weights, hashes, configs).
"""

import gzip
import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
import zarr

import read_images
import schedule_once
from oddlattice.crystal import load_crystal
from oddlattice.model.folder import load_model, save_model, sha256_of
from oddlattice.model.vae import VAE, VAEConfig
from oddlattice.run.settings import SettingsError, check_model, find_model, load_yaml
from read import test_formats as crafted
from support.fault_runs import CRYSTAL, ROOT
from support.raw_files import SETTINGS, counts, shard_of, write_dm, write_ncem

REASONS = {
    crafted.external_link: "external link",
    crafted.external_storage: "external storage",
    crafted.virtual: "virtual dataset",
    crafted.soft_circle: "link in a circle",
    crafted.soft_upwards: "link in a circle",
    crafted.hard_circle: "contains itself",
    crafted.soft_to_external: "external link",
    crafted.claim_contiguous: "claims 40 GB",
    crafted.claim_chunked: "claims 40 GB",
    crafted.bomb: "claims 3.1 GB",
    crafted.deep: "deeper than 64",
}


def only_image_is_elsewhere(file: h5py.File, secret: Path) -> None:
    """A proper NCEM file whose pixels are another file's, by relative path."""
    file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
    group = file.create_group("data/HAADF")
    group.attrs["emd_group_type"] = 1
    group["data"] = h5py.ExternalLink(f"../{secret.name}", "/image")
    for number in (1, 2):
        dim = group.create_dataset(f"dim{number}", data=np.arange(64) * 0.01)
        dim.attrs["name"], dim.attrs["units"] = "x", "[n_m]"


def bomb_of_attributes(file: h5py.File, secret: Path) -> None:
    """Metadata that unpacks to much more than the file is long."""
    group = file.create_group("data/HAADF")
    text = np.zeros(200_000_000, "u1")
    group.create_dataset("Metadata", data=text, chunks=(1_000_000,), compression="gzip")


def test_crafted_hdf5_files_give_reasons_and_no_pixel_of_another_file(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["image"] = counts((64, 64))
    more = {only_image_is_elsewhere: "external link", bomb_of_attributes: ""}
    for craft in (*REASONS, *more):
        with h5py.File(archive / f"{craft.__name__}.emd", "w") as file:
            craft(file, secret)
    write_ncem(archive / "sound.emd", counts((64, 64), seed=1))
    names = shard_of(archive, tmp_path / "shard.tsv")
    out = tmp_path / "images.zarr"
    read_images.main(tmp_path / "shard.tsv", archive, out, SETTINGS, log=tmp_path / "log", threads=2)
    said = {names[row["file_id"]][:-4]: row for row in zarr.open_group(out, mode="r").attrs["images"]}
    assert len(said) == len(REASONS) + len(more) + 1
    assert said.pop("sound")["state"] == "read"
    assert {row["state"] for row in said.values()} == {"rejected"}
    for craft, why in (REASONS | more).items():
        assert why in said[craft.__name__]["reason"]
    assert len([p for p in out.iterdir() if p.is_dir()]) == 2  # and OME, which lists it


def test_names_like_paths_and_markup_stay_names(tmp_path: Path) -> None:
    """Detector and title in a file, and the file's own name: nothing of it leads out of the store."""
    archive = tmp_path / "archive"
    (archive / "..%2f..").mkdir(parents=True)
    names = [
        "../../out",
        "/abs/olute",
        "..",
        "a\nb\t\"c' <b>",
        "zarr.json",
        "\u202eevil",
        "$(touch out)",
        "`x`;rm -rf *",
    ]
    for number, name in enumerate(names):
        tags = {"DataBar": {"Signal Name": name}, "Title": name}
        write_dm(archive / "..%2f.." / f"{number} {name.replace('/', '|')}.dm4", counts(seed=number), tags=tags)
    shard_of(archive, tmp_path / "shard.tsv")
    out = tmp_path / "deep/er/images.zarr"
    read_images.main(tmp_path / "shard.tsv", archive, out, SETTINGS, log=tmp_path / "log", threads=2)
    rows = zarr.open_group(out, mode="r").attrs["images"]
    assert {row["state"] for row in rows} == {"read"}
    assert {p.name for p in out.iterdir()} == {row["image_id"] for row in rows} | {"zarr.json", "OME"}
    assert {p.name for p in tmp_path.iterdir()} == {"archive", "shard.tsv", "deep", "log"}
    assert all(row["signal"].isprintable() and row["path"].isprintable() for row in rows)


def bomb_of_aliases(top: str) -> str:
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines) + f"\n{top}: *b9\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models/tiny"
    folder.mkdir(parents=True)
    save_model(folder, VAE(VAEConfig(latent=3, channels=(4, 4, 4), basis=8)), {"name": "tiny"})
    shutil.copy(CRYSTAL, folder)
    check_model(folder)
    return folder


@pytest.mark.parametrize("name", ["crystal.yaml", "model.yaml"])
@pytest.mark.parametrize(
    "text", [bomb_of_aliases("architecture"), "[" * 50_000, "a: !!python/object/apply:os.getcwd []"]
)
def test_a_yaml_bomb_in_a_model_is_one_short_sentence(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: found .*; needed a readable YAML file") as refusal:
        load_model(model)
    assert len(str(refusal.value)) < 500
    if name == "crystal.yaml":
        with pytest.raises(ValueError, match="needed a readable YAML file"):
            load_crystal(model / name)
    else:
        with pytest.raises(SettingsError, match="needed a readable YAML file"):
            check_model(model)


def test_a_yaml_bomb_in_a_config_is_one_short_sentence(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(bomb_of_aliases("include"))
    with pytest.raises(SettingsError, match="an alias") as refusal:
        load_yaml(tmp_path / "my.yaml")
    assert len(str(refusal.value)) < 300


def forged(header: bytes, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(**values: object) -> bytes:
    return json.dumps({"encoder.0.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | values}).encode()


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"\x80\x04\x95" + b"\0" * 40,  # a pickle
        forged(b"{}", length=1 << 40),
        forged(entry(data_offsets=[0, 1 << 50])),
        forged(entry(data_offsets=[16, 0])),
        forged(entry(data_offsets=[-16, 0])),
        forged(entry(shape=[1 << 62, 1 << 62])),
        forged(entry(dtype="F8192")),
        forged(b"[" * 90_000),
        forged(entry() + b" " * 100, length=len(entry()) + 100),
    ],
    ids=lambda weights: f"{len(weights)} bytes",
)
def test_forged_weights_are_one_sentence(model: Path, weights: bytes) -> None:
    (model / "weights.safetensors").write_bytes(weights)
    described = yaml.safe_load((model / "model.yaml").read_text()) | {"weights_sha256": sha256_of(weights)}
    (model / "model.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match="weights.safetensors: does not fit"):
        load_model(model)


def test_weights_with_another_hash_are_refused_before_any_work(model: Path) -> None:
    weights = bytearray((model / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "weights.safetensors").write_bytes(weights)
    with pytest.raises(SettingsError, match=f"sha256 {hashlib.sha256(weights).hexdigest()}; needed"):
        check_model(find_model("tiny", [model.parent]))


def test_a_compressed_file_under_another_name_is_named_and_not_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    with gzip.open(archive / "a.dm4", "wb") as file:
        file.write(bytes(50_000_000))
    shard_of(archive, tmp_path / "shard.tsv")
    read_images.main(tmp_path / "shard.tsv", archive, tmp_path / "out", SETTINGS, log=tmp_path / "log")
    [row] = zarr.open_group(tmp_path / "out", mode="r").attrs["images"]
    assert "looks like a gzip-compressed file" in row["reason"]


def bomb_of_mappings(levels: int) -> str:
    lines = ["b0: &b0 {x: 1}"]
    lines += [f"b{n}: &b{n} {{{', '.join(f'k{k}: *b{n - 1}' for k in range(10))}}}" for n in range(1, levels + 1)]
    return "\n".join(lines) + f"\narchive: *b{levels}\n"


def test_a_mapping_bomb_in_a_config_costs_bounded_memory(tmp_path: Path) -> None:
    """Snakemake itself unfolds mappings of mappings before this program sees them; small ones come to a sentence."""
    (tmp_path / "my.yaml").write_text(bomb_of_mappings(3))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    done = subprocess.run(
        [*command, "-n", "--configfile", str(tmp_path / "my.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HOME": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert done.returncode != 0
    assert "an alias (*name), which is not allowed" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("text", [bomb_of_mappings(12), bomb_of_aliases("include"), "[" * 50_000])
def test_a_scheduled_run_refuses_a_bomb_before_snakemake_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setattr(schedule_once, "work", lambda *given: pytest.fail("Snakemake would have been started"))
    (tmp_path / "my.yaml").write_text(text)
    code = schedule_once.main(["--directory", str(tmp_path / "work"), "--configfile", str(tmp_path / "my.yaml")])
    assert code == schedule_once.PERSON
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "my.yaml: found " in said and "needed a readable YAML file" in said


@pytest.mark.parametrize("name", ["--configfile", "--configfiles=my.yaml", "--configf"])
def test_a_config_file_cannot_be_passed_by_the_check(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit):
        schedule_once.main(["--", name, "my.yaml"])
    assert "a config file is named before --" in capsys.readouterr().err
