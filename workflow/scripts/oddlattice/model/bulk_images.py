"""Patches of bulk from images that the config names."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.archive.names import unescape
from oddlattice.crystal import CELL_PX, PX_PER_CELL, Crystal
from oddlattice.lattice.columns import as_cells, mean_cell, with_bulk_around
from oddlattice.lattice.own_crystal import register_on_own
from oddlattice.lattice.pixel_size import header_nm
from oddlattice.lattice.register import register
from oddlattice.lattice.shapes import fit_shape
from oddlattice.model.patches import (
    ImagePatches,
    padded,
    patches_of,
    standardised,
)
from oddlattice.numerics.arrays import Float
from oddlattice.read.read_shard import read_shard
from oddlattice.run.stage_settings import ReadSettings
from oddlattice.storage.groups import attributes_of, group_of, listed_in, values_of
from oddlattice.storage.products import SHARD, table, write_tsv

HELD_OUT_PART = 0.15  # of an image's columns of cells, on its right-hand side
LEAST_BULK_CELLS = 200


def read_bulk(bulk: Sequence[Mapping[str, Any]], archive: str, read: ReadSettings) -> list[tuple[Float, Any]]:
    """Images named by the config: each cut to its region, with its pixel size (row, col) [nm] or None.

    Raises
    ------
    ValueError
        If a file cannot be read or holds no such signal or frame; the message names it.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, entry in enumerate(bulk):
            path = os.path.join(os.fsencode(archive), unescape(entry["path"]))
            try:
                status = os.stat(path)
            except OSError as error:
                raise ValueError(f"train.bulk: {entry['path']}: {error.strerror}; needed an image of bulk") from None
            row = {
                "file_id": f"bulk-{number}",
                "path": entry["path"],
                "size_bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
            }
            shard, store = Path(folder, f"{number}.tsv"), Path(folder, f"{number}.zarr")
            write_tsv(table([row], SHARD), shard)
            read_shard(shard, Path(archive), store, read, sys.stderr)
            found.append(_pick(zarr.open_group(store, mode="r"), entry))
    return found


def _pick(store: zarr.Group, entry: Mapping[str, Any]) -> tuple[Float, Any]:
    rows = listed_in(store)
    fits = [
        row
        for row in rows
        if row["state"] == "read"
        and entry.get("signal") in (None, row["signal"])
        and entry.get("frame") in (None, row["frame"])
    ]
    if not fits:
        reasons = "; ".join(row["reason"] for row in rows if row["reason"]) or "no such signal or frame"
        raise ValueError(f"train.bulk: {entry['path']}: {reasons}; needed an image of bulk")
    group = group_of(store, fits[0]["image_id"])
    image = np.asarray(values_of(group, "0"), dtype=np.float32)
    top, bottom, left, right = entry.get("region_px") or (0, image.shape[0], 0, image.shape[1])
    header = header_nm(attributes_of(group))
    return image[top:bottom, left:right], header


def propose_crystal(name: str, given: Mapping[str, Any], image: Float, header: Any) -> dict[str, Any]:
    """The unit cell of an unknown crystal, from an image of its bulk: what the image shows itself.

    Lengths in `given` (a_nm, b_nm, gamma_deg) win over the header's; columns in `given` win over those found. Without
    any of them lengths are nominal, and the cell says so.
    """
    cell = register_on_own(image, header)[1]
    found = cell.as_dict(header or cell.nominal_nm) | {"name": name}
    unknown = header is None and not {"a_nm", "b_nm"} <= set(given)
    return found | ({"nominal": True} if unknown else {}) | dict(given)


def robust_cells(tiles: Float, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Analysed cells that look like the others: those whose whitened misfit stands out by five sigma are left out."""
    good = mask.astype(bool)
    cells = as_cells(tiles, PX_PER_CELL)
    centre = mean_cell(tiles, mask)
    off = cells[good] - centre
    spread = 1.4826 * np.median(np.abs(off), axis=0) + 1e-6
    energy = np.log(np.mean((off / spread) ** 2, axis=(1, 2)) + 1e-9)
    middle = np.median(energy)
    kept = energy < middle + 5 * 1.4826 * np.median(np.abs(energy - middle))
    good[good] = kept
    return good


def image_patches(crystal: Crystal, images: list[tuple[Float, Any]]) -> tuple[ImagePatches, ImagePatches, list[float]]:
    """Patches for training and, from another part of each image, held-out ones; and each image's number of cells.

    Raises
    ------
    ValueError
        If fewer than LEAST_BULK_CELLS cells of bulk are left.
    """
    train, held, counts = [], [], []
    shapes = variance = None
    for image, header in images:
        found = register(image, crystal, header)
        good = robust_cells(found.tiles, found.mask)
        cells = np.argwhere(good)
        border = int(np.quantile(cells[:, 1], 1 - HELD_OUT_PART))
        centre = mean_cell(found.tiles, found.mask)
        contrast = float(centre.std())
        rimmed = standardised(padded(with_bulk_around(found.tiles, found.mask)), contrast)
        train.append(patches_of(rimmed, cells[cells[:, 1] < border - 1]))
        held.append(patches_of(rimmed, cells[cells[:, 1] > border]))
        counts.append(float(len(cells)))
        shapes = shapes or [fit_shape(centre / contrast, column) for column in crystal.tested]
        spread = 1.4826 * np.median(np.abs(as_cells(found.tiles, PX_PER_CELL)[good] - centre), axis=0) / contrast
        variance = spread**2 + 1e-4 if variance is None else np.minimum(variance, spread**2 + 1e-4)
    if sum(counts) < LEAST_BULK_CELLS or shapes is None or variance is None:
        raise ValueError(f"train.bulk: {sum(counts):.0f} cells of bulk; at least {LEAST_BULK_CELLS} are needed")
    half = CELL_PX // 2
    tiled = np.roll(np.tile(variance, (2, 2)), (half, half), axis=(0, 1)).astype(np.float32)
    both = [ImagePatches(np.concatenate(part), tiled, shapes) for part in (train, held)]
    return both[0], both[1], counts
