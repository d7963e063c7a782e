"""Kernels are compiled once and kept; where nothing can be kept they work all the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.compiled_sums import twice_row_sums

HERE = Path(__file__).parents[1]
ASK = """
import sys
sys.path[:0] = {paths!r}
import compiled_sums
print("numba" in sys.modules)
from oddlattice.numerics.compiled import load_kernels
load_kernels()
stats = compiled_sums.twice_row_sums.machine.stats
print(sum(stats.cache_hits.values()))
import numpy as np
print(compiled_sums.twice_row_sums(np.ones((2, 3), np.float32)).tolist())
"""


def asked(folder: Path, **environment: str) -> list[str]:
    code = ASK.format(paths=[str(folder), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return run.stdout.split("\n")[:-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(HERE / "support/compiled_sums.py", tmp_path)
    return tmp_path


def test_a_kernel_calls_another_and_refuses_other_types() -> None:
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert twice_row_sums(image).tolist() == [6, 24]
    assert twice_row_sums.__doc__ == "Twice the sum of each row."
    with pytest.raises(TypeError):
        twice_row_sums(image.astype(np.float64))
    with pytest.raises(TypeError):
        twice_row_sums(image[:, ::2])


def test_kernels_are_kept_and_a_cache_that_is_damaged_or_forbidden_costs_only_time(folder: Path) -> None:
    assert asked(folder) == ["False", "0", "[6.0, 6.0]"]
    assert asked(folder) == ["False", "1", "[6.0, 6.0]"]
    for kept in folder.glob("__pycache__/*.nb?"):
        kept.write_bytes(b"")
    assert asked(folder) == ["False", "0", "[6.0, 6.0]"]
    shutil.rmtree(folder / "__pycache__")
    (folder / "__pycache__").touch()  # no folder can be made here, nor in the home
    assert asked(folder, HOME="/dev/null", XDG_CACHE_HOME="/dev/null") == ["False", "0", "[6.0, 6.0]"]
