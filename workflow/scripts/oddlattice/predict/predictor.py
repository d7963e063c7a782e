"""Bulk predictions by one method with the settings of the rule."""

from collections.abc import Iterable
from copy import copy
from typing import Self

import torch

from oddlattice.lattice.columns import as_cells, mean_cell, px_of, with_bulk_around
from oddlattice.model.folder import Model
from oddlattice.numerics.arrays import Float, Mask
from oddlattice.predict.gpu import Careful, Engine
from oddlattice.predict.methods import METHODS, WITHOUT_MODEL
from oddlattice.predict.network import contrast_of, predict_bulk, predict_on_gpu
from oddlattice.predict.own_residual import own_residual
from oddlattice.run.stage_settings import InferSettings

BYTES_ON_GPU = 2 << 30  # of one image at a time: an image of 50,000 cells, its patches and what is made of them


class Predictor:
    """Bulk predictions by one method with the settings of the rule; without a model, by the image's own mean cell."""

    def __init__(self, model: Model | None, settings: InferSettings, threads: int) -> None:
        self.width, self.threads = settings.smooth_cells, threads
        self.device, self.precision = "cpu", "float32"
        self.method = settings.method if model is not None else WITHOUT_MODEL
        self.predict = METHODS[self.method].begin()
        if model is None:
            return
        engine = Engine.start(model.vae, settings.device, settings.precision)
        self.careful = Careful(engine, settings.batch, print)
        self.device, self.precision = engine.device, "bfloat16" if engine.bf16 else "float32"

    def for_new_image(self) -> Self:
        """The same network, with nothing decided on an earlier image: for use beside that of other images."""
        fresh = copy(self)
        fresh.predict = METHODS[self.method].begin()
        return fresh

    def __call__(self, tiles: Float, mask: Mask, contrast: float | None = None) -> Float:
        """Prediction of the analysed cells, before the image's own mean residual is taken up."""
        return self.predict(with_bulk_around(tiles, mask), mask, lambda t, m: self.by_network(t, m, contrast))

    def by_network(self, tiles: Float, mask: Mask, contrast: float | None = None) -> Float:
        """The network's own prediction, whatever the method."""
        return predict_bulk(self.careful, with_bulk_around(tiles, mask), mask, self.width, self.threads, contrast)

    def whole(self, tiles: Float, mask: Mask, contrast: float | None = None) -> tuple[Float, Float]:
        """Raw prediction, and the one that has taken up the image's own mean residual; 0 on masked cells."""
        if self.method == "vae" and self.device == "cuda":
            known = contrast if contrast is not None else contrast_of(mean_cell(tiles, mask))
            return predict_on_gpu(self.careful, with_bulk_around(tiles, mask), mask, self.width, known)
        raw = masked(self(tiles, mask, contrast), mask)
        if not METHODS[self.method].takes_residual:
            return raw, raw
        return raw, raw + own_residual(tiles - raw, mask, self.width, self.threads)


def images_at_once(predictors: Iterable[Predictor], threads: int) -> int:
    """How many images of a job are worked on side by side.

    Two with the processor: one is read or written meanwhile. With a GPU as many as keep it busy and fit into it.
    """
    if all(predictor.device != "cuda" for predictor in predictors):
        return 2
    return max(1, min(threads, torch.cuda.mem_get_info()[0] // BYTES_ON_GPU))


def masked(values: Float, mask: Mask) -> Float:
    """`values` (U n_u, V n_v) with masked cells set to 0, in place."""
    as_cells(values, px_of(values, mask))[mask == 0] = 0
    return values
