"""The defects of one image: every column tested, the odd ones listed; a huge image part by part."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import zarr

from oddlattice.crystal import LEAST_CELLS, PxPerCell
from oddlattice.defects.at_boundaries import distance_to_others, odd_along
from oddlattice.defects.beside import ROUNDS, judge_together
from oddlattice.defects.extra import extra_columns
from oddlattice.defects.kernels import kernel_width_px, z_map
from oddlattice.defects.kinds import NO_POINTS
from oddlattice.defects.listing import Judged, decide_together, far_fits, windows_of
from oddlattice.defects.noise import Noise, estimate_noise, in_mean_cells, local_contrast
from oddlattice.defects.null import SiteColumns, judge_columns
from oddlattice.defects.published_score import published_map
from oddlattice.defects.regions import (
    Cells,
    broken_cells,
    crowded_cells,
    extended_regions,
    gap_cells,
    numbered_regions,
    off_site,
)
from oddlattice.defects.registered import Registered, load_registered
from oddlattice.defects.shared_scatter import with_shared_scatter
from oddlattice.defects.tables import Piece, Tally
from oddlattice.defects.without import Without
from oddlattice.lattice.columns import as_cells, mean_cell, px_of
from oddlattice.lattice.pixel_size import PixelNm
from oddlattice.lattice.rim import beside_px
from oddlattice.lattice.subareas import CHUNK_CELLS, Part, in_px, is_inside, parts_of
from oddlattice.model.known_defects import Trial
from oddlattice.numerics.arrays import Array, Float, Labels, Mask
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.storage.groups import array_of, attributes_of, values_of
from oddlattice.storage.products import COLUMNS, table
from oddlattice.storage.windows import Windows, give_back

MAP_BYTES = 96 << 20  # of each map of a huge image are kept unpacked while it is laid back
CROWDED = 0.02  # so many of the columns changed, noise is estimated again without them
AROUND_CELLS = 2  # neighbourhood of a part of a huge image: a column's window and its neighbours


def find_in_image(image: Registered, settings: DefectSettings) -> tuple[Judged, Float, Noise]:
    """Test all columns of an image and list its defects.

    Returns
    -------
    judged : Judged
        With its `defects`, extended regions last.
    z : ndarray of shape (U n_u, V n_v), float32
        z map in the lattice frame.
    noise : Noise
    """
    found = judge_part(image, settings)
    decide_together([found.judged], settings.fdr)
    between = float(mean_cell(image.prediction, image.mask).min())
    gaps = gap_cells(image.mask, image.inside, image.brightness, image.level, between)
    crowd = crowded_cells(found.judged.defects, gaps.shape, found.judged.vectors_pm, settings.extended_columns)
    found.judged.defects[:] = extended_regions(found.judged.defects, gaps | found.broken | crowd)[0]
    return found.judged, found.z, found.judged.noise


@dataclass(frozen=True)
class Found:
    """What was found in an image, or in a part of one.

    Attributes
    ----------
    judged : Judged
    z : ndarray of shape (U n_u, V n_v), float32
    broken : ndarray of shape (U, V), bool
        Cells in which columns stand beside their sites.
    """

    judged: Judged
    z: Float
    broken: Cells


def judge_part(image: Registered, settings: DefectSettings, part: Part | None = None) -> Found:
    """Test all columns of an image, or of a part of one; nothing is listed yet."""
    contrast = local_contrast(image.prediction, image.difference, image.mask, image.contrast)
    difference = in_mean_cells(image.difference, contrast)
    vectors_pm = image.vectors_px * image.pixel_nm * 1000
    noise = estimate_noise(difference, image.mask)
    together = mean_cell(image.prediction, image.mask), vectors_pm, settings.fdr
    sites, without = judge_together(_tested(image, difference, noise, settings), difference, noise, *together, rounds=1)
    if len(without.fits) > CROWDED * sum(len(site.cells) for site in sites):
        noise = estimate_noise(without.inside(px_of(difference, image.mask)), image.mask)
        sites, without = judge_together(_tested(image, difference, noise, settings), difference, noise, *together)
    else:
        sites, without = judge_together(sites, difference, noise, *together, rounds=ROUNDS - 1, without=without)
    judged = Judged(sites, windows_of(sites, without, settings.fdr), noise, vectors_pm, [], 0, np.empty(0, dtype=bool))
    judged.far = far_fits(sites, without)
    here = np.concatenate([np.empty(0, dtype=bool), *(site.tested for site in sites)])
    judged.keep(here if part is None else here & is_inside(judged.cells + _low(part), part))
    if not image.shapes:
        return Found(judged, np.zeros_like(image.difference), np.zeros(image.mask.shape, dtype=bool))
    narrowest = max(image.shapes, key=lambda shape: sum(shape.precision[::2]))
    z = z_map(difference, image.mask, noise, narrowest)
    places = np.array([(shape.u, shape.v) for shape in image.shapes])
    odd = np.array([sites[k].cells[i] + (sites[k].shape.u, sites[k].shape.v) for k, i in without.fits]).reshape(-1, 2)
    width_px = kernel_width_px(narrowest)
    own = without_foreign(image)
    extras = extra_columns(z, own, places, odd, width_px, vectors_pm, settings.fdr)
    core = part.inner if part is not None else (slice(None), slice(None))
    judged.extra_tests = int(own[core].sum())
    judged.extras = [e for e in extras if part is None or is_inside(np.floor([e.uv]) + _low(part), part)[0]]
    on_site = _on_site_taken_out(without, vectors_pm, px_of(difference, image.mask))
    if on_site is None:
        return Found(judged, z, broken_cells(z, image.prediction, image.mask))
    calm = z_map(on_site, image.mask, noise, narrowest)
    return Found(judged, z, broken_cells(calm, image.prediction, image.mask, z - calm))


def without_foreign(image: Registered) -> Mask:
    """Analysed cells without light of other grains' columns: elsewhere nothing extra is told from it."""
    if image.foreign is None:
        return image.mask
    lit = (as_cells(image.foreign, px_of(image.foreign, image.mask)) != 0).any(axis=(2, 3))
    return np.where(lit, 0, image.mask).astype(np.uint8)


def _tested(image: Registered, difference: Float, noise: Noise, settings: DefectSettings) -> list[SiteColumns]:
    """All columns of an image judged in its noise, each as if it alone had changed."""
    vectors_pm = image.vectors_px * image.pixel_nm * 1000
    anm = published_map(image.difference, image.prediction, image.mask, settings.published_threshold)
    depth = image.depth_px / _beside_px(image)
    tested = [
        judge_columns(
            difference, image.mask, noise, shape, vectors_pm, response, anm, settings.shift_share, depth, image.foreign
        )
        for shape, response in zip(image.shapes, image.responses, strict=True)
    ]
    return with_shared_scatter([site for site in tested if site])


def _beside_px(image: Registered) -> float:
    """How far a column's neighbours stand [px]; depth at seams and rims of long cells is in shortest vectors."""
    if image.foreign is not None:
        return float(np.hypot(*image.vectors_px.T).min())
    return beside_px(image.vectors_px, np.array([(shape.u, shape.v) for shape in image.shapes]))


def _low(part: Part) -> list[int]:
    """First cell (u, v) of a part with its neighbourhood."""
    return [s.start for s in part.wide]


def _on_site_taken_out(without: Without, vectors_pm: Array, px_per_cell: PxPerCell) -> Float | None:
    """The difference without the changed columns that stand on their sites; None where there are none."""
    off = [key for key, fit in without.fits.items() if off_site(fit[1:], vectors_pm)]
    if len(off) == len(without.fits):
        return None
    for key in off:
        without.put_back(key)
    return without.inside(px_per_cell)


@dataclass
class JudgedGrain:
    """A grain whose columns were tested, and nothing is listed yet.

    Attributes
    ----------
    known : list of Trial
        Defects that are put in, for completeness.
    pieces : list of Piece
    regions : ndarray of shape (U, V), bool
        Cells of holes and of other phases, and those in which columns stand beside their sites.
    maps : dict of ndarray or Windows of shape (U n_u, V n_v), float32
        In the lattice frame: difference, z, prediction; z of a huge image lies in scratch.
    """

    known: list[Trial]
    pieces: list[Piece]
    regions: Cells
    maps: dict[str, Float | Windows]


def judge_by_parts(
    tiles: zarr.Group, differences: zarr.Group, header: PixelNm | None, settings: DefectSettings, scratch: Path
) -> JudgedGrain:
    """Test the columns of a grain part by part, each by its own scatter; nearly every image is one part."""
    mask = values_of(tiles, "mask")
    px_per_cell = px_of(array_of(differences, "difference"), mask)
    brightness, broken = np.zeros(mask.shape), np.zeros(mask.shape, dtype=bool)
    parts = parts_of(mask.shape, AROUND_CELLS)
    stored, pieces = None, list[Piece]()
    if len(parts) > 1:
        shape = array_of(differences, "difference").shape
        sides = tuple(CHUNK_CELLS * n for n in px_per_cell)
        stored = zarr.create_array(scratch / "z", shape=shape, chunks=sides, dtype="float32", compressors=None)
    z: Float = np.empty((0, 0), np.float32)
    for part in parts:
        if len(parts) > 1 and mask[part.wide].sum() < LEAST_CELLS:
            continue
        image = load_registered(tiles, differences, header, part)
        found = judge_part(image, settings, part)
        pieces.append(Piece(part, found.judged, image.coordinates, mean_cell(image.prediction, image.mask)))
        brightness[part.core] = image.brightness[part.inner]
        broken[part.core] = found.broken[part.inner]
        z = found.z
        if stored is not None:
            stored[in_px(part.core, px_per_cell)] = z[in_px(part.inner, px_per_cell)]
            del image, found
            give_back()
    known = [Trial(**entry) for entry in attributes_of(differences)["trial_defects"]]
    between = min((float(piece.cell.min()) for piece in pieces), default=0.0)
    level = values_of(tiles, "local_mean").astype(np.float64)
    regions = gap_cells(mask, values_of(tiles, "inside"), brightness, level, between) | broken
    if stored is None:
        maps: dict[str, Float | Windows] = {"difference": image.difference, "z": z, "prediction": image.prediction}
        return JudgedGrain(known, pieces, regions, maps)
    arrays = {"difference": array_of(differences, "difference"), "z": stored}
    arrays["prediction"] = array_of(differences, "prediction")
    return JudgedGrain(known, pieces, regions, {name: Windows(array, MAP_BYTES) for name, array in arrays.items()})


def list_together(
    name: str, grains: dict[int, JudgedGrain], settings: DefectSettings, labels: Labels | None = None
) -> dict[int, Tally]:
    """What is listed in the grains of an image, at one false-discovery rate for all of it.

    `labels` (rows, cols) say which pixel is of which grain, of an image of several.
    """
    decide_together([piece.judged for grain in grains.values() for piece in grain.pieces], settings.fdr)
    found = {}
    for number, grain in grains.items():
        tally = found[number] = Tally(grain.known)
        for piece in grain.pieces:
            tally.add(name, number, piece)
        vectors_pm = grain.pieces[0].judged.vectors_pm if grain.pieces else np.eye(2)
        shape = (grain.regions.shape[0], grain.regions.shape[1])
        crowd = crowded_cells(tally.defects, shape, vectors_pm, settings.extended_columns)
        tally.defects, taken = extended_regions(tally.defects, grain.regions | crowd)
        tally.regions = numbered_regions(grain.regions | crowd)
        tally.take(taken if labels is None else taken | _odd_seams(tally, labels, number, shape))
    return found


def _odd_seams(tally: Tally, labels: Labels, number: int, shape: tuple[int, int]) -> Cells:
    """Cells (U, V) along a grain's boundaries whose columns are odd one beside the other; their defects say so."""
    columns = pl.concat([table([], COLUMNS), *tally.columns])
    keys = columns.select("cell_u", "cell_v", "column").rows()
    listed = {(*np.floor(d.uv).astype(int).tolist(), d.column) for d in tally.defects if d.column is not None}
    places = columns.select("row_px", "col_px").to_numpy()
    odd = odd_along(distance_to_others(labels, number, places), places, np.array([key in listed for key in keys]))
    cells = np.zeros(shape, dtype=bool)
    cells[tuple(columns.select("cell_u", "cell_v").to_numpy()[odd].clip(0, np.array(shape) - 1).T)] = True
    last = np.array(shape) - 1
    tally.defects = [
        replace(d, in_region=d.in_region or bool(cells[tuple(np.clip(np.floor(d.uv).astype(int), 0, last))]))
        if d.kind not in NO_POINTS
        else d
        for d in tally.defects
    ]
    return cells
