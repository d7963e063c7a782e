"""Measures how fast everything is: `make bench`, or `python -m bench --quick` for a form of some minutes.

Writes results/bench/bench.json and bench.md and prints the table. Ratios are measured inside one run, so they hold on a
busy machine too; for times, processor time stands beside wall time.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import inference, large, machine, memory, pipeline, reading
from bench.figures import Figure, as_json, table
from oddlattice.storage.atomic import write_text

PARTS: dict[str, Callable[[bool, Path], list[Figure]]] = {
    "inference": lambda quick, _: inference.measure(quick),
    "reading": reading.measure,
    "large archives": large.measure,
    "memory": memory.measure,
    "whole pipeline": pipeline.measure,
}


def measured(parts: list[str], quick: bool, scratch: Path | None = None) -> tuple[dict[str, object], str]:
    """Measure `parts`; what bench.json holds, and the tables."""
    about = machine.described()
    found: dict[str, object] = {}
    bf16 = "in hardware" if about["bfloat16_in_hardware"] else "emulated"
    text = [
        f"{about['processor']}, {about['cores']} cores, bfloat16 {bf16}, {about['memory_gb']} GB, GPU {about['gpu']}."
        + (" Quick form: sizes are small.\n" if quick else "\n")
    ]
    for name in parts:
        print(f"{name} ...", flush=True)
        place = Path(tempfile.mkdtemp(prefix="oddlattice-bench-", dir=scratch))
        start, load = time.monotonic(), os.getloadavg()[0]
        try:
            figures = PARTS[name](quick, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        found[name] = as_json(figures) | {"load_before": load, "took_s": round(time.monotonic() - start, 1)}
        text.append(f"\n**{name}** (load of the machine before: {load:.1f})\n\n{table(figures)}")
        print(text[-1], flush=True)
    return {"machine": about, "quick": quick, "parts": found}, "".join(text)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: some minutes, figures of no meaning")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    parser.add_argument("--scratch", type=Path, help="folder for the files that are measured with (some GB)")
    given = parser.parse_args()
    found, text = measured(given.only, given.quick, given.scratch)
    path = given.out / "bench.json"
    if path.exists() and set(given.only) != set(PARTS):  # parts measured earlier stay
        found["parts"] = json.loads(path.read_text(encoding="utf-8"))["parts"] | found["parts"]  # type: ignore[operator]
    write_text(path, json.dumps(found, indent=1) + "\n")
    write_text(given.out / "bench.md", text)
    print(f"written: {path}, {given.out / 'bench.md'}")


if __name__ == "__main__":
    main()
