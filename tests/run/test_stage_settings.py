"""Classes of settings, schema and config.yaml name the same keys."""

from dataclasses import FrozenInstanceError, fields

import pytest

from oddlattice.run.settings import load_schema, load_yaml
from oddlattice.run.stage_settings import SECTIONS, DefectSettings
from support.settings import ROOT, default

CONFIG = load_yaml(ROOT / "config.yaml")
SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")["properties"]


@pytest.mark.parametrize("name", SECTIONS)
def test_class_schema_and_config_name_the_same_keys(name: str) -> None:
    keys = {entry.name for entry in fields(SECTIONS[name])}
    assert keys == set(SCHEMA[name]["properties"])
    assert set(CONFIG[name]) == set(SCHEMA[name]["required"]) <= keys


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_comes_back_as_it_was(name: str) -> None:
    made = SECTIONS[name].of(CONFIG[name]).as_dict()
    assert made == CONFIG[name] | dict.fromkeys(made.keys() - CONFIG[name].keys())


def test_settings_do_not_change_and_unknown_keys_are_refused() -> None:
    settings = default(DefectSettings, fdr=0.1)
    assert settings.fdr == 0.1
    with pytest.raises(FrozenInstanceError):
        settings.fdr = 0.2  # type: ignore[misc]
    with pytest.raises(TypeError, match="unknown"):
        DefectSettings.of(CONFIG["defects"] | {"unknown": 1})
