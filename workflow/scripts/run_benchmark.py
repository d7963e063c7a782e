"""Rule run_benchmark: every method on composed fields with known defects, through the pipeline's own stages."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oddlattice.benchmark.fields import ideals
from oddlattice.benchmark.files import whole_files
from oddlattice.benchmark.hard_bulk import hard_bulk_table
from oddlattice.benchmark.jobs import KIND_SETS, Setup, cached_kinds, jobs_of
from oddlattice.benchmark.page import write_page
from oddlattice.benchmark.plans import PLANS
from oddlattice.benchmark.run_fields import run_all
from oddlattice.benchmark.tables import Findings, summarise
from oddlattice.model.folder import load_model
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.run.stage_settings import BenchmarkSettings
from oddlattice.simulate.library import load_library
from oddlattice.storage.atomic import whole_file


def main(
    library_card: str,
    model_dir: str,
    published: str,
    out_dir: str,
    settings: BenchmarkSettings,
    stages: Mapping[str, Mapping[str, Any]],
    seed: int,
    provenance: dict[str, Any],
    threads: int,
) -> None:
    """Run the benchmark and write its page and its tables.

    Parameters
    ----------
    published : str
        File of the published network's weights, as `train_published` writes it; "" where it is none of the methods.
    stages : mapping
        Sections ``read``, ``tile``, ``infer``, ``defects`` of the config.
    provenance : dict
        ``versions`` and ``config``, shown as they are.

    Raises
    ------
    ValueError
        If files are asked for and nionswift-io, which writes .dm4, is not installed.
    """
    plan = PLANS[settings.size]
    if plan.files and importlib.util.find_spec("nionswift_plugin") is None:
        raise ValueError(
            "benchmark: found no package nionswift-io; needed to write .dm4 files: pip install nionswift-io"
        )
    library, model = load_library(Path(library_card)), load_model(Path(model_dir))
    kinds = {name: cached_kinds(library_card, model_dir, name, plan.every) for name in KIND_SETS}
    setup = Setup.of(library_card, model_dir, published, plan.every, stages)
    jobs = jobs_of(plan, library, model, settings.methods, seed)
    findings = Findings(settings.methods)
    for done, outcome in enumerate(run_all(jobs, setup, threads), 1):
        findings.add(outcome)
        if done % 10 == 0 or done == len(jobs):
            print(f"{done} of {len(jobs)} fields", flush=True)
    files = whole_files(plan, setup, seed)
    ideal = ideals(library, model.crystal, (*kinds["detection"],))
    tables = summarise(findings, kinds, ideal, files, setup.defects)
    tables["hard_bulk"] = hard_bulk_table(plan.hard_fields, settings.methods, threads)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for name, found in tables.items():
        with whole_file(out / f"{name}.csv") as part:
            found.write_csv(part)
    about = {
        "seed": seed,
        "size": settings.size,
        "published_band_std": setup.defects.published_band_std,
        "library_sha256": library.sha256,
        "model_sha256": model.sha256,
    }
    write_page(out, tables, findings.crops, plan, about | provenance)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.library,
        str(Path(snakemake.input.model).parent),
        str(snakemake.input.get("published", "")),
        str(Path(snakemake.output.page).parent),
        BenchmarkSettings.of(snakemake.params.settings),
        {name: dict(stage) for name, stage in snakemake.params.stages.items()},
        snakemake.params.seed,
        dict(snakemake.params.provenance),
        snakemake.threads,
    )
