"""Mutated microscope files: whatever was done to one, it is read or rejected with a reason, and the run goes on."""

import resource
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

import read_images
from oddlattice.archive.inventory import scan_archive
from oddlattice.archive.shards import read_shard
from oddlattice.archive.verdicts import refresh_inventory
from oddlattice.storage import products
from oddlattice.storage.products import IMAGES, table, write_parquet
from support.other_files import FORMATS
from support.raw_files import SETTINGS, counts, write_dm, write_ncem, write_velox

MEMORY_MB, TIMEOUT_S = 600, 20.0
CHECKED = ("prz", "ndata1", "deflate")  # under a checksum: hardly a change of theirs is let pass, and none need be


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, the end cut off, or a number in the header forged."""
    changed = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(changed[: int(rng.integers(1, len(changed)))])
    if kind == 1:
        for place in rng.integers(0, len(changed), int(rng.integers(1, 40))):
            changed[place] ^= 1 << int(rng.integers(8))
    if kind == 2:  # a forged size or count among the first kilobytes, where both formats keep them
        place = int(rng.integers(4, min(4096, len(changed) - 8)))
        width = int(rng.choice([4, 8]))
        value = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 40_000_000_000, 65536])) % (1 << (8 * width))
        changed[place : place + width] = value.to_bytes(width, str(rng.choice(["big", "little"])))
    if kind == 3:
        start, stop = sorted(int(n) for n in rng.integers(0, len(changed), 2))
        changed[start:stop] = rng.bytes(min(stop - start, 4096))
    return bytes(changed)


def write_mutants(archive: Path, each: int) -> None:
    seeds = archive.parent / "seeds"
    seeds.mkdir()
    image = counts((64, 72))
    write_dm(seeds / "a.dm3", image, version=3)
    write_dm(seeds / "b.dm4", image)
    write_ncem(seeds / "c.emd", image)
    write_velox(seeds / "d.emd", {"HAADF": image[None]})
    for name, (ending, write, _) in FORMATS.items():
        write(seeds / f"{name}{ending}", image)
    rng = np.random.default_rng(20261122)
    for seed in sorted(path for path in seeds.iterdir() if path.suffix != ".yaml"):
        data = seed.read_bytes()
        for number in range(each):
            (archive / f"{seed.stem}-{number:04d}{seed.suffix}").write_bytes(mutate(data, rng))


def check_mutants(folder: Path, each: int) -> None:
    """Scan and read `each` mutants of a file of every format, and look at what the inventory says of every one."""
    archive, results = folder / "archive", folder / "results"
    archive.mkdir()
    write_mutants(archive, each)
    shards = scan_archive(archive, results, ["**"], [], 0, 100, 1000, now_ns=4 * 10**18).shards
    longest_s = 0.0
    for shard in shards:
        out, log = results / f"1_images/{shard}.zarr", results / f"{shard}.log"
        settings = replace(SETTINGS, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB)
        read_images.main(results / f"0_archive/{shard}.tsv", archive, out, settings, log=log, threads=2)
        rows = [dict(row) for row in zarr.open_group(out, mode="r").attrs["images"]]
        assert {row["file_id"] for row in rows} == {file.file_id for file in read_shard(results, shard)}
        rows = [row | {"state": row["state"].replace("read", "analysed")} for row in rows]
        write_parquet(table(rows, IMAGES), results / f"4_defects/{shard}.images.parquet")
        seconds = [
            float(line.split(", ")[-1].split()[0]) for line in log.read_text().splitlines() if " rejected, " in line
        ]
        assert len(seconds) == len(read_shard(results, shard))
        longest_s = max([longest_s, *seconds])
    counted = refresh_inventory(results)
    inventory = products.read_tsv(results / "0_archive/inventory.tsv", products.INVENTORY)
    kinds = {path.rpartition("-")[0] for path in inventory["path"]}
    assert len(kinds) == 4 + len(FORMATS)
    assert counted.total() == inventory.height == len(kinds) * each
    assert counted.keys() == {"done", "rejected"}
    reasons = inventory.filter(pl.col("state") == "rejected")["reason"]
    assert all(reason.startswith("The ") and reason.isprintable() for reason in reasons)
    assert longest_s < TIMEOUT_S + 10
    for kind in kinds:  # some survive their mutation, some do not: the test tests something
        of_kind = Counter(inventory.filter(pl.col("path").str.starts_with(f"{kind}-"))["state"])
        assert of_kind["done"] >= (0 if kind in CHECKED else each // 20), kind
        assert of_kind["rejected"] >= each // 20, kind
    print(dict(counted), f"longest {longest_s:.1f} s")
    for reason, number in Counter(
        " ".join(reason.split("(")[0].split(":")[0].split()[:7]) for reason in reasons
    ).most_common(12):
        print(f"{number:5d} {reason}")


def test_200_mutated_files_are_read_or_rejected(tmp_path: Path) -> None:
    before_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    check_mutants(tmp_path, 13)
    after_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    assert after_mb <= max(before_mb, MEMORY_MB + 500), "private memory is limited; what is mapped comes on top"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_2000_mutated_files_are_read_or_rejected(tmp_path: Path) -> None:
    began_s = time.monotonic()
    check_mutants(tmp_path, 125)
    print(f"{time.monotonic() - began_s:.0f} s")
