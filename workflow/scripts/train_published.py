"""Rule train_published: the network of the published method, trained on bulk as the benchmark composes it."""

from pathlib import Path
from typing import Any

from oddlattice.benchmark.plans import PLANS
from oddlattice.benchmark.published import (
    bulk_patches,
    save_published,
    train_published,
)
from oddlattice.crystal import load_crystal
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.simulate.library import load_library
from oddlattice.storage.atomic import whole_file


def main(library_card: str, crystal_file: str, out: str, size: str, seed: int) -> None:
    """Train and write the weights.

    Parameters
    ----------
    library_card : str
        The multislice library that bulk is composed from.
    crystal_file : str
        The unit cell, crystal.yaml.
    out : str
        File to write, safetensors.
    size : str
        Of the benchmark: how many patches and epochs; see `oddlattice.benchmark.fields.PLANS`.
    """
    plan, library, crystal = PLANS[size], load_library(Path(library_card)), load_crystal(Path(crystal_file))
    patches = bulk_patches(plan, library, crystal, seed)
    trained = train_published(
        patches, plan.published_epochs, seed, lambda line: print(line, flush=True), plan.published_rate
    )
    with whole_file(Path(out)) as part:
        save_published(trained, part)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.library,
        snakemake.input.crystal,
        snakemake.output.weights,
        snakemake.params.size,
        snakemake.params.seed,
    )
