"""What `oddlattice export` writes: tables, or a file an image and grain for another program."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from oddlattice.command.places import Mistake
from oddlattice.report.exports import geojson
from oddlattice.report.grain_geojson import grain_geojson
from oddlattice.report.one_file import one_file
from oddlattice.report.structures import STRUCTURES, neighbourhoods
from oddlattice.results import ResultImage, Results
from oddlattice.storage.atomic import write_text
from oddlattice.storage.omezarr import computed
from oddlattice.storage.products import write_csv

if TYPE_CHECKING:
    from ase import Atoms

FORMATS = ("html", "csv", "geojson", "strain", "figure", *STRUCTURES)


def export(
    results: Results,
    kind: str,
    folder: Path,
    chosen: Sequence[str] = (),
    elements: Mapping[str, str] | None = None,
    around_nm: float | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write the analysed images of a run, or those chosen by id, in one format into a folder.

    Parameters
    ----------
    results : Results
    kind : str
        One of `FORMATS`.
    folder : Path
    chosen : sequence of str
    elements : mapping of str to str, optional
        Element of a site, for structures.
    around_nm : float, optional
        Of structures: what lies so near to each listed defect, in place of all that the image holds.
    say : callable
        Takes a sentence for each image that is left out.

    Returns
    -------
    list of Path

    Raises
    ------
    Mistake
        If a chosen image is not among those analysed.
    """
    analysed = results.images.filter(pl.col("state") == "analysed")["image_id"].to_list()
    unknown = [name for name in chosen if name not in set(analysed)]
    if unknown:
        raise Mistake(f"--image {unknown[0]}: found no such image that was analysed; 4_defects/images.csv lists them")
    names = [name for name in analysed if name in set(chosen)] if chosen else analysed
    written = _tables(results, names, folder) if kind == "csv" else []
    for name in names:
        image = results[name]
        try:
            written += _one(image, kind, folder, elements or {}, around_nm)
        except ValueError as error:
            say(f"{error}; left out")
    return written


def _tables(results: Results, names: Sequence[str], folder: Path) -> list[Path]:
    """The tables of images, defects, grains and boundaries, of the images of these names."""
    paths = []
    tables = {"images": results.images, "defects": results.defects}
    tables |= {"grains": results.grains, "boundaries": results.boundaries}
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        write_csv(table.filter(pl.col("image_id").is_in(list(names))), paths[-1])
    return paths


def _one(
    image: ResultImage, kind: str, folder: Path, elements: Mapping[str, str], around_nm: float | None
) -> list[Path]:
    """The files of an image; ValueError where it has no pixel size and the format needs one."""
    if kind == "csv":
        path = folder / f"columns/{image.image_id}.csv"
        write_csv(image.column_table, path)
        return [path]
    if kind == "html":
        page = image.results.path / f"5_report/{image.shard}/{image.image_id}.html"
        write_text(folder / page.name, one_file(page))
        return [folder / page.name]
    if kind == "geojson":
        path = folder / f"{image.image_id}.geojson"
        found = geojson(image.image_id, image.defects, image.pixel_nm)
        write_text(path, json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")
        return [path, *_grains(image, folder)]
    if kind == "strain":
        image.write_strain(folder / f"{image.image_id}.zarr")
        return [folder / f"{image.image_id}.zarr"]
    if kind == "figure":
        return _figure(image, folder / image.image_id)
    text_of, end = STRUCTURES[kind]
    paths = []
    for name, atoms in _structures(image, elements, around_nm):
        paths.append(folder / f"{name}{end}")
        write_text(paths[-1], text_of(atoms))
    return paths


def _grains(image: ResultImage, folder: Path) -> list[Path]:
    """Grains and boundaries of an image that has several, or faults."""
    found = grain_geojson(image.image_id, image.grains.to_dicts(), image.boundaries.to_dicts())
    if not found["features"]:
        return []
    path = folder / f"{image.image_id}.grains.geojson"
    write_text(path, json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n")
    return [path]


def _figure(image: ResultImage, stem: Path) -> list[Path]:
    """The image with its defects and a scale bar, as SVG and PNG."""
    from oddlattice.report.figures import defect_figure, figure_view, save_figure  # here, not above: brings matplotlib

    raw = computed(image.raw)
    save_figure(figure_view(raw), defect_figure(raw.shape, image.defects, image.pixel_nm), stem)
    return [stem.with_suffix(".svg"), stem.with_suffix(".png")]


def _structures(
    image: ResultImage, elements: Mapping[str, str], around_nm: float | None
) -> Iterator[tuple[str, "Atoms"]]:
    """The structures of an image with the names of their files: of each grain, or around each listed defect."""
    name = image.image_id
    if around_nm is not None:
        found = neighbourhoods(image.atoms(elements=elements), around_nm)
        yield from ((f"{name}_defect{k}", atoms) for k, atoms in enumerate(found, 1))
        return
    grains = sorted(image.columns["grain"].unique())
    for grain in grains:
        yield f"{name}_grain{grain}" if len(grains) > 1 else name, image.atoms(grain, elements)
