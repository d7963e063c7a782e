"""What the rules share: the checked config, the shards, the models, and the modules each script imports.

In:  config.yaml and whatever --configfile and --config add to it; the archive; models/
     the review folder and results/5_report/review*.json
Out: results/0_archive/{shard}.tsv, discovered.tsv, inventory.tsv; reviews.json, {shard}.reviews.json;
     results/config.yaml, results/versions.txt
The archive is looked at once, in the main process, and only when the shards are asked for.
"""

import os
import sys
import time
from functools import cache
from pathlib import Path

from snakemake.logging import logger

REPOSITORY = Path(workflow.basedir)
RESULTS = Path("results")
SCRIPTS = Path("workflow/scripts") if REPOSITORY == Path.cwd() else REPOSITORY / "workflow/scripts"
sys.path.insert(0, str(REPOSITORY / "workflow/scripts"))

from oddlattice.archive import inventory, listing, remote, review_files, verdicts
from oddlattice.archive.kept import kept_shards, made_by_rules
from oddlattice.archive.shards import SHARD_NAME, shard_names
from oddlattice.run import dependencies, lock, packages, progress, settings, warm_jobs
from oddlattice.storage.atomic import write_if_changed


def config_sources():
    """Where the config comes from, weakest first: names to print and what each holds."""
    files = [REPOSITORY / "config.yaml", *workflow.config_settings.configfiles]
    sources = [(os.path.relpath(file), settings.load_yaml(file)) for file in files]
    return [*sources, ("--config", dict(workflow.config_settings.config))]


def checked_config():
    """The config as the schema wants it, with the archive's full path; a bad one ends the run with one sentence."""
    try:
        schema = settings.load_schema(REPOSITORY / "workflow/schemas/config.schema.yaml")
        found = settings.checked(config, schema, config_sources())
    except settings.SettingsError as error:
        sys.exit(str(error))
    folders = {key: found[key] and os.path.abspath(os.path.expanduser(found[key])) for key in ("crops", "crystals")}
    return found | {"archive": os.fspath(remote.place_of(found["archive"]))} | folders


def stop(key, error):
    """End the run with one sentence that names the config file, the key, what was found and what is needed."""
    sys.exit(f"{settings.source([key], config_sources())}: {key}: {error}")


def look_around():
    """End the run with one sentence where it cannot work: packages are missing, or the folder cannot be written to.

    Rules with environments of their own bring the packages.
    """
    if not workflow.deployment_settings.deployment_method:
        missing = packages.missing_packages(REPOSITORY)
        if missing:
            sys.exit(
                f"{sys.executable}: found no package {', '.join(missing)}; needed the environment of {REPOSITORY}: "
                "make setup there, then . .venv/bin/activate"
            )
    if not os.access(".", os.W_OK):
        sys.exit(f"{Path.cwd()}: found a folder that cannot be written to; needed one for results: --directory WORK")


def no_place(error):
    """One sentence for results that cannot be written."""
    return f"{error.filename}: found {error.strerror}; needed a place for results that can be written to"


@cache
def shards():
    """The shards there are; the main process looks at the archive first, unless a run is going on already."""
    state = Path(".snakemake")
    try:
        if workflow.is_main_process and workflow.execution_settings is not None and not workflow.dryrun:
            lock.be_alone(RESULTS, state)
    except lock.NotAloneError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(no_place(error))
    if workflow.is_main_process and not any(state.glob("locks/*")):
        try:
            for model in models():
                settings.check_model(model)
            scan_archive()
            read_reviews()
        except listing.ArchiveError as error:
            stop("archive", error)
        except settings.SettingsError as error:
            stop("models", error)
        except OSError as error:
            sys.exit(no_place(error))
    return shard_names(RESULTS)


def scan_archive():
    """Look at the archive, once, and say what is new."""
    scan = inventory.scan_archive(
        remote.place_of(config["archive"]),
        RESULTS,
        *(config[key] for key in ("include", "exclude", "settle_s")),
        *(config["shard"][key] for key in ("files", "size_mb")),
        now_ns=time.time_ns(),
    )
    for warning in scan.warnings:
        logger.warning(warning)
    for note in scan.notes:
        logger.info(note)
    say_counts()


def read_reviews():
    """Read what people said about earlier reports, once; a file that cannot be used is named and left out."""
    place = remote.place_of(config["archive"])
    beside = place if isinstance(place, Path) else Path.cwd()  # what people say of a remote archive lies here
    folder = beside / os.path.expanduser(config["reviews"])
    schema = settings.load_yaml(REPOSITORY / "workflow/schemas/review.schema.yaml")
    found = review_files.read_reviews(review_files.review_paths(folder, RESULTS / "5_report"), schema)
    for file in found.files:
        if file["state"] == "refused":
            logger.warning(f"review {file['file']}: {file['reason']}")
    inventory.write_reviews(RESULTS, found)


def say_counts():
    """Refresh the inventory and print one line of it."""
    counts = verdicts.refresh_inventory(RESULTS)
    states = ", ".join(
        f"{counts[state]} {state}" for state in ("done", "rejected", "ready", "waiting") if counts[state]
    )
    files = "1 file" if counts.total() == 1 else f"{counts.total()} files"
    logger.info(f"{config['archive']}: {files}" + (f": {states}" if states else ""))


def begin():
    """Write the config and the versions beside the results, and keep Python warm for jobs on this machine; once."""
    if not workflow.is_main_process:
        return
    if workflow.local_exec and not workflow.deployment_settings.deployment_method:
        warm_jobs.keep_jobs_warm(REPOSITORY / "workflow/scripts")
    write_if_changed(RESULTS / "config.yaml", settings.dumped(config))
    write_if_changed(
        RESULTS / "versions.txt", "".join(f"{name} {number}\n" for name, number in settings.versions().items())
    )


def finish():
    """Say how many files are done, and where the report is; the main process does, once."""
    if not workflow.is_main_process:
        return
    if (RESULTS / "0_archive/discovered.tsv").exists():
        say_counts()
    if images := progress.images_said(RESULTS / "5_report/index.json"):
        logger.info(images)
    if (RESULTS / "5_report/index.html").exists():
        logger.info(f"report: {RESULTS.absolute() / '5_report/index.html'}")


@cache
def models():
    """Folders of the configured models. Full paths: `snakemake train` makes models, an ordinary run never does."""
    places = list(dict.fromkeys([Path.cwd() / "models", REPOSITORY / "models"]))
    try:
        return [settings.find_model(name, places) for name in settings.model_names(config["models"], places)]
    except settings.SettingsError as error:
        stop("models", error)


def own_limit():
    """Misfit beyond which an image is no model's and is laid on the crystal it shows itself; None: it never is."""
    return config["infer"]["misfit_limit"] if settings.AUTO in config["models"] else None


def of_models(name):
    """Input function: the file `name` of every configured model."""
    return lambda wildcards: [str(model / name) for model in models()]


def of_shards(path):
    """Input function: `path` for every shard."""
    return lambda wildcards: [path.format(shard=shard) for shard in shards()]


def again(wildcards):
    """Input function: what has a shard read again, where files that were out of reach have come back."""
    shards()  # looks at the archive, also for a run that is asked for one shard only
    return inventory.again(RESULTS, wildcards.shard)


def of_crops(wildcards):
    """Input function: the sets below `crops`, each of them looked at; a bad one ends the run with one sentence."""
    from oddlattice.benchmark.crops import (
        sets,
    )  # here, not above: it brings numpy, which no other part of a Snakefile needs

    if not config["crops"]:
        stop("crops", "found nothing; needed the path of a folder of .npy sets")
    try:
        return [f"{config['crops']}/{name}.npy" for name in sets.read_sets(Path(config["crops"]))]
    except sets.CropsError as error:
        stop("crops", error)


def of_cifs(wildcards):
    """Input function: the CIF files below `crystals` and the lists of axes beside them; none ends the run."""
    folder = Path(config["crystals"])
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() == ".cif")
    if not found:
        stop("crystals", f"found no CIF file in {folder}; needed a folder of files called NAME [110].cif")
    return [str(path) for cif in found for path in (cif, cif.with_suffix(".yaml")) if path.exists()]


def crystal_libraries(wildcards):
    """Input function: the crystal libraries that images are looked up in: the shipped one and that of `crystals`."""
    own = ["results/0_archive/crystals.json"] if config["crystals"] else []
    return [str(REPOSITORY / "crystals/library.json"), *own]


def modules_of(script):
    """Input function: one file that names the shared modules that a script imports, directly or through others, with
    their hashes; an edit changes it and so reruns the script.

    One file and not the forty it names: of 100,000 files' jobs they would be more than half of the memory and the time.
    """
    return lambda wildcards: _modules_of(script)


@cache
def _modules_of(script):
    stamp = RESULTS / f"0_archive/modules/{script}.txt"
    if workflow.is_main_process:
        try:
            write_if_changed(stamp, dependencies.described(SCRIPTS / f"{script}.py", SCRIPTS))
        except OSError as error:
            sys.exit(no_place(error))
    return str(stamp)


def as_it_is(path):
    """Parameter: a path in which braces are braces, not wildcards."""
    return lambda wildcards: path


def grown(first_mb):
    """Memory of a job: twice as much at each further attempt, for one that was killed because it took too much."""
    return lambda wildcards, attempt: first_mb * 2 ** (attempt - 1)


def gpus(wildcards):
    """GPUs of an inference job: none where the processors of this machine do the work, so that jobs go on side by side.

    What a cluster's nodes have is not seen from here: a job there asks for one, unless `infer.device` is cpu.
    """
    here = workflow.is_main_process and workflow.local_exec
    return 1 if settings.takes_gpu(config["infer"]["device"], look=here) else 0


def spread(most):
    """Threads of a job: at most so many, and fewer where there are shards enough to keep every core busy."""

    def threads(wildcards):
        cores = workflow.resource_settings.cores
        if not workflow.is_main_process or not isinstance(cores, int):
            return most
        return max(1, min(most, cores // max(len(shards()), 1)))

    return threads


def analysis_config():
    """The sections of the config that shape results; where the archive is and how it is packed do not."""
    return {key: config[key] for key in ("read", "models", "tile", "infer", "defects", "report", "seed")}


def shown_config():
    """The config as reports show it: without the schedule, which shapes no result and may name a command."""
    return {key: value for key, value in config.items() if key != "schedule"}


if workflow.is_main_process:
    look_around()


config.update(checked_config())


wildcard_constraints:
    shard=made_by_rules(SHARD_NAME, kept_shards(RESULTS, config["keep_results_of"])),


if workflow.is_main_process and not (workflow.output_settings.dryrun or workflow.output_settings.verbose):
    progress.show_progress(logger)
