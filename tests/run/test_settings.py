"""The configuration: what fits is taken, what does not is one sentence."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from oddlattice.run.settings import (
    SettingsError,
    check_model,
    checked,
    dumped,
    find_model,
    load_schema,
    load_yaml,
    model_names,
    source,
    takes_gpu,
    versions,
)

ROOT = Path(__file__).parents[2]
SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
SHIPPED = load_yaml(ROOT / "config.yaml")


def merged(base: Any, over: Any) -> Any:
    """Merge mappings as Snakemake does."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merged(base.get(key), value) for key, value in over.items()}


def check(mine: dict[str, Any], name: str = "my.yaml") -> dict[str, Any]:
    return checked(merged(SHIPPED, mine), SCHEMA, [("config.yaml", SHIPPED), (name, mine)])


def sentence(mine: dict[str, Any], name: str = "my.yaml") -> str:
    with pytest.raises(SettingsError) as error:
        check(mine, name)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_shipped_config_fits_as_it_is() -> None:
    assert checked(SHIPPED, SCHEMA, [("config.yaml", SHIPPED)]) == SHIPPED


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ({"defects": {"fdr": "abc"}}, 'my.yaml: defects.fdr: found "abc"; needed a number between 0 and 1'),
        ({"defects": {"fdr": 1}}, "my.yaml: defects.fdr: found 1; needed a number between 0 and 1"),
        ({"defects": {"fdr": True}}, "my.yaml: defects.fdr: found true; needed a number between 0 and 1"),
        ({"defects": {"fdr": None}}, "my.yaml: defects.fdr: found null; needed a number between 0 and 1"),
        ({"archive": ["a"]}, 'my.yaml: archive: found ["a"]; needed the path or URL of a folder'),
        ({"archive": ""}, 'my.yaml: archive: found ""; needed the path or URL of a folder'),
        ({"archive": 7}, "my.yaml: archive: found 7; needed the path or URL of a folder"),
        ({"shard": {"files": 0}}, "my.yaml: shard.files: found 0; needed a whole number from 1 to 10000"),
        ({"settle_s": -1}, "my.yaml: settle_s: found -1; needed a number of seconds from 0 to a year"),
        (
            {"models": ["../x"]},
            'my.yaml: models[0]: found "../x"; needed a name of small letters, digits and underscores',
        ),
        ({"models": []}, "my.yaml: models: found []; needed a list of names of folders below models/"),
        ({"include": [5]}, "my.yaml: include[0]: found 5; needed a path pattern such as **/*.dm4"),
        ({"defects": 3}, "my.yaml: defects: found 3; needed a mapping "),
        ({"infer": {"device": "tpu"}}, 'my.yaml: infer.device: found "tpu"; needed auto, cpu or cuda'),
    ],
)
def test_a_wrong_value_is_one_sentence(mine: dict[str, Any], expected: str) -> None:
    assert sentence(mine).startswith(expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "-inf"])
def test_numbers_must_be_finite(value: object) -> None:
    assert sentence({"defects": {"published_band_std": value}}).startswith("my.yaml: defects.published_band_std: found")


def test_unknown_keys_are_refused_by_name() -> None:
    assert sentence({"archiv": "x"}).startswith("my.yaml: archiv: unknown key; known here are archive, ")
    assert sentence({"defects": {"frd": 0.1}}).startswith("my.yaml: defects.frd: unknown key; known here are ")
    assert sentence({1: 2}).startswith("my.yaml: 1: unknown key")


def test_a_missing_key_says_what_is_needed() -> None:
    found = {key: value for key, value in SHIPPED.items() if key != "archive"}
    with pytest.raises(
        SettingsError, match=r"^config.yaml: archive: found nothing; needed the path or URL of a folder$"
    ):
        checked(found, SCHEMA, [("config.yaml", found)])


def test_the_source_named_is_the_one_that_holds_the_key() -> None:
    sources = [("config.yaml", {"a": {"b": 1, "c": 2}}), ("my.yaml", {"a": {"b": 3}}), ("--config", {"d": 1})]
    assert source(["a", "b"], sources) == "my.yaml"
    assert source(["a", "c"], sources) == "config.yaml"
    assert source(["d"], sources) == "--config"
    assert source(["a", "new"], sources) == "my.yaml"


def test_text_from_the_command_line_is_taken_as_what_is_needed() -> None:
    found = check(
        {"settle_s": "0", "defects": {"fdr": "1e-2"}, "models": "srtio3_001", "include": "**/*.dm4", "seed": "3"}
    )
    assert (found["settle_s"], found["defects"]["fdr"], found["seed"]) == (0, 0.01, 3)
    assert (found["models"], found["include"]) == (["srtio3_001"], ["**/*.dm4"])


def test_text_stays_text_where_text_is_needed() -> None:
    assert check({"archive": "0012"})["archive"] == "0012"


def properties(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """All keys of a schema with what it says of them."""
    found = [(path, schema)]
    for key, inner in schema.get("properties", {}).items():
        resolved = SCHEMA["$defs"][inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        found += properties(resolved, f"{path}.{key}".removeprefix("."))
    return found


def test_the_schema_describes_every_key_and_refuses_others() -> None:
    for path, schema in properties(SCHEMA):
        assert schema.get("description"), f"{path}: no description; the sentence needs one"
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False, path
            shipped: Any = SHIPPED
            for key in filter(None, path.split(".")):
                shipped = shipped[key]
            assert set(schema.get("required", [])) == set(shipped), f"{path}: what is shipped is required, and no more"


def test_every_shipped_key_has_a_comment() -> None:
    for line in (ROOT / "config.yaml").read_text().splitlines():
        if line and not line.startswith("#") and not line.rstrip().endswith(":"):
            assert "#" in line or "include:" in line or line.endswith("{}"), line


# ---- YAML files


def test_yaml_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(SettingsError, match=r"bomb.yaml: found an alias \(\*name\), which is not allowed"):
        load_yaml(tmp_path / "bomb.yaml")


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"a: [", "while parsing"), (b"- a", "list"), (b"", "NoneType"), (b"\xff\xfe\x00", ""), (b"[" * 5000, "")],
)
def test_bad_yaml_is_one_sentence(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^.*bad\.yaml: found {found}.*; needed [^\n]*$"):
        load_yaml(tmp_path / "bad.yaml")


def test_missing_yaml_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: found .*No such file.*; needed a readable YAML file"):
        load_yaml(tmp_path / "none.yaml")


def test_dumped_config_reads_back(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dumped(SHIPPED))
    assert load_yaml(tmp_path / "config.yaml") == SHIPPED


# ---- models


def model(folder: Path, weights: bytes = b"weights", sha256: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "crystal.yaml").write_text("name: x\n")
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.yaml").write_text(f"weights_sha256: {sha256 or hashlib.sha256(weights).hexdigest()}\n")
    return folder


def test_a_model_beside_the_results_wins(tmp_path: Path) -> None:
    places = [tmp_path / "work", tmp_path / "installed"]
    installed = model(places[1] / "sto")
    assert find_model("sto", places) == installed
    assert find_model("sto", places) != model(places[0] / "sto")
    assert find_model("sto", places) == places[0] / "sto"


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    model(tmp_path / "sto")
    model(tmp_path / "mos2")
    with pytest.raises(
        SettingsError, match=r'^found "stoo", but no .*stoo with a crystal.yaml; needed one of: mos2, sto$'
    ):
        find_model("stoo", [tmp_path])


def test_a_whole_model_passes(tmp_path: Path) -> None:
    check_model(model(tmp_path / "sto"))


@pytest.mark.parametrize("name", ["model.yaml", "weights.safetensors"])
def test_an_untrained_model_is_one_sentence(tmp_path: Path, name: str) -> None:
    (model(tmp_path / "sto") / name).unlink()
    with pytest.raises(SettingsError, match=rf"found no {name} in .*/sto; needed a trained model"):
        check_model(tmp_path / "sto")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "sto", sha256="a" * 64)
    with pytest.raises(SettingsError, match=r"found .*weights.safetensors with sha256 [0-9a-f]{64}; needed a{64}"):
        check_model(folder)


def test_weights_without_a_hash_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "sto")
    (folder / "model.yaml").write_text("latents: 4\n")
    with pytest.raises(SettingsError, match=r"; needed nothing, see model.yaml"):
        check_model(folder)


def test_the_shipped_models_are_whole() -> None:
    for name in model_names(SHIPPED["models"], [ROOT / "models"]):
        check_model(find_model(name, [ROOT / "models"]))


@pytest.mark.parametrize(
    ("device", "look", "there", "visible", "taken"),
    [
        ("cpu", True, ["nvidia0"], None, False),
        ("cuda", True, [], None, True),
        ("auto", True, ["nvidia0", "nvidiactl"], None, True),
        ("auto", True, ["kfd"], None, True),
        ("auto", True, ["nvidiactl", "null"], None, False),
        ("auto", True, ["nvidia0"], "", False),
        ("auto", True, ["nvidia0"], "0", True),
        ("auto", False, [], None, True),  # on a cluster: what this machine has says nothing
    ],
)
def test_a_gpu_is_asked_for_where_one_may_do_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    look: bool,
    there: list[str],
    visible: str | None,
    taken: bool,
) -> None:
    for name in there:
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert takes_gpu(device, look=look, devices=tmp_path) == taken


def test_versions_name_this_program_first() -> None:
    assert list(versions())[:2] == ["oddlattice", "python"]
    assert versions()["zarr"] == "3.1.6"
