"""Rule train_published: the network of the published method, trained on bulk as the benchmark composes it."""

from pathlib import Path
from typing import Any

import numpy as np

from oddlattice.benchmark.fields import PLANS, Plan, compose_field, detection_conditions
from oddlattice.benchmark.published import patches_at, prepared, save_published, train_published, whole_patches
from oddlattice.crystal import Crystal, load_crystal
from oddlattice.lattice.register import fit_registration, render
from oddlattice.numerics.arrays import Float
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.simulate.library import Library, load_library
from oddlattice.storage.atomic import whole_file


def bulk_patches(plan: Plan, library: Library, crystal: Crystal, seed: int) -> Float:
    """Patches (n, 64, 64) in [0, 1] centred on columns, of composed bulk fields of their own seeds."""
    crops: list[Float] = []
    while sum(len(part) for part in crops) < plan.published_patches:
        rng = np.random.default_rng([seed, len(crops)])
        conditions = detection_conditions(library, 400.0, 5.0, rng)
        shape = (plan.side_px, plan.side_px)
        scan = compose_field(library, crystal, conditions, shape, (), int(rng.integers(2**31))).scan
        found = fit_registration(scan.counts, [crystal], (conditions.pixel_nm,) * 2)
        tiles = render(scan.counts, found, (slice(0, found.mask.shape[0]), slice(0, found.mask.shape[1])))
        cells = np.argwhere(found.mask)
        uv = np.concatenate([cells + np.array([column.u, column.v]) for column in crystal.tested])
        uv = rng.permutation(uv[whole_patches(tiles, uv)])
        most = -(-plan.published_patches // 4)  # from four fields at least
        crops.append(patches_at(prepared(tiles), uv[:most]))
    return np.concatenate(crops)[: plan.published_patches]


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
