"""Rule infer_differences: what the model expects of bulk in every cell, and the difference from it."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import zarr

from oddlattice.model.folder import Model, load_model
from oddlattice.predict.infer_image import infer_one, refuse
from oddlattice.predict.predictor import Predictor, images_at_once
from oddlattice.process.logs import log_to
from oddlattice.process.prefetch import side_by_side
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.run.stage_settings import InferSettings
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import listed_in, new_store


def main(
    tiles_zarr: str,
    model_dirs: list[str],
    out_zarr: str,
    settings: InferSettings,
    threads: int,
    watch: Watch | None = None,
) -> None:
    """Predict every tiled image of a shard; the rule file says what is written.

    Several images are worked on at once: while one is read or written, another is predicted.
    """
    watch = watch or Watch()
    tiles = zarr.open_group(tiles_zarr, mode="r")
    models = {model.name: model for model in map(load_model, map(Path, model_dirs))}
    predictors = {name: Predictor(model, settings, threads) for name, model in models.items()}
    without_model = Predictor(None, settings, threads)

    def choose(name: str) -> tuple[Model | None, Predictor]:
        return models.get(name), predictors.get(name, without_model)

    listed = listed_in(tiles)
    with whole_directory(out_zarr) as part:
        out = new_store(part)
        calls = [
            partial(infer_one, tiles, out, row["image_id"], choose, settings)
            for row in listed
            if row["state"] == "tiled"
        ]
        at_once = 1 if watch.careful else images_at_once(predictors.values(), threads)
        rows = []
        with closing(side_by_side(calls, at_once)) as results:  # nothing writes any more where it is left early
            for row in listed:
                name, state, reason = row["image_id"], row["state"], row["reason"]
                if state == "tiled":
                    said, fault = watch.result_or_fault(name, next(results))
                    if fault is not None:
                        print(fault.trace)
                    state, reason = said or refuse(out, name, fault)
                    reason = reason or row["reason"]
                    print(f"{name}: {state} {reason}")
                rows.append({"image_id": name, "state": state, "reason": reason})
        out.update_attributes({"images": rows, "models": {name: model.sha256 for name, model in models.items()}})


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
