"""Rule infer_differences: what the model expects of bulk in every cell, and the difference from it."""

from pathlib import Path
from typing import Any

import zarr

from oddlattice.model.folder import Model, load_model
from oddlattice.predict.infer_image import infer_one, refuse
from oddlattice.predict.pieces import PiecesInOrder
from oddlattice.predict.predictor import Predictor
from oddlattice.process.logs import log_to
from oddlattice.process.prefetch import Behind
from oddlattice.process.sandbox import result_or_fault
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

    The next piece is read, and the last one written, while one is predicted.
    """
    watch = watch or Watch()
    tiles = zarr.open_group(tiles_zarr, mode="r")
    models = {model.name: model for model in map(load_model, map(Path, model_dirs))}
    predictors = {name: Predictor(model, settings, threads) for name, model in models.items()}
    without_model = Predictor(None, settings, threads)

    def choose(name: str) -> tuple[Model | None, Predictor]:
        return models.get(name), predictors.get(name, without_model)

    listed = listed_in(tiles)
    with whole_directory(out_zarr) as part, Behind() as write:
        out = new_store(part)
        pieces = None if watch.careful else result_or_fault(PiecesInOrder.of_all, tiles, listed)[0]
        rows = []
        for row in listed:
            name, state, reason = row["image_id"], row["state"], row["reason"]
            if state == "tiled":
                given = (tiles, out, name, choose, settings)
                meanwhile = (pieces, write) if pieces is not None else ()
                said, fault = watch.result_or_fault(name, infer_one, *given, *meanwhile)
                if fault is not None and meanwhile:  # perhaps it is that of the next image, whose pieces are read ahead
                    write.wait()
                    pieces = None
                    said, fault = watch.result_or_fault(name, infer_one, *given)
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
