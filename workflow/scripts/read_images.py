"""Read the files of one shard: every real-space image becomes an OME-Zarr image, everything else a reason.

In: results/0_archive/{shard}.tsv; out: results/1_images/{shard}.zarr (row, col), see products.READ.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from oddlattice.archive.names import unescape
from oddlattice.archive.remote import Remote, place_of
from oddlattice.process.logs import log_to
from oddlattice.read.read_shard import read_shard
from oddlattice.run.stage_settings import ReadSettings


def main(
    shard_tsv: str | Path,
    archive: str | Path | Remote,
    out_zarr: str | Path,
    settings: ReadSettings,
    log: str | Path | None = None,
    threads: int = 1,
    call: str = "oddlattice.read.read_file:read_file",
) -> None:
    """Read the files of a shard into a store of images, see `read_shard`; its lines go to `log` or standard error."""
    if log is not None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
    with nullcontext(sys.stderr) if log is None else open(log, "w", encoding="utf-8") as lines:
        read_shard(Path(shard_tsv), place_of(archive), Path(out_zarr), settings, lines, threads, call)


def archive_of(archive_txt: str | Path) -> str:
    """Read the archive's folder from results/0_archive/archive.txt."""
    return os.fsdecode(unescape(Path(archive_txt).read_text(encoding="utf-8").removesuffix("\n")))


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.shard_tsv,
        archive_of(snakemake.input.archive),
        snakemake.output.images_zarr,
        ReadSettings.of(snakemake.params.settings),
        threads=snakemake.threads,
    )
