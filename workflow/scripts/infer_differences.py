"""Rule infer_differences: what the model expects of bulk in every cell, and the difference from it."""

from pathlib import Path
from typing import Any

from oddlattice.predict.infer_shard import infer_shard as main
from oddlattice.process.logs import log_to
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import go_on_watched
from oddlattice.run.stage_settings import InferSettings

if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.tiles_zarr,
        [str(Path(path).parent) for path in snakemake.input.models],
        snakemake.output.differences_zarr,
        InferSettings.of(snakemake.params.settings),
        snakemake.threads,
        go_on_watched(),
    )
