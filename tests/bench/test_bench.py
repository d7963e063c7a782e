"""The benchmark runs and gives its figures; what they are is not tested: a machine may be busy."""

import importlib
import inspect
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import __main__ as bench
from bench import machine, scale, stages
from bench.figures import Figure, as_json, table
from bench.material import Lattice, scan
from oddlattice.lattice.fourier import describe, find_lattice

KEYS = {
    "inference": {"inference_cells_per_s", "times_published", "times_pca"},
    "reading": {"dm4_mb_per_s", "dm4_mb_per_core_s", "velox_mb_per_s"},
    "large archives": {"dry_run_s", "dry_run_mb", "no_op_s"},
    "memory": {f"{stage}_{what}_mb" for stage in ("read_images", "write_pages") for what in ("image", "stack")},
    "whole pipeline": {
        "pipeline_mpx_per_s",
        "times_loop",
        "orchestration_percent",
        "time_per_image_ratio",
        "find_defects_mpx_per_core_s",
    },
}


def run(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["bench", "--quick", "--only", part, "--out", str(tmp_path), "--scratch", str(tmp_path)]
    )
    bench.main()
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["quick"] and found["machine"]["processor"] and found["machine"]["versions"]
    figures = found["parts"][part]
    assert KEYS[part] <= figures.keys()
    values = {key: figure["value"] for key, figure in figures.items() if isinstance(figure, dict)}
    assert all(math.isfinite(value) for value in values.values()), values
    assert all(value > 0 for key, value in values.items() if key != "orchestration_percent"), values
    assert table([Figure(k, "", v, "") for k, v in values.items()]).count("\n") == len(values) + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]  # nothing is left behind


@pytest.mark.parametrize("part", ["inference", "reading"])
def test_it_runs(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(part, tmp_path, monkeypatch)


def test_every_stage_is_given_what_its_rule_gives_it(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text("archive: archive\n")
    given = stages.given(tmp_path, "shard", 1)
    assert tuple(given) == stages.STAGES
    for name, arguments in given.items():
        inspect.signature(importlib.import_module(name).main).bind(**arguments)


@pytest.mark.slow
@pytest.mark.workflow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", ["large archives", "memory", "whole pipeline"])
def test_all_of_it_runs(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(part, tmp_path, monkeypatch)


def test_scans_have_the_lattice_they_say() -> None:
    image = scan((512, 700), 0, Lattice(24, 7))
    assert image.shape == (512, 700) and image.dtype == np.uint16
    a, b, gamma = describe(find_lattice(image.astype(np.float32)).vectors_px)
    assert sorted({round(a), round(b)}) in ([25], [18]) and abs(gamma - 90) < 1  # the cell, or the one of {110}


def test_figures_know_whether_their_aim_is_reached() -> None:
    figures = [
        Figure("a_s", "a", 3.0, "s", 4.0, least=False),
        Figure("b_x", "b", 3.0, "x", 4.0),
        Figure("c", "c", 1, ""),
    ]
    assert [figure.reached for figure in figures] == [True, False, None]
    assert as_json(figures)["b_x"]["reached"] is False
    assert "| b | 3 x | ≥ 4 | **missed** |" in table(figures)


def test_the_machine_is_named() -> None:
    about = machine.described()
    assert {"processor", "cores", "gpu", "bfloat16_in_hardware", "versions"} <= about.keys()


def test_the_model_of_a_cluster_counts_every_job_and_every_loss() -> None:
    plan = scale.Plan(images=3200, archives=2, nodes=2, cores=5, failing=0.0)
    one, grouped = scale.play(plan), scale.play(replace(plan, grouped=True))
    assert (one.submissions, grouped.submissions) == (600, 100)
    core_h = 100 * sum(plan.durations_s) / 3600
    assert core_h / 10 <= one.hours <= 1.05 * core_h / 10
    assert grouped.hours < one.hours and one.lost_core_h == 0
    failing = scale.play(replace(plan, failing=0.5))
    assert failing.submissions == 600 + 5 and failing.lost_core_h > 0
