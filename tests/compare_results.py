"""Compare the products of two runs byte by byte: `python tests/compare_results.py RESULTS RESULTS`.

Left out is what tells how and when a run was made: logs, benchmarks, versions, hashes of modules, times.
Exits with 1 where a product differs or is missing.
"""

import re
import sys
from pathlib import Path

PROVENANCE = re.compile(
    r"logs/|benchmarks/|0_archive/(modules/|looks|judged|archive\.txt)|versions\.txt|ro-crate-metadata\.json|.*\.snakemake_timestamp"
)


def products(results: Path) -> dict[str, Path]:
    """Files below a folder of results, by path, without those that tell how they were made."""
    found = {file.relative_to(results).as_posix(): file for file in sorted(results.rglob("*")) if file.is_file()}
    return {name: file for name, file in found.items() if not PROVENANCE.match(name)}


def differences(first: Path, second: Path) -> list[str]:
    """Names of products that only one run has, or that differ."""
    a, b = products(first), products(second)
    lines = [f"only in {first}: {name}" for name in sorted(a.keys() - b.keys())]
    lines += [f"only in {second}: {name}" for name in sorted(b.keys() - a.keys())]
    return lines + [
        f"differs: {name}" for name in sorted(a.keys() & b.keys()) if a[name].read_bytes() != b[name].read_bytes()
    ]


if __name__ == "__main__":
    folders = Path(sys.argv[1]), Path(sys.argv[2])
    found = differences(*folders)
    print("\n".join(found[:100]))
    print(f"{len(products(folders[0]))} products, {len(found)} differ")
    sys.exit(bool(found))
