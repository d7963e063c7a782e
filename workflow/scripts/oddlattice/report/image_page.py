"""The page of one image, its pictures beside it, and every number on it as JSON and CSV."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from oddlattice.defects.kinds import KINDS
from oddlattice.report import exports, grains, image_facts, plots
from oddlattice.report import numbers as n
from oddlattice.report.advice import advice
from oddlattice.report.cell_pictures import write_cells, write_crops
from oddlattice.report.grain_geojson import grain_geojson
from oddlattice.report.images import Image
from oddlattice.report.layers import write_maps, write_prediction, write_raw
from oddlattice.report.pages import render, write_failed
from oddlattice.report.statistics import image_view
from oddlattice.report.strain_view import SHOWN, strain_rows
from oddlattice.report.viewer_data import layers_of, viewer_data
from oddlattice.run.settings import versions
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.storage.json_text import json_indented, json_lines, shortened
from oddlattice.storage.products import COLUMN_KEY, write_csv
from oddlattice.storage.rows import Row

SCRIPTS = ("dom.js", "viewer.js", "review.js", "gallery.js", "image.js")


@dataclass(frozen=True)
class Display:
    """The pictures beside a page: where they lie and on what scale they are drawn; None for one that there is not."""

    raw: Row
    maps: dict[str, Row]
    prediction: Row | None
    crops: Row | None
    cells: Row | None


def write_pictures(image: Image, folder: Path) -> Display:
    """Write the pictures of an image into `folder`."""
    raw = write_raw(image, folder)
    maps, prediction = write_maps(image, folder), write_prediction(image, raw, folder)
    return Display(raw, maps, prediction, write_crops(image, folder), write_cells(image, folder))


def write_page(image: Image, statistics: Row, shard: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Write the page, the pictures, the JSON and the CSV of one image into `folder`.

    Parameters
    ----------
    statistics : dict
        Of this image; empty without.
    config : mapping
        The sections of the merged configuration that shape results.
    """
    name = str(image.row["image_id"])
    (folder / name).mkdir()
    display = write_pictures(image, folder / name)
    histograms = _histograms(image, DefectSettings.of(config["defects"]).published_band_std)
    numbers = page_numbers(image, statistics, display, histograms)
    provenance = {"shard": shard, "versions": versions(), "config": config}
    (folder / f"{name}.json").write_text(json_lines(numbers | {"provenance": provenance}), encoding="ascii")
    write_csv(image.defects, folder / f"{name}.defects.csv")
    pixel_nm, _ = image_facts.pixel_size_nm(image)
    page = render(
        "image.html.j2",
        SCRIPTS,
        viewer_data(image, display.raw, display.prediction, display.maps, display.crops, statistics),
        exports=write_exports(image, pixel_nm, shard, folder),
        advice=advice(image, config["models"]),
        provenance=image_facts.provenance(image, shard),
        config=yaml.safe_dump(config, sort_keys=True, allow_unicode=True),
        versions=versions(),
        series=_series_address(name, config),
        **_head(image, numbers),
        **_viewer(image, display, numbers["kinds"], statistics),
        **_results(image, numbers),
    )
    (folder / f"{name}.html").write_bytes(page)


def _series_address(name: str, config: Mapping[str, Any]) -> str:
    """Address of the page of the stack that an image is a frame of; "" where it is none, or none is followed."""
    series = image_facts.series_name(name)
    return f"{series}.html" if series and config["read"]["frames"] == "series" else ""


def page_numbers(image: Image, statistics: Row, display: Display, histograms: Row) -> Row:
    """Every number that the page shows, as it lies beside the page."""
    row = image.row
    pixel_nm, ruler = image_facts.pixel_size_nm(image)
    return {
        "image": row,
        "warnings": image_facts.warnings_of(image),
        "source": image.source,
        "lattice": image.lattice,
        "model": image.model,
        "ruler": {"pixel_nm": pixel_nm, "from": ruler},
        "kinds": dict(Counter(str(kind or "unknown") for kind in image.defects["kind"]).most_common()),
        "sites": display.cells["sites"] if display.cells else [],
        "grains": image.grains,
        "boundaries": image.boundaries,
        "completeness": image.losses,
        "trials": image.trials,
        "histograms": histograms,
        "statistics": shortened(statistics),
        "review": image_facts.review_facts(image),
        "display": vars(display),
        "defects": image.defects.to_dicts(),
    }


def _head(image: Image, numbers: Row) -> Row:
    """What stands above the viewer."""
    row = image.row
    analysed = row["state"] == "analysed"
    return {
        "title": image_facts.title(row),
        "folder": image_facts.file_name(row)[0],
        "row": row,
        "name": str(row["image_id"]),
        "state": image_facts.STATES[row["state"]],
        "figures": image_facts.key_figures(row, int(image.defects["in_region"].sum())) if analysed else [],
        "warnings": numbers["warnings"],
        "reason": "" if analysed else image_facts.sentence(row["reason"]),
        "ruler": numbers["ruler"]["from"],
        "has_pixel": numbers["ruler"]["pixel_nm"] is not None,
        "texts": _texts(image, numbers["histograms"]),
    }


def _viewer(image: Image, display: Display, kinds: dict[str, int], statistics: Row) -> Row:
    """What the viewer's controls and the list of defects are made from."""
    return {
        "maps": display.maps,
        "layers": layers_of(image, display.maps, display.prediction, bool(strain_rows(statistics))),
        "strain_parts": {name: label for name, (label, _, _) in SHOWN.items()},
        "crops": display.crops,
        "cells": display.cells,
        "kinds": KINDS,
        "found_kinds": [(kind, n.count(number)) for kind, number in kinds.items()],
        "found_sites": sorted({str(site) for site in image.defects["site"] if site}),
        "flagged": n.count(image.defects.height),
        "review": image_facts.review_facts(image),
    }


def _results(image: Image, numbers: Row) -> Row:
    """What stands below the viewer: tables and plots."""
    histograms = numbers["histograms"]
    shape = (image.raw.shape[0], image.raw.shape[1])
    return {
        "histograms": histograms,
        "published": plots.published_plot(histograms["anm"]) if "anm" in histograms else None,
        "z": plots.z_plot(histograms["z"]) if "z" in histograms else None,
        "completeness": plots.completeness_plot(image.losses) if image.losses else None,
        "trial_rows": image_facts.trial_table(image.trials),
        "trial_note": image_facts.trial_note(image.trials) if image.trials else "",
        "statistics": image_view(numbers["statistics"], shape, numbers["ruler"]["pixel_nm"]),
        "grains": grains.grain_lines(image),
        "strain_rows": strain_rows(numbers["statistics"]),
        "boundaries": grains.boundary_lines(image),
        "lattice": image_facts.lattice_table(image),
        "edges": image_facts.edge_table(image),
        "quality": image_facts.quality_table(image),
        "metadata": json_indented(image.source.get("original_metadata", {})),
    }


def write_exports(image: Image, pixel_nm: tuple[float, float] | None, shard: str, folder: Path) -> Row:
    """GeoJSON of an image beside its page; what its page says of all that can be taken along."""
    name = str(image.row["image_id"])
    text = json_lines(exports.geojson(name, image.defects, pixel_nm))
    (folder / f"{name}.geojson").write_text(text, encoding="ascii")
    around = grain_geojson(name, image.grains, image.boundaries)
    if around["features"]:
        (folder / f"{name}.grains.geojson").write_text(json_lines(around), encoding="ascii")
    files = [
        ("defects, CSV", f"{name}.defects.csv"),
        ("defects, GeoJSON", f"{name}.geojson"),
        ("every number, JSON", f"{name}.json"),
    ]
    if around["features"]:
        files.append(("grains and boundaries, GeoJSON", f"{name}.grains.geojson"))
    places = f"results/1_images/{shard}.zarr/{name}"
    if image.maps:
        places += f" and results/4_defects/{shard}.zarr/{name}"
    return {"files": files, "snippet": exports.snippet(name), "zarr": places}


def _histograms(image: Image, band_std: float) -> Row:
    row = image.row
    found: Row = {}
    tested = image.columns.filter(pl.col("z").is_not_null())
    if not tested.height:
        return found
    if n.usable(row["published_mean"]) and n.usable(row["published_std"]):
        anm = tested["anm"].to_numpy().astype(np.float64)
        found["anm"] = plots.published_histogram(anm, row["published_mean"], row["published_std"], band_std)
    key = list(COLUMN_KEY)
    marked = image.defects.select(key).drop_nulls().with_columns(flagged=pl.lit(True)).unique(key)
    flagged = tested.join(marked, on=key, how="left", maintain_order="left")["flagged"].fill_null(False)
    z = tested["z"].to_numpy().astype(np.float64)
    found["z"] = plots.z_histogram(z, flagged.to_numpy())
    return found


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
            "none_scores": histograms["anm"]["zeros"] == sum(histograms["anm"]["counts"]),
            "published_flagged": n.count(row["published_flagged"]),
            "published_share": n.percent(share, 1),
        }
    if "z" in histograms:
        found["beyond"] = n.count(histograms["z"]["beyond"]) if histograms["z"]["beyond"] else ""
        found["marked"] = n.count(sum(histograms["z"]["flagged"]))
        found["z_reach"] = n.significant(histograms["z"]["edges"][-1], 2)
    return found


def write_page_of(
    image: Callable[[], Image], statistics: Row, shard: str, folder: Path, config: Mapping[str, Any]
) -> None:
    """`write_page` of an image that has still to be loaded."""
    write_page(image(), statistics, shard, folder, config)


def write_failure(row: Row, words: str, folder: Path) -> None:
    """Write a page that says why an image has none."""
    write_failed(str(row["image_id"]), image_facts.title(row), words, folder)
