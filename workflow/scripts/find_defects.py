"""Rule find_defects: every column tested, the odd ones listed, and maps laid back onto the raw image."""

import math
import shutil
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import zarr

from oddlattice.crystal import CELL_PX
from oddlattice.defects.injection import (
    Curves,
    corrected_count,
    loss_curves,
    pooled_curves,
    pooled_rows,
    shift_curves,
    smallest_loss,
    trial_rows,
)
from oddlattice.defects.kernels import (
    Noise,
    change_error,
    estimate_noise,
    in_mean_cells,
    judge_columns,
    kernel_width_px,
    local_contrast,
    published_map,
    raw_places,
    shift_error_pm,
    z_map,
)
from oddlattice.defects.known_defects import Trial
from oddlattice.defects.listing import (
    Found,
    Judged,
    extra_columns,
    group_extended,
    judge_all,
    single_defects,
)
from oddlattice.defects.raw_maps import InCounts, Map, ToLattice, write_maps
from oddlattice.defects.regions import extended_regions, gap_cells, loud_cells
from oddlattice.lattice.columns import ColumnShape, as_cells, mean_cell
from oddlattice.lattice.subareas import Part, in_px, is_inside, parts_of
from oddlattice.numerics.arrays import Array, Float
from oddlattice.numerics.intervals import poisson_interval, wilson
from oddlattice.process.logs import log_to
from oddlattice.process.sandbox import Fault
from oddlattice.process.single_thread import one_thread
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import array_of, group_of, listed_in, said_of, values_of
from oddlattice.storage.products import COLUMNS, COMPLETENESS, DEFECTS, IMAGES, table, write_parquet
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import Windows, give_back

CHUNK_CELLS = 32
MAP_BYTES = 96 << 20  # of each map of a huge image are kept unpacked while it is laid back
AROUND_CELLS = 2  # neighbourhood of a part of a huge image: a column's window and its neighbours
MIN_CELLS = 36  # a part of a huge image with fewer is not tested
NOWHERE = Part((slice(0, 0), slice(0, 0)), (slice(0, 0), slice(0, 0)))
SHAPE_KEYS = tuple(entry.name for entry in fields(ColumnShape))
NOISE_MODEL = "the image's own residuals: per pixel of the cell, slowly varying level, correlated"


@dataclass(frozen=True)
class Registered:
    """An image in the lattice frame with its prediction; shapes as the tile and infer stages write them."""

    difference: Float
    prediction: Float
    mask: npt.NDArray[np.uint8]
    inside: npt.NDArray[np.uint8]
    brightness: Array  # mean of each cell over the local mean of the crystal
    nodes_px: Float
    row_shift_px: Float
    contrast: float  # standard deviation of the mean cell of the whole image
    shapes: list[ColumnShape]
    responses: list[tuple[float, float]]
    vectors_px: Array
    pixel_nm: Array  # (row, col)


def pixel_by_lattice_nm(pixel_nm: float, header: list[float] | None) -> Array:
    """Pixel size (row, col) [nm]: the lattice's, split between the directions as the header says."""
    ratio = math.sqrt(header[0] / header[1]) if header else 1.0
    return np.array([pixel_nm * ratio, pixel_nm / ratio])


def find_in_image(image: Registered, settings: dict[str, Any]) -> tuple[Judged, Float, Noise]:
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


def with_regions(defects: list[Found], regions: npt.NDArray[np.bool_], settings: dict[str, Any]) -> list[Found]:
    """The defects of an image with what makes up extended defects put together; `regions` (U, V) are their cells."""
    return group_extended(extended_regions(defects, regions), settings["extended_columns"])


def find_in_part(image: Registered, settings: dict[str, Any]) -> tuple[Judged, Float, Noise]:
    """Test all columns of an image, or of a part of one, and list what is odd; as `find_in_image`, without regions."""
    contrast = local_contrast(image.prediction, image.difference, image.mask, image.contrast)
    difference = in_mean_cells(image.difference, contrast)
    noise = estimate_noise(difference, image.mask)
    vectors_pm = image.vectors_px * image.pixel_nm * 1000
    anm = published_map(image.difference, image.prediction, image.mask, settings["published_threshold"])
    fdr, shift_share = settings["fdr"], settings["shift_share"]
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


def column_rows(image_id: str, judged: Judged, nodes_px: Float) -> pl.DataFrame:
    """Every tested column of an image as rows of products.COLUMNS."""
    frames, start = [], 0
    for tested in judged.kinds:
        v, n = tested.verdict, len(tested.cells)
        place = raw_places(nodes_px, tested.cells + np.array([tested.shape.u, tested.shape.v]))
        frames.append(
            pl.DataFrame(
                {
                    "image_id": [image_id] * n,
                    "cell_u": tested.cells[:, 0],
                    "cell_v": tested.cells[:, 1],
                    "site": [tested.shape.site] * n,
                    "row_px": place[:, 0],
                    "col_px": place[:, 1],
                    "z": v.z,
                    "p_value": v.p_value,
                    "q_value": judged.q[start : start + n],
                    "z_intensity": v.z_intensity,
                    "z_shift": v.z_shift,
                    "anm": tested.anm,
                    "intensity_change": v.change,
                    "intensity_change_sigma": change_error(v.change_sigma, v.change),
                    "shift_row_pm": v.shift_pm[:, 0],
                    "shift_col_pm": v.shift_pm[:, 1],
                    "shift_sigma_pm": shift_error_pm(np.linalg.det(v.shift_covariance_pm2) ** 0.25, v.shift_pm),
                },
                schema=COLUMNS,
            )
        )
        start += n
    return pl.concat(frames) if frames else table([], COLUMNS)


def _number(value: float) -> float | None:
    return None if not math.isfinite(value) else float(value)


def defect_row(about: Row, defect: Found, image: Registered, cell_nm2: float) -> Row:
    """A defect as a row of products.DEFECTS."""
    place = raw_places(image.nodes_px, np.array([defect.uv]))[0]
    extended = defect.kind == "extended"
    return {
        **{key: about[key] for key in ("image_id", "path", "signal", "frame")},
        "row_px": float(place[0]),
        "col_px": float(place[1]),
        "row_nm": float(place[0] * image.pixel_nm[0]),
        "col_nm": float(place[1] * image.pixel_nm[1]),
        "cell_u": int(math.floor(defect.uv[0])),
        "cell_v": int(math.floor(defect.uv[1])),
        "site": defect.site,
        "kind": defect.kind,
        "kind_probability": _number(defect.probability),
        "z": _number(defect.z),
        "p_value": _number(defect.p),
        "q_value": _number(defect.q),
        "anm": _number(defect.anm),
        "intensity_change": _number(defect.change),
        "intensity_change_sigma": _number(defect.change_sigma),
        "shift_row_pm": _number(defect.shift_pm[0]),
        "shift_col_pm": _number(defect.shift_pm[1]),
        "shift_sigma_pm": _number(defect.shift_sigma_pm),
        "area_nm2": defect.cells * cell_nm2 if extended else None,
        "review": "",
    }


@dataclass
class Tally:
    """What was found in an image, put together from its parts.

    Attributes
    ----------
    defects : list of Found
        Places in cells of the whole image.
    columns : list of DataFrame
        Rows of products.COLUMNS.
    anm : list of ndarray
        Published score of every column.
    flagged : list of ndarray
        Which columns were flagged.
    losses, shifts : dict
        Recovered against lost intensity, and against displacement, by site.
    trials : list of dict
        Rows of products.COMPLETENESS.
    false : float
        Number of false alarms to be expected.
    """

    defects: list[Found] = field(default_factory=list)
    columns: list[pl.DataFrame] = field(default_factory=list)
    anm: list[Array] = field(default_factory=list)
    flagged: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    losses: Curves = field(default_factory=dict)
    shifts: Curves = field(default_factory=dict)
    trials: list[Row] = field(default_factory=list)
    false: float = 0.0

    def add(
        self, image_id: str, part: Part, image: Registered, judged: Judged, noise: Noise, trials: list[Trial]
    ) -> None:
        """Take in the columns and defects that are a part's own; those around it are another's."""
        low = [s.start for s in part.wide]
        cells = np.concatenate([t.cells for t in judged.kinds]) + low if judged.kinds else np.empty((0, 2), int)
        own = is_inside(cells, part)
        rows = column_rows(image_id, judged, image.nodes_px).filter(pl.Series(own))
        self.columns.append(rows.with_columns(pl.col("cell_u") + low[0], pl.col("cell_v") + low[1]))
        self.anm.append(np.concatenate([np.empty(0), *(t.anm for t in judged.kinds)])[own])
        self.flagged.append(judged.flagged[own])
        moved = [replace(d, uv=(d.uv[0] + low[0], d.uv[1] + low[1])) for d in judged.defects]
        self.defects += [d for d in moved if is_inside(np.floor([d.uv]), part)[0]]
        vectors_pm, cell = image.vectors_px * image.pixel_nm * 1000, mean_cell(image.prediction, image.mask)
        self.losses = pooled_curves(self.losses, loss_curves(judged, noise, cell))
        self.shifts = pooled_curves(self.shifts, shift_curves(judged, vectors_pm))
        self.trials = pooled_rows(self.trials, trial_rows(judged, noise, cell, vectors_pm, trials))
        self.false += judged.cut * int((own & ~judged.flagged).sum())


def published_figures(tally: Tally, band_std: float) -> Row:
    """Mean and standard deviation of the published score over bulk columns, and how many columns its rule flags."""
    score = np.concatenate([np.empty(0), *tally.anm])
    bulk = score[~np.concatenate([np.empty(0, bool), *tally.flagged])]
    if not len(bulk):
        return {}
    mean, std = float(bulk.mean()), float(bulk.std())
    return {
        "published_mean": mean,
        "published_std": std,
        "published_flagged": int((np.abs(score - mean) > band_std * std).sum()),
    }


def image_figures(tally: Tally, area: float, cell_nm2: float, settings: dict[str, Any]) -> Row:
    """Figures of an analysed image of `area` [nm^2] for products.IMAGES."""
    points = [d for d in tally.defects if d.kind != "extended"]
    regions = [d for d in tally.defects if d.kind == "extended"]
    low, high = poisson_interval(len(points))
    corrected = [value / area for value in corrected_count(tally.defects, tally.losses, tally.shifts, tally.false)]
    emptied = [rows[-1] for rows in tally.losses.values()]
    n, hits = sum(int(r["n"]) for r in emptied), sum(round(r["n"] * r["recovered"]) for r in emptied)
    figures: Row = {
        "columns_tested": sum(map(len, tally.anm)),
        "defects": len(points),
        "extended_regions": len(regions),
        "extended_area_nm2": sum(d.cells for d in regions) * cell_nm2,
        "density_per_nm2": len(points) / area,
        "density_ci_low": low / area,
        "density_ci_high": high / area,
        **dict(zip((f"density_corrected_{end}" for end in ("per_nm2", "ci_low", "ci_high")), corrected, strict=True)),
        "area_nm2": area,
        "fdr": settings["fdr"],
        "noise_model": NOISE_MODEL,
        "smallest_loss_90": smallest_loss(tally.losses),
        **published_figures(tally, settings["published_band_std"]),
    }
    if n:
        figures |= dict(
            zip(("completeness_vacancy_ci_low", "completeness_vacancy_ci_high"), wilson(hits, n), strict=True)
        )
        figures["completeness_vacancy"] = hits / n
    return figures


def load_registered(
    tiles: zarr.Group, differences: zarr.Group, header: list[float] | None, part: Part | None = None
) -> Registered:
    """Collect what the tile and infer stages wrote of an analysed image, or of a part of it."""
    lattice, model = said_of(tiles), said_of(differences)
    columns = model["columns"]
    cells = part.wide if part is not None else (slice(None), slice(None))
    corners = (slice(None), *(slice(s.start, s.stop + 1) for s in part.wide)) if part is not None else ()
    pixels = in_px(part.wide) if part is not None else ()
    return Registered(
        difference=values_of(differences, "difference", pixels),
        prediction=values_of(differences, "prediction", pixels),
        mask=values_of(tiles, "mask", cells),
        inside=values_of(tiles, "inside", cells),
        brightness=as_cells(values_of(tiles, "tiles", pixels)).mean(axis=(2, 3), dtype=np.float64),
        nodes_px=values_of(tiles, "nodes_px", corners),
        row_shift_px=values_of(tiles, "row_shift_px"),
        contrast=model["contrast"],
        shapes=[ColumnShape(**{k: c[k] for k in SHAPE_KEYS} | {"precision": tuple(c["precision"])}) for c in columns],
        responses=[(c["response_intensity"], c["response_shift"]) for c in columns],
        vectors_px=np.array([lattice["a_px"], lattice["b_px"]]),
        pixel_nm=pixel_by_lattice_nm(lattice["pixel_nm"], header),
    )


def lattice_figures(source: Row, lattice: Row) -> Row:
    """What is known of an image before it is analysed, for products.IMAGES."""
    header = source.get("pixel_nm_header")
    row: Row = {
        "rows": source["rows"],
        "cols": source["cols"],
        "acquired": source.get("acquired", ""),
        "pixel_nm_header": math.sqrt(header[0] * header[1]) if header else None,
        "a_nm": lattice.get("a_nm_header"),
        "b_nm": lattice.get("b_nm_header"),
    }
    for key in ("pixel_nm", "gamma_deg", "rotation_deg", "cells_analysed", "cells_masked"):
        row[key] = lattice.get(key)
    row["lattice_rms_px"] = lattice.get("lattice_rms_px")
    for name in ("a", "b"):
        vector = lattice.get(f"{name}_px")
        row[f"{name}_px"] = math.hypot(*vector) if vector else None
    return row


@dataclass(frozen=True)
class Stores:
    """The zarr groups a shard's defects are made from and written to."""

    images: zarr.Group
    tiles: zarr.Group
    differences: zarr.Group
    maps: zarr.Group
    scratch: Path


@dataclass
class Analysis:
    """What is known of one image: a row of products.IMAGES, and rows of DEFECTS, COMPLETENESS and COLUMNS."""

    image: Row
    defects: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    columns: pl.DataFrame = field(default_factory=lambda: table([], COLUMNS))


def analyse(row: Row, stores: Stores, settings: dict[str, Any]) -> Analysis:
    """Find the defects of one image that could be read, and write its maps."""
    name = row["image_id"]
    source = said_of(group_of(stores.images, name))
    lattice = said_of(group_of(stores.tiles, name))
    found: Row = {key: row[key] for key in ("image_id", "file_id", "path", "signal", "frame")}
    found |= {"state": lattice["state"], "reason": lattice["reason"]} | lattice_figures(source, lattice)
    if lattice["state"] != "tiled":
        return Analysis(found)
    differences = group_of(stores.differences, name)
    model = said_of(differences)
    found |= {"state": model["state"], "reason": model["reason"], "model_misfit": model.get("model_misfit")}
    if model["state"] != "analysed":
        return Analysis(found)
    found["model"] = model["model"]
    tiles, header = group_of(stores.tiles, name), source.get("pixel_nm_header")
    with TemporaryDirectory(dir=stores.scratch, prefix=".z-") as scratch:
        tally, maps = find_by_parts(name, tiles, differences, header, settings, Path(scratch))
        image = load_registered(tiles, differences, header, NOWHERE)
        warnings = [*source.get("warnings", []), *lattice.get("warnings", [])]
        if not tally.columns or not sum(map(len, tally.columns)):
            warnings.append("no column was tested: too few cells of crystal to know the image's own noise")
        cell_nm2 = float(abs(np.linalg.det(image.vectors_px * image.pixel_nm)))
        mask, nodes_px, local_mean = (values_of(tiles, key) for key in ("mask", "nodes_px", "local_mean"))
        figures = image_figures(tally, float(mask.sum()) * cell_nm2, cell_nm2, settings)
        figures["dose_counts_per_nm2"] = float(local_mean[mask > 0].mean() / np.prod(image.pixel_nm))
        found |= figures | {"reason": "; ".join(warnings)}
        group = stores.maps.create_group(name)
        laid: dict[str, Map] = {**maps, "prediction": InCounts(maps["prediction"], local_mean)}
        to_lattice = ToLattice(nodes_px, image.row_shift_px, lattice["scan_turned"])
        write_maps(group, laid, to_lattice, (found["rows"], found["cols"]), header)
    said = {"image_id": name, "completeness": tally.losses, "trials": tally.trials}
    group.update_attributes({"oddlattice": said})
    whole = replace(image, nodes_px=nodes_px)
    return Analysis(
        found,
        [defect_row(row, defect, whole, cell_nm2) for defect in tally.defects],
        [{"image_id": name} | trial for trial in tally.trials],
        pl.concat([table([], COLUMNS), *tally.columns]),
    )


def find_by_parts(
    name: str,
    tiles: zarr.Group,
    differences: zarr.Group,
    header: list[float] | None,
    settings: dict[str, Any],
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
    brightness, loud = np.zeros(mask.shape), np.zeros(mask.shape, dtype=bool)
    parts = parts_of(mask.shape, AROUND_CELLS)
    stored = None
    if len(parts) > 1:
        shape = array_of(differences, "difference").shape
        side = CHUNK_CELLS * CELL_PX
        stored = zarr.create_array(scratch / "z", shape=shape, chunks=(side, side), dtype="float32", compressors=None)
    z: Float = np.empty((0, 0), np.float32)
    for part in parts:
        if len(parts) > 1 and mask[part.wide].sum() < MIN_CELLS:
            continue
        image = load_registered(tiles, differences, header, part)
        judged, z, noise = find_in_part(image, settings)
        tally.add(name, part, image, judged, noise, trials)
        brightness[part.core] = image.brightness[part.inner]
        loud[part.core] = loud_cells(z, image.prediction, image.mask)[part.inner]
        if stored is not None:
            stored[in_px(part.core)] = z[in_px(part.inner)]
            del image, judged, noise
            give_back()
    regions = gap_cells(mask, values_of(tiles, "inside"), brightness) | loud
    tally.defects = with_regions(tally.defects, regions, settings)
    if stored is None:
        return tally, {"difference": image.difference, "z": z, "prediction": image.prediction}
    arrays = {"difference": array_of(differences, "difference"), "z": stored}
    arrays["prediction"] = array_of(differences, "prediction")
    return tally, {name: Windows(array, MAP_BYTES) for name, array in arrays.items()}


def refused(row: Row, fault: Fault | None) -> Analysis:
    """What `analyse` gives, of an image in which it failed."""
    why = fault.words if fault is not None else "nothing was said"
    reason = f"its defects could not be looked for, by a fault of the program: {why}"
    return Analysis(row | {"state": "rejected", "reason": reason})


def main(
    images_zarr: str,
    tiles_zarr: str,
    differences_zarr: str,
    out_defects: str,
    out_images: str,
    out_columns: str,
    out_completeness: str,
    out_maps: str,
    settings: dict[str, Any],
    watch: Watch | None = None,
) -> None:
    """List the defects of every image of a shard; refused images keep their row and their reason."""
    images = zarr.open_group(images_zarr, mode="r")
    watch, found = watch or Watch(), list[Analysis]()
    with whole_directory(out_maps) as part:
        maps = zarr.open_group(part, mode="w", zarr_format=3)
        stores = Stores(
            images, zarr.open_group(tiles_zarr, mode="r"), zarr.open_group(differences_zarr, mode="r"), maps, part
        )
        for row in listed_in(images):
            if row["state"] == "rejected":
                found.append(Analysis(row))
                continue
            one, fault = watch.spared(row["image_id"], analyse, row, stores, settings)
            if fault is not None:
                shutil.rmtree(part / row["image_id"], ignore_errors=True)
                print(fault.trace)
            found.append(one or refused(row, fault))
            print(
                f"{row['image_id']}: {found[-1].image['state']}, "
                f"{len(found[-1].defects)} defects of {len(found[-1].columns)} columns"
            )
    write_parquet(table([one.image for one in found], IMAGES), out_images)
    write_parquet(pl.concat([table([], COLUMNS), *(one.columns for one in found)]), out_columns)
    write_parquet(table([row for one in found for row in one.trials], COMPLETENESS), out_completeness)
    write_parquet(table([row for one in found for row in one.defects], DEFECTS), out_defects)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    one_thread()
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        snakemake.output.defects,
        snakemake.output.images,
        snakemake.output.columns,
        snakemake.output.completeness,
        snakemake.output.maps_zarr,
        dict(snakemake.params.settings),
        go_on_watched(),
    )
