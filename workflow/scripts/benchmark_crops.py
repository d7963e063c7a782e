"""Crops: train and score every method on sets of crops that lie on no grid."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from oddlattice.benchmark.crops.methods import PUBLISHED_EPOCHS, score_all, table_lines
from oddlattice.benchmark.crops.sets import CropsError, read_sets
from oddlattice.process.logs import log_to
from oddlattice.storage.atomic import whole_file


def main(
    folder: Path,
    out_csv: Path,
    methods: Sequence[str],
    *,
    band_width: float,
    seed: int,
    threads: int,
    say: Callable[[str], None],
    epochs: int = PUBLISHED_EPOCHS,
) -> None:
    """Write the table of every method on every set in `folder`.

    Raises
    ------
    CropsError
        If the folder or a file in it cannot be used.
    """
    sets = read_sets(folder)
    torch.set_num_threads(threads)
    say(f"{folder}: " + ", ".join(f"{name} {len(crops)}" for name, crops in sets.items()))
    table = pl.DataFrame(score_all(sets, methods, band_width, epochs, seed, threads, say), infer_schema_length=None)
    for line in table_lines(table):
        say(line)
    with whole_file(out_csv) as part:
        table.write_csv(part)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    screen = os.fdopen(os.dup(1), "w", buffering=1)
    log_to(snakemake.log[0])

    def say(line: str) -> None:
        """Print into the log and on the screen."""
        print(line, flush=True)
        print(line, file=screen)

    try:
        main(
            Path(snakemake.params.folder),
            Path(snakemake.output.table),
            list(snakemake.params.methods),
            band_width=snakemake.params.band_width,
            seed=snakemake.params.seed,
            threads=snakemake.threads,
            say=say,
        )
    except CropsError as error:
        say(str(error))
        raise SystemExit(1) from None
