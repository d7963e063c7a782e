"""An image as its page needs it: what the stages left of it, read from their products."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import zarr

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.statistics.reviews import Reviewed
from oddlattice.storage import blocks
from oddlattice.storage.groups import array_if_any, grain_if_any, grain_of, grains_in, group_if_any, said_if_any
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import Windows, bands

AT_ONCE_PX = 1 << 23  # an array of more pixels is read window by window
CROP_BYTES = 96 << 20  # of the unpacked chunks that are kept of each array that crops are cut from


@dataclass(frozen=True)
class GrainFrame:
    """A grain in its lattice frame: tiles and prediction (R, C), analysed cells (U, V), and where they lie."""

    tiles: Any
    prediction: Any
    mask: npt.NDArray[np.bool_]
    coordinates: Coordinates


@dataclass(frozen=True)
class Image:
    """One image and what the stages found out about it.

    Attributes
    ----------
    row : dict
        Its row of the images table.
    raw : ndarray or Windows of shape (rows, cols)
        The image [counts]; like the other arrays of its size, to be sliced along both axes.
    source, lattice, model : dict
        Attributes left by the read, tile and infer stages; empty where a stage did not come to it.
    tiles, prediction : ndarray or Windows of shape (U*20, V*20), or None
        In the lattice frame.
    mask : ndarray of shape (U, V), bool, or None
        Cells analysed; like the lattice, of the first grain.
    coordinates : Coordinates or None
        Where the cells lie in the image.
    maps : dict of str to ndarray or Windows of shape (rows, cols)
        ``difference`` and ``z`` in the raw frame.
    losses : dict of str to list of dict
        For each site: part of the trial columns found again, by the loss of intensity put in.
    trials : list of dict
        Known defects put in, and how many were found (products.COMPLETENESS).
    grains, boundaries : list of dict
        Rows of these tables, of an image of several grains.
    frames : dict of int to GrainFrame
        What the stages left of each grain in its lattice frame.
    defects, columns : polars.DataFrame
        Its rows of these tables; of the defects with what people said.
    said : polars.DataFrame
        What people said of this image, and what became of it (products.REVIEWS).
    marks : list of list of dict
        For each row of `defects` the marks of people on it.
    """

    row: Row
    raw: Any
    source: dict[str, Any]
    lattice: dict[str, Any]
    model: dict[str, Any]
    tiles: Any
    prediction: Any
    mask: npt.NDArray[np.bool_] | None
    coordinates: Coordinates | None
    maps: dict[str, Any]
    losses: dict[str, list[Row]]
    trials: list[Row]
    grains: list[Row]
    boundaries: list[Row]
    frames: dict[int, GrainFrame]
    defects: pl.DataFrame
    columns: pl.DataFrame
    said: pl.DataFrame
    marks: list[list[Row]]


def _frame(group: zarr.Group | None, name: str, most_bytes: int = 0) -> Any:
    """An array with the size of the image: whole, or to be read window by window where it is huge."""
    found = array_if_any(group, name)
    if found is None:
        return None
    return Windows(found, most_bytes) if found.shape[0] * found.shape[1] > AT_ONCE_PX else blocks.read(found)


def _values(group: zarr.Group | None, name: str) -> Any:
    found = array_if_any(group, name)
    return None if found is None else blocks.read(found)


def _frames(stores: dict[str, zarr.Group], name: str) -> dict[int, GrainFrame]:
    tiles, differences, found = stores.get("tiles"), stores.get("differences"), dict[int, GrainFrame]()
    if tiles is None or name not in tiles:
        return found
    for grain in grains_in(tiles, name):
        group = grain_of(tiles, name, grain)
        mask = _values(group, "mask")
        if mask is not None:
            prediction = _frame(grain_if_any(differences, name, grain), "prediction", CROP_BYTES)
            frame = _frame(group, "tiles", CROP_BYTES), prediction, mask > 0, Coordinates.of(group)
            found[grain] = GrainFrame(*frame)
    return found


def load_image(row: Row, stores: dict[str, zarr.Group], found: Reviewed, columns: pl.DataFrame) -> Image:
    """Collect what the stages left of an image; `stores` are the zarr groups images, tiles, differences and maps.

    Raises
    ------
    ValueError
        If the image itself is not among the images.
    """
    name = str(row["image_id"])
    group = {key: group_if_any(root, name) for key, root in stores.items()}
    group |= {key: grain_if_any(stores.get(key), name) for key in ("tiles", "differences")}
    raw = _frame(group["images"], "0")
    if raw is None:
        raise ValueError(f"{stores['images'].store}: found no image {name}; the images table says {row['state']}")
    mine = (found.defects["image_id"] == name).to_numpy()
    maps = {}
    for key in ("difference", "z", "prediction"):
        values = _frame(group_if_any(group["maps"], key), "0")
        if values is not None and any(np.isfinite(band).any() for band in bands(values)):
            maps[key] = values
    mask, said = _values(group["tiles"], "mask"), said_if_any(group["maps"])
    return Image(
        row=row,
        raw=raw,
        source=said_if_any(group["images"]),
        lattice=said_if_any(group["tiles"]),
        model=said_if_any(group["differences"]),
        tiles=_frame(group["tiles"], "tiles", CROP_BYTES),
        prediction=_frame(group["differences"], "prediction", CROP_BYTES),
        mask=None if mask is None else mask > 0,
        coordinates=None if mask is None or group["tiles"] is None else Coordinates.of(group["tiles"]),
        maps=maps,
        losses=said.get("completeness") or {},
        trials=said.get("trials") or [],
        grains=said.get("grains") or [],
        boundaries=said.get("boundaries") or [],
        frames=_frames(stores, name),
        defects=found.defects.filter(mine),
        columns=columns.filter(pl.col("image_id") == name),
        said=found.statements.filter(pl.col("image_id") == name),
        marks=[marks for marks, own in zip(found.marks, mine, strict=True) if own],
    )


def places_of(columns: pl.DataFrame, image_id: str) -> npt.NDArray[np.float64]:
    """Places (n, 2) [px] of the tested columns of an image."""
    return columns.filter(pl.col("image_id") == image_id).select("row_px", "col_px").to_numpy().astype(np.float64)
