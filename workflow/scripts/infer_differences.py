"""Rule infer_differences: what the model expects of bulk in every cell, and the difference from it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from zarr.codecs import BloscCodec

from oddlattice.crystal import CELL_PX, LEAST_CELLS
from oddlattice.defects.known_defects import trials_of
from oddlattice.lattice.columns import (
    ColumnShape,
    as_cells,
    cells_at,
    column_cells,
    cut_windows,
    mean_cell,
    median_cell,
    sample_of,
    signatures,
)
from oddlattice.lattice.shapes import fit_shapes
from oddlattice.lattice.subareas import Part, in_px, is_inside, parts_of
from oddlattice.model.folder import Model, load_model
from oddlattice.model.misfit import misfit, objection
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.predict.methods import predict_pca, predict_template
from oddlattice.predict.network import (
    Careful,
    Engine,
    contrast_of,
    own_mean,
    predict_bulk,
    whole_there,
)
from oddlattice.process.logs import log_to
from oddlattice.process.prefetch import Behind, ahead
from oddlattice.process.sandbox import Fault, spared
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.storage import blocks
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import array_of, group_of, listed_in, said_of, values_of

CHUNK_PX = 32 * CELL_PX
AROUND_CELLS = 16  # neighbourhood in which a part of a huge image is predicted: beyond it nothing weighs anything
TRIAL_CELLS = 24  # side of the part of an image in which trials are made [cells]
TRIAL_SPACING = 6  # cells between trial defects of a kind
TRIAL_LOSS, TRIAL_SHIFT_PM = -0.5, 20.0


class Predictor:
    """Bulk predictions by one method with the settings of the rule."""

    def __init__(self, model: Model, settings: dict[str, Any], threads: int) -> None:
        self.method, self.width, self.threads = settings["method"], float(settings["smooth_cells"]), threads
        engine = Engine.start(model.vae, settings["device"], settings["precision"])
        self.careful = Careful(engine, int(settings["batch"]), print)

    def __call__(self, tiles: Float, mask: Mask, contrast: float | None = None) -> Float:
        """Prediction of the analysed cells, before the image's own mean residual is taken up."""
        if self.method == "template":
            return predict_template(tiles, mask)
        if self.method == "pca":
            return predict_pca(tiles, mask)
        return self.by_network(tiles, mask, contrast)

    def by_network(self, tiles: Float, mask: Mask, contrast: float | None = None) -> Float:
        """The network's own prediction, whatever the method."""
        return predict_bulk(self.careful, tiles, mask, self.width, self.threads, contrast)

    def whole(self, tiles: Float, mask: Mask, contrast: float | None = None) -> tuple[Float, Float]:
        """Raw prediction, and the one that has taken up the image's own mean residual; 0 on masked cells."""
        if self.method == "vae" and self.careful.engine.device == "cuda":
            known = contrast if contrast is not None else contrast_of(mean_cell(tiles, mask))
            return whole_there(self.careful, tiles, mask, self.width, known)
        raw = predictor_masked(self(tiles, mask, contrast), mask)
        return raw, raw + own_mean(tiles - raw, mask, self.width, self.threads)


def predictor_masked(values: Float, mask: Mask) -> Float:
    """`values` (U * 20, V * 20) with masked cells set to 0, in place."""
    as_cells(values)[mask == 0] = 0
    return values


def densest_part(mask: Mask) -> tuple[slice, slice]:
    """The square of at most TRIAL_CELLS cells a side that holds the most analysed cells."""
    sides = tuple(min(TRIAL_CELLS, side) for side in mask.shape)
    totals = np.lib.stride_tricks.sliding_window_view(mask, sides).sum(axis=(2, 3), dtype=np.int64)
    start = np.unravel_index(int(totals.argmax()), totals.shape)
    return slice(int(start[0]), int(start[0]) + sides[0]), slice(int(start[1]), int(start[1]) + sides[1])


def responses(
    predictor: Predictor,
    tiles: zarr.Array[Any],
    mask: Mask,
    shapes: list[ColumnShape],
    vectors_pm: npt.NDArray[np.float64],
) -> list[tuple[float, float]]:
    """How much of a changed column the prediction leaves in the difference, measured by putting changes in.

    In a part of the image, columns on a wide grid lose half of their intensity (then: move by 20 pm) and the part is
    predicted again. What is found of the change in the difference is 1 for a predictor that is blind to defects.

    Returns
    -------
    list of (intensity, displacement), one for each of `shapes`; 1.0 where there is no room for a trial
    """
    cells = densest_part(mask)
    part = mask[cells]
    here = blocks.read(tiles, in_px(cells)).astype(np.float32, copy=False)
    _, before = predictor.whole(here, part)
    placed = []
    for offset, shape in enumerate(shapes):  # every kind has cells of its own: no two trials touch
        inside = column_cells(part, shape)
        placed.append(inside[((inside - 2 * offset) % TRIAL_SPACING == 2).all(axis=1)])
    found = np.ones((len(shapes), 2))
    for trial in range(2):
        added = []
        tried = here.copy()
        for shape, at in zip(shapes, placed, strict=True):
            change = signatures(shape, vectors_pm)
            added.append(TRIAL_LOSS * change[0] if trial == 0 else TRIAL_SHIFT_PM * (change[1] + change[2]))
            _add_windows(tried, shape, at, added[-1])
        _, again = predictor.whole(tried, part)
        left = (tried - again) - (here - before)
        for index, (shape, at, put) in enumerate(zip(shapes, placed, added, strict=True)):
            if len(at):
                seen = (cut_windows(left, shape, at) * put).sum(axis=(1, 2)).mean() / (put**2).sum()
                found[index, trial] = np.clip(seen, 0.2, 1.2)
    return [(float(intensity), float(shift)) for intensity, shift in found]


def _add_windows(tiles: Float, shape: ColumnShape, cells: npt.NDArray[np.intp], added: npt.NDArray[np.float64]) -> None:
    index = np.arange(tiles.size).reshape(tiles.shape)
    where = cut_windows(index, shape, cells).astype(np.int64)  # type: ignore[arg-type]
    tiles.ravel()[where] += added.astype(np.float32)


@dataclass(frozen=True)
class Piece:
    """A part of an image as it was read: its tiles and mask, neighbourhood included."""

    image_id: str
    part: Part
    tiles: Float
    mask: Mask


def pieces_of(image_id: str, source: zarr.Group, mask: Mask) -> Iterator[Piece]:
    """Read an image's tiles part by part; parts without analysed cells are left out."""
    for part in parts_of(mask.shape, AROUND_CELLS):
        here = mask[part.wide]
        if mask[part.core].any():
            seen = values_of(source, "tiles", in_px(part.wide)).astype(np.float32, copy=False)
            yield Piece(image_id, part, seen, here)


def contrast_in(tiles: zarr.Array[Any], mask: Mask) -> float | None:
    """Contrast of an image too large to be read at once; None of any other: its parts are the whole and tell it."""
    if len(parts_of(mask.shape, 0)) == 1:
        return None
    sample = sample_of(mask)
    cells = [
        cells_at(blocks.read(tiles, in_px(part.core)), sample[own] - [part.core[0].start, part.core[1].start])
        for part in parts_of(mask.shape, 0)
        if (own := is_inside(sample, part)).any()
    ]
    return contrast_of(median_cell(np.concatenate(cells)))


class Samples:
    """The cells of an image by which its model is judged: as seen, as the network has them, as they are predicted."""

    def __init__(self, mask: Mask) -> None:
        cells = sample_of(mask)
        # predictions have no noise: of them an eighth of the cells is enough
        self.cells = {"seen": cells, "network": cells[::8], "predicted": cells[::8]}
        self.kept: dict[str, list[Float]] = {name: [] for name in self.cells}
        self._medians: dict[str, npt.NDArray[np.float64]] = {}

    def take(self, part: Part, **maps: Float) -> None:
        """Keep the sample's cells of a part of the image."""
        for name, values in maps.items():
            own = self.cells[name][is_inside(self.cells[name], part)]
            self.kept[name].append(cells_at(values, own - [part.wide[0].start, part.wide[1].start]))

    def median(self, name: str) -> npt.NDArray[np.float64]:
        """Median cell (20, 20), once all parts are taken."""
        if name not in self._medians:
            self._medians[name] = median_cell(np.concatenate(self.kept[name]))
        return self._medians[name]


def infer_image(
    source: zarr.Group,
    target: zarr.Group,
    model: Model,
    predictor: Predictor,
    settings: dict[str, Any],
    pieces: Iterable[Piece] | None = None,
    write: Callable[..., None] = lambda call, *arguments: call(*arguments),
) -> str:
    """Predict one image, write prediction and difference; returns "" or why there is no model for it.

    Parameters
    ----------
    pieces : iterable of Piece, optional
        The image's tiles where they are read elsewhere.
    write : callable
        Does or defers a call that writes.
    """
    attributes = said_of(source)
    tiles, mask = array_of(source, "tiles"), _mask(source)
    said: dict[str, Any] = {
        "model": model.name,
        "model_sha256": model.sha256,
        "method": predictor.method,
        "device": predictor.careful.engine.device,
        "precision": "bfloat16" if predictor.careful.engine.bf16 else "float32",
        "trial_defects": [vars(trial) for trial in trials_of(model.meta, [c.site for c in model.crystal.tested])],
    }
    if int(mask.sum()) < LEAST_CELLS:
        reason = (
            f"only {int(mask.sum())} cells of crystal; at least {LEAST_CELLS} are needed to know the image's own noise"
        )
        target.update_attributes({"oddlattice": {**said, "state": "no_lattice", "reason": reason}})
        return reason
    arrays = {name: new_map(target, name, tiles.shape) for name in ("prediction", "difference")}
    samples, contrast = Samples(mask), contrast_in(tiles, mask)
    for piece in pieces if pieces is not None else pieces_of("", source, mask):
        samples.take(piece.part, seen=piece.tiles)
        contrast = contrast if contrast is not None else contrast_of(samples.median("seen"))
        raw, prediction = predictor.whole(piece.tiles, piece.mask, contrast)
        # the model is judged by the network, whatever the method: a template always fits itself
        network = raw if predictor.method == "vae" else predictor.by_network(piece.tiles, piece.mask, contrast)
        samples.take(piece.part, network=network, predicted=prediction)
        difference = predictor_masked(piece.tiles - prediction, piece.mask)
        write(write_core, piece.part, [(arrays["prediction"], prediction), (arrays["difference"], difference)])
    off = misfit(samples.median("seen"), samples.median("network"))
    reason = objection(model.name, off, float(attributes["stretch"]), float(settings["misfit_limit"]))
    cell = samples.median("predicted")
    shapes = fit_shapes(cell, model.crystal.columns) if not reason else []
    vectors_pm = np.array([attributes["a_px"], attributes["b_px"]]) * float(attributes["pixel_nm"]) * 1000
    left = responses(predictor, tiles, mask, shapes, vectors_pm) if shapes else []
    columns = [
        asdict(shape) | {"response_intensity": a, "response_shift": b}
        for shape, (a, b) in zip(shapes, left, strict=True)
    ]
    said |= {"state": "no_model" if reason else "analysed", "reason": reason, "model_misfit": off}
    target.update_attributes({"oddlattice": {**said, "contrast": contrast_of(cell), "columns": columns}})
    return reason


def new_map(target: zarr.Group, name: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """A map in the lattice frame, chunks as the tiles have them, 0 where nothing is written."""
    return target.create_array(
        name,
        shape=shape,
        dtype="float32",
        chunks=(CHUNK_PX, CHUNK_PX),
        compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4)],
        dimension_names=("u", "v"),
    )


def write_core(part: Part, maps: list[tuple[zarr.Array[Any], Float]]) -> None:
    """Write a part's own cells of maps that cover its neighbourhood too."""
    for array, values in maps:
        blocks.write(array, in_px(part.core), values[in_px(part.inner)])


def _mask(source: zarr.Group) -> Mask:
    return np.asarray(values_of(source, "mask"), dtype=np.uint8)


def _pieces(tiles: zarr.Group, listed: list[dict[str, Any]]) -> Iterator[Piece]:
    for row in listed:
        if row["state"] == "tiled":
            source = group_of(tiles, row["image_id"])
            mask = _mask(source)
            if int(mask.sum()) >= LEAST_CELLS:
                yield from pieces_of(row["image_id"], source, mask)


class Handed:
    """The pieces of all images in one stream, handed out image by image."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._next = next(pieces, None)

    @classmethod
    def of_all(cls, tiles: zarr.Group, listed: list[dict[str, Any]]) -> "Handed":
        """The pieces of all tiled images of a shard, read ahead."""
        return cls(ahead(_pieces(tiles, listed)))

    def of(self, image_id: str) -> Iterator[Piece]:
        """Pieces of an image, in the order in which the images come."""
        while self._next is not None and self._next.image_id == image_id:
            piece, self._next = self._next, None
            yield piece
            del piece
            self._next = next(self._pieces, None)


def main(
    tiles_zarr: str,
    model_dirs: list[str],
    out_zarr: str,
    settings: dict[str, Any],
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
    listed = listed_in(tiles)
    with whole_directory(out_zarr) as part, Behind() as write:
        out = zarr.open_group(part, mode="w", zarr_format=3)
        pieces = None if watch.careful else spared(Handed.of_all, tiles, listed)[0]
        rows = []
        for row in listed:
            name, state, reason = row["image_id"], row["state"], row["reason"]
            if state == "tiled":
                model = str(said_of(group_of(tiles, name))["model"])
                given = (tiles, out, name, models[model], predictors[model], settings)
                meanwhile = (pieces.of(name), write) if pieces is not None else ()
                said, fault = watch.spared(name, infer_one, *given, *meanwhile)
                if fault is not None and meanwhile:  # perhaps it is that of the next image, whose pieces are read ahead
                    write.wait()
                    pieces = None
                    said, fault = watch.spared(name, infer_one, *given)
                if fault is not None:
                    print(fault.trace)
                state, reason = said or refuse(out, name, fault)
                reason = reason or row["reason"]
                print(f"{name}: {state} {reason}")
            rows.append({"image_id": name, "state": state, "reason": reason})
        out.update_attributes({"images": rows, "models": {name: model.sha256 for name, model in models.items()}})


def infer_one(
    tiles: zarr.Group,
    out: zarr.Group,
    name: str,
    model: Model,
    predictor: Predictor,
    settings: dict[str, Any],
    pieces: Iterable[Piece] | None = None,
    write: Callable[..., None] = lambda call, *arguments: call(*arguments),
) -> tuple[str, str]:
    """State and reason of one image; what an earlier attempt wrote of it goes.

    Raises
    ------
    OSError
        If the GPU has failed: that is no fault of the image.
    """
    source, target = group_of(tiles, name), out.create_group(name, overwrite=True)
    try:
        infer_image(source, target, model, predictor, settings, pieces, write)
    except torch.AcceleratorError as error:
        raise OSError(f"the GPU has failed: {error}") from error
    said = said_of(target)
    return str(said["state"]), str(said["reason"])


def refuse(out: zarr.Group, name: str, fault: Fault | None) -> tuple[str, str]:
    """State and reason of an image in which inference failed."""
    why = fault.words if fault is not None else "nothing was said"
    reason = f"the model could not be applied, by a fault of the program: {why}"
    target = out.create_group(name, overwrite=True)
    target.attrs["oddlattice"] = {"state": "rejected", "reason": reason}
    return "rejected", reason


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.tiles_zarr,
        [str(Path(path).parent) for path in snakemake.input.models],
        snakemake.output.differences_zarr,
        dict(snakemake.params.settings),
        snakemake.threads,
        go_on_watched(),
    )
