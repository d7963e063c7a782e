"""The page of one image, its pictures beside it, and every number on it as JSON and CSV."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from oddlattice.defects.kinds import KINDS
from oddlattice.report import exports, image_facts, pictures, plots
from oddlattice.report import numbers as n
from oddlattice.report.advice import advice
from oddlattice.report.cell_pictures import write_cells, write_crops
from oddlattice.report.images import Image
from oddlattice.report.layers import write_maps, write_prediction, write_raw
from oddlattice.report.pages import render
from oddlattice.report.statistics import image_view
from oddlattice.report.viewer_data import layers_of, viewer_data
from oddlattice.run.settings import versions
from oddlattice.storage.json_text import json_indented, json_lines
from oddlattice.storage.products import write_csv
from oddlattice.storage.rows import Row


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
    todo, lines = advice(image, settings["config"]["models"]), image_facts.provenance(image, shard)
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


def _kind_rows(found: list[Row]) -> list[Row]:
    rows = []
    for row in found:
        density, between = n.interval(row["density_per_nm2"], row["ci_low"], row["ci_high"])
        rows.append(row | {"number_text": n.count(row["number"]), "density": density, "interval": between})
    return rows


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
