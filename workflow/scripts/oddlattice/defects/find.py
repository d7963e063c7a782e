"""The defects of one image: every column tested, the odd ones listed; a huge image part by part."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from oddlattice.crystal import LEAST_CELLS
from oddlattice.defects.extra import extra_columns
from oddlattice.defects.kernels import kernel_width_px, z_map
from oddlattice.defects.listing import Defect, Judged, judge_all, single_defects
from oddlattice.defects.noise import Noise, estimate_noise, in_mean_cells, local_contrast
from oddlattice.defects.null import judge_columns
from oddlattice.defects.published_score import published_map
from oddlattice.defects.regions import extended_regions, gap_cells, group_extended, loud_cells
from oddlattice.defects.registered import Registered, load_registered
from oddlattice.defects.tables import Tally
from oddlattice.lattice.columns import px_of
from oddlattice.lattice.subareas import in_px, parts_of
from oddlattice.model.known_defects import Trial
from oddlattice.numerics.arrays import Float
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.storage.groups import array_of, said_of, values_of
from oddlattice.storage.windows import Windows, give_back

CHUNK_CELLS = 32
MAP_BYTES = 96 << 20  # of each map of a huge image are kept unpacked while it is laid back
AROUND_CELLS = 2  # neighbourhood of a part of a huge image: a column's window and its neighbours


def find_in_image(image: Registered, settings: DefectSettings) -> tuple[Judged, Float, Noise]:
    """Test all columns of an image and list its defects.

    Returns
    -------
    judged : Judged
        With its `defects`, extended regions last.
    z : ndarray of shape (U * 20, V * 20), float32
        z map in the lattice frame.
    noise : Noise
    """
    judged, z, noise = find_in_part(image, settings)
    regions = gap_cells(image.mask, image.inside, image.brightness) | loud_cells(z, image.prediction, image.mask)
    judged.defects[:] = with_regions(judged.defects, regions, settings)
    return judged, z, noise


def with_regions(defects: list[Defect], regions: npt.NDArray[np.bool_], settings: DefectSettings) -> list[Defect]:
    """The defects of an image with what makes up extended defects put together; `regions` (U, V) are their cells."""
    return group_extended(extended_regions(defects, regions), settings.extended_columns)


def find_in_part(image: Registered, settings: DefectSettings) -> tuple[Judged, Float, Noise]:
    """Test all columns of an image, or of a part of one, and list what is odd; as `find_in_image`, without regions."""
    contrast = local_contrast(image.prediction, image.difference, image.mask, image.contrast)
    difference = in_mean_cells(image.difference, contrast)
    noise = estimate_noise(difference, image.mask)
    vectors_pm = image.vectors_px * image.pixel_nm * 1000
    anm = published_map(image.difference, image.prediction, image.mask, settings.published_threshold)
    fdr, shift_share = settings.fdr, settings.shift_share
    tested = []
    for shape, response in zip(image.shapes, image.responses, strict=True):
        found = judge_columns(difference, image.mask, noise, shape, vectors_pm, response, anm, shift_share)
        if found is not None:
            tested.append((found, response))
    judged = judge_all([found for found, _ in tested], fdr)
    single_defects(judged, difference, noise, vectors_pm, [np.array(response) for _, response in tested], fdr)
    if not image.shapes:
        return judged, np.zeros_like(image.difference), noise
    narrowest = max(image.shapes, key=lambda shape: sum(shape.precision[::2]))
    z = z_map(difference, image.mask, noise, narrowest)
    places = np.array([(shape.u, shape.v) for shape in image.shapes])
    judged.defects += extra_columns(judged, z, image.mask, places, kernel_width_px(narrowest), fdr)
    return judged, z, noise


def find_by_parts(
    name: str,
    tiles: zarr.Group,
    differences: zarr.Group,
    header: list[float] | None,
    settings: DefectSettings,
    scratch: Path,
) -> tuple[Tally, dict[str, Float | Windows]]:
    """Test the columns of an image part by part; nearly every image is one part.

    A part of a huge image is judged by its own scatter, and keeps the false-discovery rate by itself.

    Returns
    -------
    tally : Tally
    maps : dict of ndarray or Windows of shape (U * 20, V * 20), float32
        In the lattice frame: difference, z, prediction; z of a huge image lies in `scratch`.
    """
    tally = Tally()
    trials = [Trial(**entry) for entry in said_of(differences)["trial_defects"]]
    mask = values_of(tiles, "mask")
    px_per_cell = px_of(array_of(differences, "difference"), mask)
    brightness, loud = np.zeros(mask.shape), np.zeros(mask.shape, dtype=bool)
    parts = parts_of(mask.shape, AROUND_CELLS)
    stored = None
    if len(parts) > 1:
        shape = array_of(differences, "difference").shape
        sides = tuple(CHUNK_CELLS * n for n in px_per_cell)
        stored = zarr.create_array(scratch / "z", shape=shape, chunks=sides, dtype="float32", compressors=None)
    z: Float = np.empty((0, 0), np.float32)
    for part in parts:
        if len(parts) > 1 and mask[part.wide].sum() < LEAST_CELLS:
            continue
        image = load_registered(tiles, differences, header, part)
        judged, z, noise = find_in_part(image, settings)
        tally.add(name, part, image, judged, noise, trials)
        brightness[part.core] = image.brightness[part.inner]
        loud[part.core] = loud_cells(z, image.prediction, image.mask)[part.inner]
        if stored is not None:
            stored[in_px(part.core, px_per_cell)] = z[in_px(part.inner, px_per_cell)]
            del image, judged, noise
            give_back()
    regions = gap_cells(mask, values_of(tiles, "inside"), brightness) | loud
    tally.defects = with_regions(tally.defects, regions, settings)
    if stored is None:
        return tally, {"difference": image.difference, "z": z, "prediction": image.prediction}
    arrays = {"difference": array_of(differences, "difference"), "z": stored}
    arrays["prediction"] = array_of(differences, "prediction")
    return tally, {name: Windows(array, MAP_BYTES) for name, array in arrays.items()}
