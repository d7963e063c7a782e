"""Prediction and difference of one image, from store to store."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec

from oddlattice.crystal import CELL_PX, LEAST_CELLS, PX_PER_CELL, Crystal, PxPerCell, crystal_from_dict
from oddlattice.lattice.columns import ColumnShape
from oddlattice.lattice.shapes import fit_shapes
from oddlattice.lattice.subareas import CHUNK_CELLS, Part, in_px
from oddlattice.model.folder import Model
from oddlattice.model.known_defects import trials_of
from oddlattice.model.misfit import misfit, objection
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.predict.methods import METHODS
from oddlattice.predict.network import contrast_of
from oddlattice.predict.pieces import Piece, mask_of, pieces_of
from oddlattice.predict.predictor import Predictor, masked
from oddlattice.predict.response import responses
from oddlattice.predict.samples import Samples, contrast_in
from oddlattice.process.sandbox import Fault
from oddlattice.run.stage_settings import InferSettings
from oddlattice.storage import blocks
from oddlattice.storage.groups import FIRST_GRAIN, array_of, attributes_of, grain_of, grains_in
from oddlattice.storage.rows import Row


def infer_image(
    source: zarr.Group,
    target: zarr.Group,
    model: Model | None,
    predictor: Predictor,
    settings: InferSettings,
) -> str:
    """Predict one image, write prediction and difference; returns "" or why there is no model for it.

    Parameters
    ----------
    model : Model or None
        None: the image is on the crystal that it shows itself; then nothing judges it.
    """
    predictor = predictor.for_new_image()
    attributes = attributes_of(source)
    tiles, mask = array_of(source, "tiles"), mask_of(source)
    px_per_cell: PxPerCell = (attributes["px_per_cell"][0], attributes["px_per_cell"][1])
    crystal = crystal_from_dict(attributes["own_crystal"], Path("own")) if model is None else model.crystal
    judged = model is not None and px_per_cell == PX_PER_CELL
    said = _about(model, crystal, attributes, predictor)
    state, reason = refusal(int(mask.sum()), px_per_cell, predictor.method)
    if reason:
        target.update_attributes({"oddlattice": {**said, "state": state, "reason": reason}})
        return reason
    arrays = {name: new_map(target, name, tiles.shape, px_per_cell) for name in ("prediction", "difference")}
    pieces, samples = pieces_of(source, mask), Samples(mask, px_per_cell)
    _predict(pieces, samples, contrast_in(tiles, mask), predictor, judged, arrays)
    off = None
    if judged:
        off = misfit(samples.median("seen"), samples.median("network"))
        reason = objection(str(said["model"]), off, float(attributes["stretch"]), settings.misfit_limit)
    cell = samples.median("predicted")
    columns = [] if reason else _columns(predictor, tiles, mask, fit_shapes(cell, crystal.columns), attributes)
    said |= {"state": "no_model" if reason else "analysed", "reason": reason, "model_misfit": off}
    target.update_attributes({"oddlattice": {**said, "contrast": contrast_of(cell), "columns": columns}})
    return reason


def _about(model: Model | None, crystal: Crystal, attributes: Row, predictor: Predictor) -> Row:
    """What is said of an image before it is predicted."""
    sites = list(dict.fromkeys(column.site for column in crystal.tested))
    return {
        "model": attributes["model"] if model is None else model.name,
        "model_sha256": "" if model is None else model.sha256,
        "method": predictor.method,
        "device": predictor.device,
        "precision": predictor.precision,
        "trial_defects": [vars(trial) for trial in trials_of({} if model is None else model.meta, sites)],
    }


def _predict(
    pieces: Iterable[Piece],
    samples: Samples,
    contrast: float | None,
    predictor: Predictor,
    judged: bool,
    arrays: dict[str, zarr.Array[Any]],
) -> None:
    """Predict piece by piece and write; take the samples by which model and columns are judged."""
    for piece in pieces:
        samples.take(piece.part, seen=piece.tiles)
        contrast = contrast if contrast is not None else contrast_of(samples.median("seen"))
        raw, prediction = predictor.whole(piece.tiles, piece.mask, contrast)
        samples.take(piece.part, predicted=prediction)
        if judged:
            # the model is judged by the network, whatever the method: a template always fits itself
            network = raw if predictor.method == "vae" else predictor.by_network(piece.tiles, piece.mask, contrast)
            samples.take(piece.part, network=network)
        difference = masked(piece.tiles - prediction, piece.mask)
        maps = [(arrays["prediction"], prediction), (arrays["difference"], difference)]
        write_core(piece.part, samples.px_per_cell, maps)


def _columns(
    predictor: Predictor, tiles: zarr.Array[Any], mask: Mask, shapes: list[ColumnShape], attributes: Row
) -> list[Row]:
    """Shape of each column, and how much of its changes the prediction leaves in the difference."""
    pixel_nm = attributes["pixel_nm"] or attributes["nominal_pixel_nm"]
    vectors_pm = np.array([attributes["a_px"], attributes["b_px"]]) * float(pixel_nm) * 1000
    left = responses(predictor, tiles, mask, shapes, vectors_pm) if shapes else []
    return [
        asdict(shape) | {"response_intensity": a, "response_shift": b}
        for shape, (a, b) in zip(shapes, left, strict=True)
    ]


def refusal(cells: int, px_per_cell: PxPerCell, method: str) -> tuple[str, str]:
    """State and reason of an image that cannot be predicted; "" and "" of any other."""
    if cells < LEAST_CELLS:
        reason = f"only {cells} cells of crystal; at least {LEAST_CELLS} are needed to know the image's own noise"
        return "no_lattice", reason
    if px_per_cell != PX_PER_CELL and not METHODS[method].any_cell:
        return "no_model", (
            f"a cell of this crystal has {px_per_cell[0]} x {px_per_cell[1]} px; {method} needs {CELL_PX} x {CELL_PX}"
        )
    return "", ""


def new_map(target: zarr.Group, name: str, shape: tuple[int, ...], px_per_cell: PxPerCell) -> zarr.Array[Any]:
    """A map in the lattice frame, chunks as the tiles have them, 0 where nothing is written."""
    return target.create_array(
        name,
        shape=shape,
        dtype="float32",
        chunks=(CHUNK_CELLS * px_per_cell[0], CHUNK_CELLS * px_per_cell[1]),
        compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4)],
        dimension_names=("u", "v"),
    )


def write_core(part: Part, px_per_cell: PxPerCell, maps: list[tuple[zarr.Array[Any], Float]]) -> None:
    """Write a part's own cells of maps that cover its neighbourhood too."""
    for array, values in maps:
        blocks.write(array, in_px(part.core, px_per_cell), values[in_px(part.inner, px_per_cell)])


#: Model and predictor for the name of a model; None: the crystal that the image itself shows.
Choose = Callable[[str], tuple[Model | None, Predictor]]


def infer_one(
    tiles: zarr.Group,
    out: zarr.Group,
    name: str,
    choose: Choose,
    settings: InferSettings,
) -> tuple[str, str]:
    """State and reason of one image, grain by grain; what an earlier attempt wrote of it goes.

    The image is analysed where one of its grains is; the reason says why others are not.

    Raises
    ------
    OSError
        If the GPU has failed: that is no fault of the image.
    """
    into, numbers, reasons = out.create_group(name, overwrite=True), grains_in(tiles, name), list[str]()
    states = []
    for grain in numbers:
        source, target = grain_of(tiles, name, grain), into.create_group(str(grain))
        tiled = attributes_of(source)
        if tiled["state"] == "tiled":
            model, predictor = choose(str(tiled["model"]))
            try:
                infer_image(source, target, model, predictor, settings)
            except torch.AcceleratorError as error:
                raise OSError(f"the GPU has failed: {error}") from error
        else:
            target.attrs["oddlattice"] = {key: tiled[key] for key in ("state", "reason")}
        said = attributes_of(target)
        states.append(str(said["state"]))
        if said["reason"]:
            reasons.append(f"grain {grain}: {said['reason']}" if len(numbers) > 1 else str(said["reason"]))
    return "analysed" if "analysed" in states else states[0], "; ".join(reasons)


def refuse(out: zarr.Group, name: str, fault: Fault | None) -> tuple[str, str]:
    """State and reason of an image in which inference failed."""
    why = fault.words if fault is not None else "nothing was said"
    reason = f"the model could not be applied, by a fault of the program: {why}"
    target = out.create_group(name, overwrite=True).create_group(str(FIRST_GRAIN))
    target.attrs["oddlattice"] = {"state": "rejected", "reason": reason}
    return "rejected", reason
