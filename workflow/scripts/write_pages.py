"""Rule write_pages: one page per image of a shard, its pictures beside it, and every number on it as JSON and CSV.

The page only shows: what it shows is computed here, or read from the products of the earlier stages.
"""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
import zarr

from oddlattice.crystal import CELL_PX
from oddlattice.defects.kinds import KINDS
from oddlattice.process.logs import log_to
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.report import exports, image_facts, outlines, pictures, plots
from oddlattice.report import numbers as n
from oddlattice.report.image_facts import Image
from oddlattice.report.pages import render
from oddlattice.report.statistics import image_view
from oddlattice.run.settings import versions
from oddlattice.statistics.reviews import Reviewed, lay_on
from oddlattice.storage import blocks
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import array_if_any, group_if_any, said_if_any
from oddlattice.storage.image_json import ByImage
from oddlattice.storage.json_text import json_indented, json_lines
from oddlattice.storage.products import write_csv
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import Windows, bands, every

TILE_PX = 1024  # side of a tile of the viewer
CROP_CELLS = 3  # side of a defect's crop
CROPS_PER_SHEET = 50
FIGURE_PX = 1000  # the longer side of a figure's image has at least so many, where the image has; twice as many at most
MAP_PERCENTILES = 0.025, 99.975
MAP_QUALITY, SHOWN_Z = 95, 6.0  # of JPEG: less makes rings about strong defects; z up to which colours go at first
AT_ONCE_PX = 1 << 23  # an array of more pixels is read window by window
CROP_BYTES = 96 << 20  # of the unpacked chunks that are kept of each array that crops are cut from
# ---------------------------------------------------------------- reading


def _frame(group: zarr.Group | None, name: str, most_bytes: int = 0) -> Any:
    """An array with the size of the image: whole, or to be read window by window where it is huge."""
    found = array_if_any(group, name)
    if found is None:
        return None
    return Windows(found, most_bytes) if found.shape[0] * found.shape[1] > AT_ONCE_PX else blocks.read(found)


def _values(group: zarr.Group | None, name: str) -> Any:
    found = array_if_any(group, name)
    return None if found is None else blocks.read(found)


def load_image(row: Row, stores: dict[str, zarr.Group], found: Reviewed, columns: pl.DataFrame) -> Image:
    """Collect what the stages left of an image; `stores` are the zarr groups images, tiles, differences and maps.

    Raises
    ------
    ValueError
        If the image itself is not among the images.
    """
    name = str(row["image_id"])
    group = {key: group_if_any(root, name) for key, root in stores.items()}
    raw = _frame(group["images"], "0")
    if raw is None:
        raise ValueError(f"{stores['images'].store}: found no image {name}; the images table says {row['state']}")
    mine = (found.defects["image_id"] == name).to_numpy()
    maps = {}
    for key in ("difference", "z", "prediction"):
        values = _frame(group_if_any(group["maps"], key), "0")
        if values is not None and any(np.isfinite(band).any() for band in bands(values)):
            maps[key] = values
    mask, nodes = _values(group["tiles"], "mask"), _values(group["tiles"], "nodes_px")
    return Image(
        row=row,
        raw=raw,
        source=said_if_any(group["images"]),
        lattice=said_if_any(group["tiles"]),
        model=said_if_any(group["differences"]),
        tiles=_frame(group["tiles"], "tiles", CROP_BYTES),
        prediction=_frame(group["differences"], "prediction", CROP_BYTES),
        mask=None if mask is None else mask > 0,
        nodes_px=None if nodes is None or not np.isfinite(nodes).all() else nodes.astype(np.float64),
        maps=maps,
        losses=said_if_any(group["maps"]).get("completeness") or {},
        trials=said_if_any(group["maps"]).get("trials") or [],
        defects=found.defects.filter(mine),
        columns=columns.filter(pl.col("image_id") == name),
        said=found.statements.filter(pl.col("image_id") == name),
        marks=[marks for marks, own in zip(found.marks, mine, strict=True) if own],
    )


# ---------------------------------------------------------------- pictures


def write_raw(image: Image, folder: Path) -> tuple[Row, pictures.Bytes]:
    """Tiles and thumbnail of the raw image; how its counts became gray, and the image in that gray for a figure."""
    low, high = pictures.display_range(image.raw)
    writer = pictures.LayerWriter(folder / "raw", lambda x: (pictures.to_bytes(x, low, high), None), TILE_PX, None)
    layer, levels = writer.write(bands(image.raw), image.raw.shape)
    first = next(view for view in levels if view.size)  # those of a huge image are not kept
    small = next(view for view in reversed(levels) if min(view.shape) >= 96 or view is first)
    pictures.thumbnail(small).convert("RGB").save(folder / "thumbnail.webp", "WEBP", quality=35, method=6)
    grays = pictures.percentiles(levels[min(2, len(levels) - 1)])
    shown = vars(layer) | {"low": low, "high": high, "percentiles": grays}
    return shown, next(view for view in reversed(levels) if max(view.shape) >= FIGURE_PX or view is first)


def write_maps(image: Image, folder: Path) -> dict[str, Row]:
    """Tiles of the signed maps in the raw frame."""
    found = {}
    for key, values in image.maps.items():
        if key == "prediction":
            continue
        limit = map_limit(pictures.display_range(values, *MAP_PERCENTILES), 8.0 if key == "z" else 0.2)
        # a strong defect must not take the few gray levels away from all that is shown in the beginning
        limit, start = (min(limit, 4 * SHOWN_Z), SHOWN_Z) if key == "z" else (limit, limit / 2)
        writer = pictures.LayerWriter(folder / key, partial(pictures.signed_bytes, limit=limit), TILE_PX, MAP_QUALITY)
        layer, _ = writer.write(bands(values), values.shape)
        found[key] = vars(layer) | {"limit": limit, "start": start}
    return found


def write_prediction(image: Image, raw: Row, folder: Path) -> Row | None:
    """Tiles of the prediction in the raw frame, in the raw image's gray; see-through where nothing was predicted."""
    values = image.maps.get("prediction")
    if values is None:
        return None
    known = (np.where(band > 0, band, np.nan) for band in bands(values))
    view = partial(pictures.covered_bytes, low=raw["low"], high=raw["high"])
    return vars(pictures.LayerWriter(folder / "prediction", view, TILE_PX, 82).write(known, values.shape)[0])


def map_limit(between: tuple[float, float], least: float) -> float:
    """Half range of a signed map that lies `between`: rounded up to two digits, at least `least`."""
    reach = max(abs(between[0]), abs(between[1]), least)
    step = 10.0 ** (math.floor(math.log10(reach)) - 1)
    return round(math.ceil(reach / step - 1e-9) * step, 12)


def write_crops(image: Image, folder: Path) -> Row | None:
    """Sheets of crops, a row per defect, and their scales; None where there is nothing to crop."""
    if image.tiles is None or image.prediction is None or image.nodes_px is None:
        return None
    if not image.defects.height:
        return None
    places = image.defects.select("row_px", "col_px").to_numpy()
    uv = outlines.lattice_place(image.nodes_px, places) * CELL_PX
    side = CROP_CELLS * CELL_PX
    inside = Spread(image.mask, image.tiles.shape)
    step = pictures.sample_step(image.tiles.shape)
    some = inside.every(step)
    seen, predicted = (every(frame, step)[some] for frame in (image.tiles, image.prediction))
    low, high = pictures.range_of(seen, 0.5, 99.5)
    limit = map_limit(pictures.range_of(seen - predicted, *MAP_PERCENTILES), 0.2)
    for start in range(0, len(uv), CROPS_PER_SHEET):
        seen, predicted, where = (
            np.stack([pictures.crop(frame, u, v, side) for u, v in uv[start : start + CROPS_PER_SHEET]])
            for frame in (image.tiles, image.prediction, inside)
        )
        seen[seen == 0] = np.nan
        predicted[where != 1] = np.nan
        view = pictures.sheet(np.stack([seen, predicted, seen - predicted], axis=1), low, high, limit)
        pictures.save_lossy(view, folder / f"crops_{start // CROPS_PER_SHEET}.jpg", 88)
    return {
        "src": f"{folder.name}/crops_",
        "per_sheet": CROPS_PER_SHEET,
        "number": len(uv),
        "cells": CROP_CELLS,
        "side": side,
        "low": low,
        "high": high,
        "limit": limit,
        "scale_text": f"{CROP_CELLS} × {CROP_CELLS} cells; gray {n.fixed(low, 2)} to {n.fixed(high, 2)} and colour "
        f"{n.MINUS}{n.significant(limit, 2)} to +{n.significant(limit, 2)} of the local mean",
    }


class Spread:
    """The mask of cells (U, V) as one of pixels (U * 20, V * 20), made window by window."""

    def __init__(self, mask: npt.NDArray[np.bool_] | None, shape: tuple[int, ...]) -> None:
        self.shape, self._mask = shape, mask

    def __getitem__(self, window: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
        rows, cols = (np.arange(*s.indices(n)) // CELL_PX for s, n in zip(window, self.shape, strict=True))
        if self._mask is None:
            return np.ones((len(rows), len(cols)), dtype=bool)
        return self._mask[rows[:, None], cols]

    def every(self, step: int) -> npt.NDArray[np.bool_]:
        """Every `step`-th row and column."""
        return self[::step, ::step]


def write_cells(image: Image, folder: Path) -> Row | None:
    """Pictures of the median cell, seen and predicted, two cells wide, the cell in their middle; None without them."""
    if image.tiles is None or image.prediction is None or image.mask is None or not image.mask.any():
        return None
    cells = [pictures.median_cell(frame, image.mask, CELL_PX) for frame in (image.tiles, image.prediction)]
    low, high = float(min(c.min() for c in cells)), float(max(c.max() for c in cells))
    difference = cells[0] - cells[1]
    limit = max(float(np.abs(difference).max()), 1e-6)
    high = high if high > low else low + 1
    sites = site_places(image)
    views = [pictures.to_bytes(cell, low, high) for cell in cells]
    for name, view in zip(("seen", "predicted"), views, strict=True):
        pictures.save_webp(_around(view), folder / f"cell_{name}.webp")
    pictures.save_webp(_around(pictures.coloured(difference, limit)), folder / "cell_difference.webp")
    return {
        "src": f"{folder.name}/cell_",
        "low": low,
        "high": high,
        "limit": limit,
        "largest_text": f"{n.percent(limit, 1)} of the local mean",
        "range_text": f"{n.fixed(low, 2)} to {n.fixed(high, 2)} of the local mean",
        "sites": sites,
        "labels": [
            {"site": s["site"], "x": round(84 * (s["v"] + 0.5)), "y": round(84 * (s["u"] + 0.5)) + 5} for s in sites
        ],
    }


def _around(cell: pictures.Bytes) -> pictures.Bytes:
    """The cell repeated to 2 x 2 cells, its corner in the middle."""
    tiled = np.tile(cell, (2, 2) + (1,) * (cell.ndim - 2))
    return np.asarray(np.roll(tiled, (CELL_PX // 2, CELL_PX // 2), axis=(0, 1)))


def site_places(image: Image) -> list[Row]:
    """Name of each tested site and its mean place in the cell, as fractions of a and b."""
    if image.nodes_px is None or not image.columns.height:
        return []
    found = []
    for site in sorted(set(image.columns["site"].drop_nulls())):
        rows = image.columns.filter(pl.col("site") == site)
        uv = outlines.lattice_place(image.nodes_px, rows.select("row_px", "col_px").to_numpy().astype(np.float64))
        turn = np.exp(2j * np.pi * uv).mean(axis=0)
        place = np.angle(turn) / (2 * np.pi)
        found.append({"site": site, "u": round(float(place[0]) % 1, 3) % 1, "v": round(float(place[1]) % 1, 3) % 1})
    return found


# ---------------------------------------------------------------- page


def _histograms(image: Image, settings: dict[str, Any]) -> Row:
    row = image.row
    found: Row = {}
    if not image.columns.height:
        return found
    if n.usable(row["published_mean"]) and n.usable(row["published_std"]):
        anm = image.columns["anm"].to_numpy().astype(np.float64)
        found["anm"] = plots.published_histogram(
            anm, row["published_mean"], row["published_std"], settings["published_band_std"]
        )
    key = ["cell_u", "cell_v", "site"]
    marked = image.defects.select(key).with_columns(flagged=pl.lit(True)).unique(key)
    flagged = image.columns.join(marked, on=key, how="left", maintain_order="left")["flagged"].fill_null(False)
    z = image.columns["z"].to_numpy().astype(np.float64)
    found["z"] = plots.z_histogram(z, flagged.to_numpy())
    return found


def said_of_image(image: Image) -> Row:
    """What people said of the image as a whole, and the regions they excluded."""
    rows = image.said.to_dicts()
    regions = [row for row in rows if row["what"] == "region"]
    return {
        "unusable": [[row["reviewer"], row["at"]] for row in rows if row["what"] == "image"],
        "regions": [[row["reviewer"], json.loads(row["corners_px"]), row["at"]] for row in regions],
        "notes": [[row["reviewer"], row["note"], row["at"]] for row in rows if row["what"] == "note"],
    }


def viewer_data(image: Image, raw: Row, prediction: Row | None, maps: dict[str, Row], crops: Row | None) -> Row:
    """What the viewer and the list of defects draw."""
    pixel, ruler = image_facts.pixel_size_nm(image)
    data: Row = {
        "image_id": image.row["image_id"],
        "rows": image.raw.shape[0],
        "cols": image.raw.shape[1],
        "pixel_nm": pixel,
        "ruler": ruler,
        "path": image.row["path"],
        "raw": raw,
        "prediction": prediction,
        "maps": maps,
        "colours": pictures.DIVERGING.tolist(),
        "kinds": KINDS,
        "outlines": None,
        "nodes": None,
        "crops": crops,
        "defects": image_facts.defect_columns(image),
        "columns": image_facts.column_values(image),
        "said": said_of_image(image),
    }
    if image.nodes_px is not None and image.mask is not None:
        loops = outlines.outlines(image.mask, image.nodes_px)
        data["outlines"] = [[int(round(10 * x)) for point in loop for x in point] for loop in loops]
    if image.nodes_px is not None:
        u, v, places = outlines.coarse_nodes(image.nodes_px)
        tenths = np.rint(10 * places).astype(int)
        data["nodes"] = {"u": u, "v": v, "row": tenths[0].ravel().tolist(), "col": tenths[1].ravel().tolist()}
    return data


def _kind_rows(found: list[Row]) -> list[Row]:
    rows = []
    for row in found:
        density, between = n.interval(row["density_per_nm2"], row["ci_low"], row["ci_high"])
        rows.append(row | {"number_text": n.count(row["number"]), "density": density, "interval": between})
    return rows


def write_exports(
    image: Image, view: pictures.Bytes, pixel_nm: tuple[float, float] | None, shard: str, folder: Path
) -> Row:
    """GeoJSON and figures of an image, seen as `view`, beside its page; what its page says of them."""
    name = str(image.row["image_id"])
    stem = folder / name / "figure"
    text = json_lines(exports.geojson(name, image.defects, pixel_nm))
    (folder / f"{name}.geojson").write_text(text, encoding="ascii")
    files = [
        ("defects, CSV", f"{name}.defects.csv"),
        ("defects, GeoJSON", f"{name}.geojson"),
        ("every number, JSON", f"{name}.json"),
    ]
    if image.row["state"] == "analysed":
        exports.save_figure(view, exports.defect_figure(image.raw.shape, image.defects, pixel_nm), stem)
        files += [(f"figure, {end.upper()}", f"{name}/figure.{end}") for end in ("svg", "png")]
    places = f"results/1_images/{shard}.zarr/{name}"
    if image.maps:
        places += f" and results/4_defects/{shard}.zarr/{name}"
    return {"files": files, "snippet": exports.snippet(name), "zarr": places}


def layers_of(image: Image, maps: dict[str, Row], prediction: Row | None) -> list[Row]:
    """The layers the viewer can show of an image, in the order in which they lie on each other."""
    lattice = image.nodes_px is not None
    analysed = image.row["state"] == "analysed"
    found = [
        ("raw", "Raw", "R", True, 100, True),
        ("prediction", "Prediction", "B", False, 100, prediction is not None),
        ("difference", "Difference", "D", False, 100, "difference" in maps),
        ("z", "z map", "Z", False, 100, "z" in maps),
        ("cells", "Lattice", "L", False, 80, lattice),
        ("mask", "Mask", "K", analysed, 80, lattice and image.mask is not None),
        ("marks", "Defects", "M", True, 100, image.defects.height > 0),
    ]
    keys = ("key", "label", "hot", "on", "fade")
    return [dict(zip(keys, layer, strict=False)) for layer in found if layer[-1]]


def write_page(image: Image, statistics: Row, shard: str, folder: Path, settings: dict[str, Any]) -> None:
    """Write the page, the pictures, the JSON and the CSV of one image into `folder`."""
    row = image.row
    name = str(row["image_id"])
    beside = folder / name
    beside.mkdir()
    raw, view = write_raw(image, beside)
    maps = write_maps(image, beside)
    prediction = write_prediction(image, raw, beside)
    crops, cells = write_crops(image, beside), write_cells(image, beside)
    points = image.defects.filter(pl.col("kind") != "extended")
    by_kind = image_facts.densities([str(k or "unknown") for k in points["kind"]], row["area_nm2"])
    by_site = image_facts.densities([str(s) for s in points["site"] if s], row["area_nm2"])
    histograms = _histograms(image, settings)
    todo, lines = image_facts.advice(image, settings["config"]["models"]), image_facts.provenance(image, shard)
    pixel, ruler = image_facts.pixel_size_nm(image)
    twin = {
        "image": row,
        "warnings": image_facts.warnings_of(image),
        "source": image.source,
        "lattice": image.lattice,
        "model": image.model,
        "ruler": {"pixel_nm": pixel, "from": ruler},
        "expected_false": row["defects"] * row["fdr"] if row["defects"] is not None and n.usable(row["fdr"]) else None,
        "density_by_kind": by_kind,
        "density_by_site": by_site,
        "sites": cells["sites"] if cells else [],
        "completeness": image.losses,
        "trials": image.trials,
        "histograms": histograms,
        "statistics": statistics,
        "review": image_facts.review_facts(image),
        "display": {"raw": raw, "prediction": prediction, "maps": maps, "crops": crops, "cells": cells},
        "defects": image.defects.to_dicts(),
        "provenance": {"shard": shard, "versions": versions(), "config": settings["config"]},
    }
    (folder / f"{name}.json").write_text(json_lines(twin), encoding="ascii")
    write_csv(image.defects, folder / f"{name}.defects.csv")
    taken = write_exports(image, view, pixel, shard, folder)
    page = render(
        "image.html.j2",
        ("dom.js", "viewer.js", "review.js", "gallery.js", "image.js"),
        viewer_data(image, raw, prediction, maps, crops),
        title=image_facts.title(row),
        folder=image_facts.file_name(row)[0],
        row=row,
        name=name,
        state=image_facts.STATES[row["state"]],
        figures=image_facts.key_figures(row) if row["state"] == "analysed" else [],
        warnings=image_facts.warnings_of(image),
        reason=image_facts.sentence(row["reason"]) if row["state"] != "analysed" else "",
        advice=todo,
        ruler=ruler,
        has_pixel=pixel is not None,
        maps=maps,
        layers=layers_of(image, maps, prediction),
        review=image_facts.review_facts(image),
        crops=crops,
        cells=cells,
        kinds=KINDS,
        kind_rows=_kind_rows(by_kind),
        site_rows=_kind_rows(by_site),
        extended=n.count(image.defects.height - points.height) if image.defects.height > points.height else "",
        histograms=histograms,
        published=plots.published_plot(histograms["anm"]) if "anm" in histograms else None,
        z=plots.z_plot(histograms["z"]) if "z" in histograms else None,
        completeness=plots.completeness_plot(image.losses) if image.losses else None,
        trial_rows=image_facts.trial_table(image.trials),
        trial_note=image_facts.trial_note(image.trials) if image.trials else "",
        statistics=image_view(statistics, (image.raw.shape[0], image.raw.shape[1]), pixel),
        exports=taken,
        texts=_texts(image, histograms),
        lattice=image_facts.lattice_table(image),
        quality=image_facts.quality_table(image),
        provenance=lines,
        versions=versions(),
        config=yaml.safe_dump(settings["config"], sort_keys=True, allow_unicode=True),
        metadata=json_indented(image.source.get("original_metadata", {})),
        flagged=n.count(image.defects.height),
    )
    (folder / f"{name}.html").write_bytes(page)


def _texts(image: Image, histograms: Row) -> Row:
    """Numbers that stand inside sentences."""
    row = image.row
    found = {
        "size": f"{n.count(image.raw.shape[0])} × {n.count(image.raw.shape[1])} px",
        "fdr": n.percent(row["fdr"]) if n.usable(row["fdr"]) else n.NONE,
        "flagged": n.count(row["defects"]),
        "tested": n.count(row["columns_tested"]),
    }
    if "anm" in histograms:
        anm = histograms["anm"]
        share = row["published_flagged"] / row["columns_tested"] if row["columns_tested"] else None
        found |= {
            "normal_share": n.percent(math.erfc(anm["band_std"] / math.sqrt(2)), 1),
            "band_std": n.significant(anm["band_std"], 2),
            "mean": n.fixed(anm["mean"], n.decimals_for(anm["std"])),
            "std": n.fixed(anm["std"], n.decimals_for(anm["std"])),
            "zeros": n.count(anm["zeros"]) if anm["zeros"] else "",
            "published_flagged": n.count(row["published_flagged"]),
            "published_share": n.percent(share, 1),
        }
    if "z" in histograms:
        found["beyond"] = n.count(histograms["z"]["beyond"]) if histograms["z"]["beyond"] else ""
        found["marked"] = n.count(sum(histograms["z"]["flagged"]))
        found["z_reach"] = n.significant(histograms["z"]["edges"][-1], 2)
    return found


def write_page_of(
    image: Callable[[], Image], statistics: Row, shard: str, folder: Path, settings: dict[str, Any]
) -> None:
    """`write_page` of an image that has still to be loaded."""
    write_page(image(), statistics, shard, folder, settings)


def write_failure(row: Row, words: str, folder: Path) -> None:
    """Write a page that says why there is none; what was written of the page goes."""
    name = str(row["image_id"])
    shutil.rmtree(folder / name, ignore_errors=True)
    for beside in folder.glob(f"{name}.*"):
        beside.unlink()
    page = render("failed.html.j2", (), {}, title=image_facts.title(row), name=name, words=words, versions=versions())
    (folder / f"{name}.html").write_bytes(page)


def places_of(columns: pl.DataFrame, image_id: str) -> npt.NDArray[np.float64]:
    """Places (n, 2) [px] of the tested columns of an image."""
    return columns.filter(pl.col("image_id") == image_id).select("row_px", "col_px").to_numpy().astype(np.float64)


def main(
    images_zarr: str | Path,
    tiles_zarr: str | Path,
    differences_zarr: str | Path,
    maps_zarr: str | Path,
    defects: str | Path,
    images: str | Path,
    columns: str | Path,
    statistics: str | Path,
    reviews_json: str | Path,
    out_dir: str | Path,
    settings: dict[str, Any],
    watch: Watch | None = None,
) -> None:
    """Write the pages of one shard into `out_dir`.

    Parameters
    ----------
    images_zarr, tiles_zarr, differences_zarr, maps_zarr : path
        The shard's zarr stores.
    defects, images, columns : path
        The shard's Parquet tables.
    statistics : path
        The shard's statistics, by image.
    reviews_json : path
        What people said of images of the shard, see `oddlattice.archive.review_files`.
    out_dir : path
        Written whole: <image_id>.html, .json, .defects.csv, .geojson and folder <image_id> of each image that was read.
    settings : dict
        ``published_band_std``: half width of the published rule's band [std]; ``config``: the merged configuration,
        shown as it is.
    watch : Watch, optional
        Of a process that is watched.
    """
    watch = watch or Watch()
    paths = {"images": images_zarr, "tiles": tiles_zarr, "differences": differences_zarr, "maps": maps_zarr}
    stores = {key: zarr.open_group(str(path), mode="r") for key, path in paths.items()}
    tested = pl.read_parquet(columns)
    said = json.loads(Path(reviews_json).read_text(encoding="ascii"))["statements"]
    found = lay_on(pl.read_parquet(defects), pl.read_parquet(images), partial(places_of, tested), said)
    rows = [row for row in found.images.iter_rows(named=True) if row["state"] != "rejected"]
    measured = ByImage(statistics)
    with whole_directory(out_dir) as part:
        for row in rows:
            name, image = row["image_id"], partial(load_image, row, stores, found, tested)
            given = (image, measured.get(name), Path(out_dir).name, part, settings)
            _, fault = watch.spared(name, write_page_of, *given)
            if fault is not None:
                print(fault.trace)
                write_failure(row, fault.words, part)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    log_to(snakemake.log[0])
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        snakemake.input.maps_zarr,
        snakemake.input.defects,
        snakemake.input.images,
        snakemake.input.columns,
        snakemake.input.statistics,
        snakemake.input.reviews_json,
        snakemake.output.pages,
        dict(snakemake.params.settings),
        go_on_watched(),
    )
