"""Rule find_defects: every column tested, the odd ones listed, and maps laid back onto the raw image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import zarr
from scipy.ndimage import map_coordinates

from oddlattice.columns import ColumnShape
from oddlattice.crystal import CELL_PX
from oddlattice.defects import (
    Found,
    Judged,
    completeness,
    enclosed_regions,
    extra_columns,
    group_extended,
    judge_all,
    single_defects,
    smallest_loss,
)
from oddlattice.detect import estimate_noise, judge_columns, kernel_width_px, published_map, raw_places, z_map
from oddlattice.intervals import poisson_interval, wilson
from oddlattice.logs import log_to
from oddlattice.omezarr import write_bands
from oddlattice.onethread import one_thread
from oddlattice.products import COLUMNS, DEFECTS, IMAGES, table, write_parquet
from oddlattice.whole import whole_directory

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
Row = dict[str, Any]
BAND_ROWS = 512
SHAPE_KEYS = tuple(entry.name for entry in fields(ColumnShape))
NOISE_MODEL = "the image's own residuals: per pixel of the cell, slowly varying level, correlated"


@dataclass(frozen=True)
class Registered:
    """An image in the lattice frame with its prediction; shapes as the tile and infer stages write them."""

    difference: Float
    prediction: Float
    mask: npt.NDArray[np.uint8]
    nodes_px: Float
    row_shift_px: Float
    shapes: list[ColumnShape]
    responses: list[tuple[float, float]]
    vectors_px: Array
    pixel_nm: Array  # (row, col)


def pixel_by_lattice_nm(pixel_nm: float, header: list[float] | None) -> Array:
    """Pixel size (row, col) [nm]: the lattice's, split between the directions as the header says."""
    ratio = math.sqrt(header[0] / header[1]) if header else 1.0
    return np.array([pixel_nm * ratio, pixel_nm / ratio])


def find_in_image(image: Registered, settings: dict[str, Any]) -> tuple[Judged, Float]:
    """Test all columns of an image and list its defects.

    Returns
    -------
    judged : Judged
        With its `defects`, extended regions last.
    z : ndarray of shape (U * 20, V * 20), float32
        z map in the lattice frame.
    """
    noise = estimate_noise(image.difference, image.mask)
    vectors_pm = image.vectors_px * image.pixel_nm * 1000
    anm = published_map(image.difference, image.prediction, image.mask, settings["published_threshold"])
    tested = [
        (found, response)
        for shape, response in zip(image.shapes, image.responses, strict=True)
        if (found := judge_columns(image.difference, image.mask, noise, shape, vectors_pm, response, anm)) is not None
    ]
    judged = judge_all([found for found, _ in tested], settings["fdr"])
    single_defects(
        judged, image.difference, noise, vectors_pm, [np.array(response) for _, response in tested], settings["fdr"]
    )
    if not image.shapes:
        return judged, np.zeros_like(image.difference)
    narrowest = max(image.shapes, key=lambda shape: sum(shape.precision[::2]))
    z = z_map(image.difference, image.mask, noise, narrowest)
    places = np.array([(shape.u, shape.v) for shape in image.shapes])
    judged.defects += extra_columns(judged, z, image.mask, places, kernel_width_px(narrowest), settings["fdr"])
    judged.defects[:] = group_extended(judged.defects, settings["extended_columns"]) + enclosed_regions(image.mask)
    return judged, z


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
                    "intensity_change_sigma": v.change_sigma,
                    "shift_row_pm": v.shift_pm[:, 0],
                    "shift_col_pm": v.shift_pm[:, 1],
                    "shift_sigma_pm": np.linalg.det(v.shift_covariance_pm2) ** 0.25,
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


def published_figures(judged: Judged, band_std: float) -> Row:
    """Mean and standard deviation of the published score over bulk columns, and how many columns its rule flags."""
    score = np.concatenate([t.anm for t in judged.kinds]) if judged.kinds else np.empty(0)
    bulk = score[~judged.flagged]
    if not len(bulk):
        return {}
    mean, std = float(bulk.mean()), float(bulk.std())
    return {
        "published_mean": mean,
        "published_std": std,
        "published_flagged": int((np.abs(score - mean) > band_std * std).sum()),
    }


def image_figures(judged: Judged, image: Registered, local_mean: Float, settings: dict[str, Any]) -> tuple[Row, Row]:
    """Figures of an analysed image for products.IMAGES, and its whole completeness table."""
    cell_nm2 = float(abs(np.linalg.det(image.vectors_px * image.pixel_nm)))
    area = float(image.mask.sum()) * cell_nm2
    points = [d for d in judged.defects if d.kind != "extended"]
    regions = [d for d in judged.defects if d.kind == "extended"]
    low, high = poisson_interval(len(points))
    trials = completeness(judged)
    emptied = [rows[-1] for rows in trials.values()]
    n, hits = sum(int(r["n"]) for r in emptied), sum(round(r["n"] * r["recovered"]) for r in emptied)
    figures: Row = {
        "columns_tested": len(judged.p),
        "defects": len(points),
        "extended_regions": len(regions),
        "extended_area_nm2": sum(d.cells for d in regions) * cell_nm2,
        "density_per_nm2": len(points) / area,
        "density_ci_low": low / area,
        "density_ci_high": high / area,
        "area_nm2": area,
        "fdr": settings["fdr"],
        "noise_model": NOISE_MODEL,
        "dose_counts_per_nm2": float(local_mean[image.mask > 0].mean() / np.prod(image.pixel_nm)),
        "smallest_loss_90": smallest_loss(trials),
        **published_figures(judged, settings["published_band_std"]),
    }
    if n:
        figures |= dict(
            zip(("completeness_vacancy_ci_low", "completeness_vacancy_ci_high"), wilson(hits, n), strict=True)
        )
        figures["completeness_vacancy"] = hits / n
    return figures, trials


class ToLattice:
    """From raw pixels to lattice coordinates: the inverse of the nodes' places, by fixed-point iteration."""

    def __init__(self, nodes_px: Float, row_shift_px: Float) -> None:
        n_u, n_v = nodes_px.shape[1:]
        u, v = np.meshgrid(np.arange(n_u), np.arange(n_v), indexing="ij")
        design = np.stack([np.ones(u.size), u.ravel(), v.ravel()], -1)
        places = nodes_px.reshape(2, -1).T.astype(np.float64)
        self.affine = np.linalg.lstsq(design, places, rcond=None)[0]  # origin, a, b
        self.bend = (places - design @ self.affine).T.reshape(2, n_u, n_v)
        self.inverse = np.linalg.inv(self.affine[1:])
        self.row_shift_px = row_shift_px

    def __call__(self, rows: npt.NDArray[np.intp], n_cols: int) -> Array:
        """Lattice coordinates (2, rows, cols) [cells] of whole raw rows."""
        seen_col = np.arange(n_cols)[None, :] + self.row_shift_px[rows][:, None]
        place = np.stack([np.broadcast_to(rows[:, None], seen_col.shape), seen_col], -1) - self.affine[0]
        uv = place @ self.inverse
        for _ in range(3):
            bend = [map_coordinates(b, [uv[..., 0], uv[..., 1]], order=1, mode="nearest") for b in self.bend]
            uv = (place - np.stack(bend, -1)) @ self.inverse
        return np.moveaxis(uv, -1, 0)


def warped_bands(maps: list[Float], to_lattice: ToLattice, shape: tuple[int, int]) -> Iterator[list[Float]]:
    """Bands of rows of lattice-frame maps in the raw image's frame; 0 outside the lattice frame."""
    for start in range(0, shape[0], BAND_ROWS):
        at = to_lattice(np.arange(start, min(start + BAND_ROWS, shape[0])), shape[1]) * CELL_PX - 0.5
        yield [map_coordinates(m, at, order=1, mode="constant").astype(np.float32) for m in maps]


def write_maps(
    group: zarr.Group, maps: dict[str, Float], image: Registered, shape: tuple[int, int], header: Any
) -> None:
    """Write lattice-frame maps as OME-Zarr images in the raw frame, with the raw image's scale."""
    to_lattice = ToLattice(image.nodes_px, image.row_shift_px)
    pixel = (float(header[0]), float(header[1])) if header else None
    for name, values in maps.items():
        bands = (band[0] for band in warped_bands([values], to_lattice, shape))
        write_bands(group.create_group(name), bands, shape, np.float32, pixel, name=name)


def _attributes(group: zarr.Group) -> Row:
    return dict(group.attrs["oddlattice"])  # type: ignore[arg-type]


def _group(parent: zarr.Group, name: str) -> zarr.Group:
    found = parent[name]
    assert isinstance(found, zarr.Group)
    return found


def _array(group: zarr.Group, name: str) -> npt.NDArray[Any]:
    found = group[name]
    assert isinstance(found, zarr.Array)
    return np.asarray(found[:])


def load_registered(tiles: zarr.Group, differences: zarr.Group, header: list[float] | None) -> Registered:
    """Collect what the tile and infer stages wrote of an analysed image."""
    lattice, model = _attributes(tiles), _attributes(differences)
    columns = model["columns"]
    return Registered(
        difference=_array(differences, "difference"),
        prediction=_array(differences, "prediction"),
        mask=_array(tiles, "mask"),
        nodes_px=_array(tiles, "nodes_px"),
        row_shift_px=_array(tiles, "row_shift_px"),
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


def analyse(row: Row, stores: Stores, settings: dict[str, Any]) -> tuple[Row, list[Row], pl.DataFrame]:
    """Rows of products.IMAGES and products.DEFECTS, and the table of columns, for one image that could be read."""
    name = row["image_id"]
    source = _attributes(_group(stores.images, name))
    lattice = _attributes(_group(stores.tiles, name))
    found: Row = {key: row[key] for key in ("image_id", "file_id", "path", "signal", "frame")}
    found |= {"state": lattice["state"], "reason": lattice["reason"]} | lattice_figures(source, lattice)
    if lattice["state"] != "tiled":
        return found, [], table([], COLUMNS)
    differences = _group(stores.differences, name)
    model = _attributes(differences)
    found |= {"state": model["state"], "reason": model["reason"], "model_misfit": model.get("model_misfit")}
    if model["state"] != "analysed":
        return found, [], table([], COLUMNS)
    found["model"] = model["model"]
    image = load_registered(_group(stores.tiles, name), differences, source.get("pixel_nm_header"))
    judged, z = find_in_image(image, settings)
    figures, trials = image_figures(judged, image, _array(_group(stores.tiles, name), "local_mean"), settings)
    warnings = [*source.get("warnings", []), *lattice.get("warnings", [])]
    if not judged.kinds:
        warnings.append("no column was tested: too few cells of crystal to know the image's own noise")
    found |= figures | {"reason": "; ".join(warnings)}
    cell_nm2 = float(abs(np.linalg.det(image.vectors_px * image.pixel_nm)))
    group = stores.maps.create_group(name)
    write_maps(
        group,
        {"difference": image.difference, "z": z},
        image,
        (found["rows"], found["cols"]),
        source.get("pixel_nm_header"),
    )
    group.update_attributes({"oddlattice": {"image_id": name, "completeness": trials}})
    rows = [defect_row(row, defect, image, cell_nm2) for defect in judged.defects]
    return found, rows, column_rows(name, judged, image.nodes_px)


def main(
    images_zarr: str,
    tiles_zarr: str,
    differences_zarr: str,
    out_defects: str,
    out_images: str,
    out_columns: str,
    out_maps: str,
    settings: dict[str, Any],
) -> None:
    """List the defects of every image of a shard; refused images keep their row and their reason."""
    images = zarr.open_group(images_zarr, mode="r")
    listed: list[Row] = list(images.attrs["images"])  # type: ignore[arg-type]
    image_rows: list[Row] = []
    defect_rows: list[Row] = []
    column_tables = [table([], COLUMNS)]
    with whole_directory(out_maps) as part:
        maps = zarr.open_group(part, mode="w", zarr_format=3)
        stores = Stores(
            images, zarr.open_group(tiles_zarr, mode="r"), zarr.open_group(differences_zarr, mode="r"), maps
        )
        for row in listed:
            if row["state"] == "rejected":
                image_rows.append(row)
                continue
            figures, defects, columns = analyse(row, stores, settings)
            print(f"{row['image_id']}: {figures['state']}, {len(defects)} defects among {len(columns)} columns")
            image_rows.append(figures)
            defect_rows += defects
            column_tables.append(columns)
    write_parquet(table(image_rows, IMAGES), out_images)
    write_parquet(pl.concat(column_tables), out_columns)
    write_parquet(table(defect_rows, DEFECTS), out_defects)


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
        snakemake.output.maps_zarr,
        dict(snakemake.params.settings),
    )
