"""The configuration: checked against its schema, with one sentence for the first thing that does not fit."""

import ast
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from oddlattice import __version__
from oddlattice.run import yaml_files

#: Packages whose versions may change results; written beside them.
PACKAGES = (
    "dask", "h5py", "hyperspy", "numpy", "polars", "rosettasciio", "safetensors", "scikit-image", "scipy", "snakemake",
    "torch", "zarr",
)  # fmt: skip
AUTO = "auto"  # among `models`: all there are, and else the crystal that an image shows itself


class SettingsError(ValueError):
    """The configuration cannot be used; the message is one sentence that names the file and the key."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    SettingsError
        If the file is missing, is no YAML, holds an alias, or holds something else than a mapping.
    """
    try:
        return yaml_files.read_mapping(path)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def load_schema(path: Path) -> dict[str, Any]:
    """Read a schema; where it says METHODS, the names of the methods of prediction stand.

    They are read off the registry in `predict/methods.py` without running it: every job reads the schema.

    Raises
    ------
    SettingsError
        As `load_yaml`.
    """
    filled: dict[str, Any] = _with_methods(load_yaml(path), method_names())
    return filled


def load_config(repository: Path, files: Sequence[Path], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the config as Snakemake will, and check it.

    Parameters
    ----------
    repository : Path
        Folder of the shipped config and the schema.
    files : sequence of Path
        Config files, each over the ones before.
    own : mapping, optional
        What was typed, over all files.

    Raises
    ------
    SettingsError
        One sentence for the first thing that does not fit.
    """
    sources: list[tuple[str, Any]] = [(str(file), load_yaml(file)) for file in (repository / "config.yaml", *files)]
    sources += [("--config", dict(own))] if own else []
    found: dict[str, Any] = {}
    for _, content in sources:
        found = _merged(found, content)
    return checked(found, load_schema(repository / "workflow/schemas/config.schema.yaml"), sources)


def _merged(base: Any, over: Any) -> Any:
    """Merge mappings into one another, key by key."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


@cache
def method_names() -> tuple[str, ...]:
    """Names of the methods in their registry, METHODS."""
    tree = ast.parse((Path(__file__).parents[1] / "predict/methods.py").read_text(encoding="utf-8"))
    (registry,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "METHODS"
    )
    return tuple(ast.literal_eval(key) for key in registry.keys)  # type: ignore[attr-defined]


def _with_methods(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _with_methods(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [name for item in value for name in (names if item == "METHODS" else (_with_methods(item, names),))]
    return value.replace("METHODS", ", ".join(names)) if isinstance(value, str) else value


def checked(config: Mapping[str, Any], schema: Mapping[str, Any], sources: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Give the configuration with every value of the type its schema asks for.

    Values from the command line arrive as text; text that is a number is taken as one where a number is needed, and a
    single text as a list of one where a list is needed.

    Parameters
    ----------
    config : mapping
        The merged configuration.
    schema : mapping
        JSON schema; `description` of a key says what is needed there.
    sources : sequence of (str, mapping)
        Where the configuration came from, weakest first: the name to print and what it holds.

    Returns
    -------
    dict

    Raises
    ------
    SettingsError
        Naming source, key, what was found and what is needed.
    """
    fitted = _fit(config, schema, schema)
    problem = min(
        jsonschema.Draft202012Validator(schema).iter_errors(fitted),
        key=lambda problem: [str(key) for key in problem.absolute_path],
        default=None,
    )
    if problem is not None:
        raise SettingsError(_sentence(problem, sources))
    for keys, value in _leaves(fitted):
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"{source(keys, sources)}: {_key(keys)}: found {value}; needed a finite number")
    assert isinstance(fitted, dict)
    return fitted


def _resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _fit(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """Turn text into the number, switch or list that the schema asks for, where it can be."""
    schema = _resolve(schema, root)
    kind = schema.get("type")
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        return {key: _fit(item, known.get(key, {}), root) for key, item in value.items()}
    if isinstance(value, list):
        return [_fit(item, schema.get("items", {}), root) for item in value]
    if not isinstance(value, str):
        return value
    if kind == "array":
        return [value]
    if kind == "boolean" and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind in ("integer", "number"):
        return _number(value)
    return value


def _number(text: str) -> Any:
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            pass
    return text


def _sentence(problem: jsonschema.ValidationError, sources: Sequence[tuple[str, Any]]) -> str:
    keys: list[Any] = list(problem.absolute_path)
    schema: Any = problem.schema
    instance: Any = problem.instance
    found = f"found {json.dumps(instance, ensure_ascii=False, default=str)[:200]}"
    needed = schema.get("description", "a value")
    if problem.validator == "additionalProperties":
        known = sorted(schema["properties"])
        keys.append(min(str(key) for key in instance if key not in known))
        return f"{source(keys, sources)}: {_key(keys)}: unknown key; known here are {', '.join(known) or 'none'}"
    if problem.validator == "required":
        keys.append(next(key for key in schema["required"] if key not in instance))
        found, needed = "found nothing", schema["properties"][keys[-1]].get("description", "a value")
    return f"{source(keys, sources)}: {_key(keys)}: {found}; needed {needed}"


def _key(keys: Sequence[Any]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".") or "all of it"


def source(keys: Sequence[Any], sources: Sequence[tuple[str, Any]]) -> str:
    """Name the strongest source that holds a key, or as much of it as any does."""
    names = [key for key in keys if not isinstance(key, int)]
    for depth in range(len(names), 0, -1):
        for name, content in reversed(sources):
            if _holds(content, names[:depth]):
                return str(name)
    return str(sources[-1][0])


def _holds(content: Any, keys: Sequence[Any]) -> bool:
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return bool(keys)


def _leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*keys, index))
    else:
        yield keys, value


def model_names(chosen: Sequence[str], places: Sequence[Path]) -> list[str]:
    """Names of the models to try: those chosen; `auto` stands for every folder with a trained model."""
    if AUTO not in chosen:
        return list(chosen)
    folders = [path.parent for place in places for path in place.glob("*/crystal.yaml")]
    there = sorted({folder.name for folder in folders if (folder / "model.yaml").is_file()})
    return list(dict.fromkeys([name for name in chosen if name != AUTO] + there))


def find_model(name: str, places: Sequence[Path]) -> Path:
    """Find the folder of a model: the first ``models/<name>`` with a ``crystal.yaml`` among `places`.

    Raises
    ------
    SettingsError
        If there is none; the message lists the models that there are.
    """
    for place in places:
        if (place / name / "crystal.yaml").is_file():
            return place / name
    known = sorted({path.parent.name for place in places for path in place.glob("*/crystal.yaml")})
    raise SettingsError(
        f"found {json.dumps(name)}, but no {' or '.join(str(place / name) for place in places)} with a crystal.yaml; "
        f"needed one of: {', '.join(known) or 'none there yet (snakemake train makes one)'}"
    )


def check_model(folder: Path) -> None:
    """Check that a model is whole: its description and the weights that the description names by hash.

    Raises
    ------
    SettingsError
        If a file is missing or the weights are others.
    """
    for name in ("model.yaml", "weights.safetensors"):
        if not (folder / name).is_file():
            raise SettingsError(f"found no {name} in {folder}; needed a trained model (snakemake train makes one)")
    needed = str(load_yaml(folder / "model.yaml").get("weights_sha256", "nothing"))
    found = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    if not re.fullmatch("[0-9a-f]{64}", needed) or found != needed:
        raise SettingsError(
            f"found {folder / 'weights.safetensors'} with sha256 {found}; needed {needed}, see model.yaml"
        )


def dumped(config: Mapping[str, Any]) -> str:
    """The configuration as YAML, keys in order."""
    return yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=True, allow_unicode=True)


@cache
def versions() -> dict[str, str]:
    """Versions of this program, of Python and of the packages that results depend on."""
    ours = {"oddlattice": __version__, "python": platform.python_version()}
    return ours | {package: version(package) for package in PACKAGES}


def takes_gpu(device: str, *, look: bool, devices: Path = Path("/dev")) -> bool:
    """Whether inference may take a GPU, told without PyTorch, which would take seconds to load.

    Parameters
    ----------
    device : str
        `infer.device`: auto, cpu or cuda.
    look : bool
        Whether inference runs on this machine, so that "auto" can be told by its devices.
    devices : Path
        Where the system has its devices: of NVIDIA, of AMD, or of Windows below a Linux.
    """
    if device != "auto" or not look:
        return device != "cpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(any(devices.glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg"))
