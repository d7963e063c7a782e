"""The gallery: every listed defect of the archive as a card, with its crops from the pages' sheets."""

from typing import Any

import polars as pl

from oddlattice.defects.kinds import KINDS, kind_of
from oddlattice.report import numbers as n
from oddlattice.report.cell_pictures import CROPS_PER_SHEET
from oddlattice.report.pages import render
from oddlattice.storage.rows import Row

VERDICTS = ("", "confirmed", "rejected", "other", "conflict")


def in_page_order(defects: pl.DataFrame) -> pl.DataFrame:
    """Defects in the order in which pages and gathered tables list them, so that a number finds its crop."""
    return defects.sort(["image_id", "p_value", "row_px", "col_px"], nulls_last=True)


def gallery_data(defects: pl.DataFrame, images: pl.DataFrame, pages: dict[str, str]) -> Row:
    """What the gallery draws: images that have a page, and defects, as columns; of a stack each track once.

    Parameters
    ----------
    defects, images : polars.DataFrame
        The gathered tables.
    pages : dict of str to str
        Address of each image's page.
    """
    defects = defects.filter(~pl.col("again").fill_null(False)) if "again" in defects.columns else defects
    listed = images.filter(
        pl.col("image_id").is_in(list(pages)) & pl.col("image_id").is_in(defects["image_id"].implode())
    )
    number = {name: k for k, name in enumerate(listed["image_id"])}
    shown = in_page_order(defects).filter(pl.col("image_id").is_in(list(number)))
    kinds, sites = list(KINDS), sorted(set(shown["site"].drop_nulls()))
    return {
        "images": {
            "id": listed["image_id"].to_list(),
            "page": [pages[name] for name in listed["image_id"]],
            "path": listed["path"].to_list(),
            "model": listed["model"].fill_null("").to_list(),
            "scan_id": listed["scan_id"].fill_null("").to_list(),
        },
        "defects": {
            "image": [number[name] for name in shown["image_id"]],
            "at": shown["page_row"].fill_null(-1).to_list(),
            "kind": [kinds.index(kind_of(kind)) for kind in shown["kind"]],
            "site": [sites.index(site) if site in sites else -1 for site in shown["site"]],
            "review": [VERDICTS.index(said) if said in VERDICTS else 0 for said in shown["review"].fill_null("")],
            "grain": _column(shown, "grain", 0),
            "z": _column(shown, "z", 2),
            "probability": _column(shown, "probability_real", 3),
            "change": _column(shown, "intensity_change", 3),
            "row": _column(shown, "row_px", 5),
            "col": _column(shown, "col_px", 5),
            "cell_u": _column(shown, "cell_u", 0),
            "cell_v": _column(shown, "cell_v", 0),
        },
        "kinds": {name: {"colour": kind.colour, "path": kind.path} for name, kind in KINDS.items()},
        "sites": sites,
        "verdicts": VERDICTS,
        "per_sheet": CROPS_PER_SHEET,
    }


def _column(defects: pl.DataFrame, name: str, decimals: int) -> list[Any]:
    """Values to so many decimals, None where there is none."""
    if name not in defects.columns:
        return [None] * defects.height
    values = defects[name]
    return (values.fill_nan(None).round(decimals) if values.dtype.is_float() else values).to_list()


def gallery_page(data: Row, versions: dict[str, str]) -> bytes:
    """The gallery as a page."""
    scripts = ("dom.js", "review.js", "all_defects.js")
    return render(
        "gallery.html.j2", scripts, data, kinds=KINDS, versions=versions, number=n.count(len(data["defects"]["at"]))
    )
