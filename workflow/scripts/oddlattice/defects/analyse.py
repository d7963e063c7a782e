"""One image of a shard from its stores to its rows and its maps."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import zarr

from oddlattice.defects.find import find_by_parts
from oddlattice.defects.raw_maps import InCounts, Map, write_maps
from oddlattice.defects.registered import NOWHERE, load_registered
from oddlattice.defects.tables import defect_row, dose_counts_per_nm2, image_figures, lattice_figures
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import header_nm
from oddlattice.process.sandbox import Fault
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.storage.groups import grain_of, group_of, said_of, values_of
from oddlattice.storage.products import COLUMNS, table
from oddlattice.storage.rows import Row

#: Names of columns whose unit holds a length.
LENGTH = re.compile(r"_(nm|pm)2?$|^density_")


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


def analyse(row: Row, stores: Stores, settings: DefectSettings) -> Analysis:
    """Find the defects of one image that could be read, and write its maps."""
    name = row["image_id"]
    source = said_of(group_of(stores.images, name))
    lattice = said_of(grain_of(stores.tiles, name))
    found: Row = {key: row[key] for key in ("image_id", "file_id", "scan_id", "path", "signal", "frame")}
    found |= {"state": lattice["state"], "reason": lattice["reason"]} | lattice_figures(source, lattice)
    if lattice["state"] != "tiled":
        return Analysis(found)
    differences = grain_of(stores.differences, name)
    model = said_of(differences)
    found |= {"state": model["state"], "reason": model["reason"], "model_misfit": model.get("model_misfit")}
    if model["state"] != "analysed":
        return Analysis(found)
    found["model"] = model["model"]
    tiles, header = grain_of(stores.tiles, name), header_nm(source)
    with TemporaryDirectory(dir=stores.scratch, prefix=".z-") as scratch:
        tally, maps = find_by_parts(name, tiles, differences, header, settings, Path(scratch))
        image = load_registered(tiles, differences, header, NOWHERE)
        warnings = [*source.get("warnings", []), *lattice.get("warnings", [])]
        if not tally.columns or not sum(map(len, tally.columns)):
            warnings.append("no column was tested: too few cells of crystal to know the image's own noise")
        cell_nm2 = float(abs(np.linalg.det(image.vectors_px * image.pixel_nm)))
        mask, local_mean, coordinates = values_of(tiles, "mask"), values_of(tiles, "local_mean"), Coordinates.of(tiles)
        pedestal = float(lattice["pedestal_counts"])
        figures = image_figures(tally, mask, cell_nm2, settings)
        figures["dose_counts_per_nm2"] = dose_counts_per_nm2(local_mean, mask, pedestal, image.pixel_nm)
        found |= figures | {"reason": "; ".join(warnings)}
        group = stores.maps.create_group(name)
        sign = int(lattice.get("contrast_sign", 1))
        laid: dict[str, Map] = {**maps, "prediction": InCounts(maps["prediction"], local_mean, pedestal, sign)}
        write_maps(group, laid, coordinates, (found["rows"], found["cols"]), header)
    said = {"image_id": name, "completeness": tally.losses, "trials": tally.trials}
    group.update_attributes({"oddlattice": said})
    whole = replace(image, coordinates=coordinates)
    made = Analysis(
        found,
        [defect_row(row, defect, whole, cell_nm2) for defect in tally.defects],
        [{"image_id": name} | trial for trial in tally.trials],
        pl.concat([table([], COLUMNS), *tally.columns]).with_columns(
            pl.col("cell_u") + image.first[0], pl.col("cell_v") + image.first[1]
        ),
    )
    return made if lattice["pixel_nm"] is not None else without_lengths(made)


def without_lengths(made: Analysis) -> Analysis:
    """The same of an image whose pixel size nobody knows: what is a length, an area or a density is empty."""

    def told(row: Row) -> Row:
        return {key: None if LENGTH.search(key) else value for key, value in row.items()}

    columns = made.columns.with_columns(
        pl.lit(None, made.columns.schema[key]).alias(key) for key in made.columns.columns if LENGTH.search(key)
    )
    return Analysis(told(made.image), [told(d) for d in made.defects], [told(t) for t in made.trials], columns)


def refused(row: Row, fault: Fault | None) -> Analysis:
    """What `analyse` gives, of an image in which it failed."""
    why = fault.words if fault is not None else "nothing was said"
    reason = f"its defects could not be looked for, by a fault of the program: {why}"
    return Analysis(row | {"state": "rejected", "reason": reason})
