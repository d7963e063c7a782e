"""One image of a shard from its stores to its rows and its maps."""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import polars as pl
import zarr

from oddlattice.defects.boundary_tables import Crystal, boundary_defect, breaks_of
from oddlattice.defects.find import judge_by_parts, list_together
from oddlattice.defects.grain_tables import boundary_rows, grain_row, in_labels
from oddlattice.defects.image_quality import quality_of
from oddlattice.defects.null import MIN_COLUMNS
from oddlattice.defects.populations import with_population
from oddlattice.defects.raw_maps import InCounts, Laid, write_maps
from oddlattice.defects.registered import NOWHERE, Registered, load_registered
from oddlattice.defects.tables import (
    Tally,
    defect_row,
    dose_counts_per_nm2,
    image_figures,
    lattice_figures,
    numbered,
    of_population,
    pooled,
)
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.pixel_size import PixelNm, header_nm
from oddlattice.numerics.arrays import Float, Labels
from oddlattice.process.sandbox import Fault
from oddlattice.run.stage_settings import DefectSettings
from oddlattice.storage.groups import GRAIN_MAP, array_of, attributes_of, grain_of, grains_in, group_of, values_of
from oddlattice.storage.products import COLUMNS, table
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import Windows

#: Names of columns whose unit holds a length.
LENGTH = re.compile(r"_(nm|pm)2?$|^density_")
#: Names of columns that hold true only where the noise is that of counting.
CHANCE = re.compile(r"^(p_value|q_value|probability_real|fdr)$|^density_|^expected_false")
UNVERIFIED = "the image looks denoised, filtered or enlarged, and p, q, probabilities and densities are left empty"


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
    """What is known of one image: a row of products.IMAGES, and rows of the other tables."""

    image: Row
    defects: list[Row] = field(default_factory=list)
    trials: list[Row] = field(default_factory=list)
    grains: list[Row] = field(default_factory=list)
    boundaries: list[Row] = field(default_factory=list)
    columns: pl.DataFrame = field(default_factory=lambda: table([], COLUMNS))


@dataclass(frozen=True)
class Grain:
    """What the stages left of a grain that is analysed."""

    tiles: zarr.Group
    differences: zarr.Group
    lattice: Row
    model: Row
    image: Registered

    @classmethod
    def of(cls, stores: Stores, name: str, number: int, header: PixelNm | None) -> Self:
        """Grain `number` of an image."""
        tiles, differences = grain_of(stores.tiles, name, number), grain_of(stores.differences, name, number)
        image = replace(load_registered(tiles, differences, header, NOWHERE), coordinates=Coordinates.of(tiles))
        return cls(tiles, differences, attributes_of(tiles), attributes_of(differences), image)

    @property
    def cell_nm2(self) -> float:
        """Area of its cell."""
        return float(abs(np.linalg.det(self.image.vectors_px * self.image.pixel_nm)))

    def laid(self, maps: dict[str, Float | Windows]) -> Laid:
        """Its maps, the prediction in counts, and where they lie in the image."""
        mean, sign = values_of(self.tiles, "local_mean"), int(self.lattice.get("contrast_sign", 1))
        counts = InCounts(maps["prediction"], mean, float(self.lattice["pedestal_counts"]), sign)
        return Laid({**maps, "prediction": counts}, self.image.coordinates, values_of(self.tiles, "line_gain"))

    @property
    def dose_counts_per_nm2(self) -> float | None:
        """Mean counts per area; None of an image without a positive mean: its values are no counts."""
        if self.lattice["pedestal_counts"]:
            return None
        return dose_counts_per_nm2(
            values_of(self.tiles, "local_mean"), values_of(self.tiles, "mask"), self.image.pixel_nm
        )


def analyse(row: Row, stores: Stores, settings: DefectSettings) -> Analysis:
    """Find the defects of one image that could be read, grain by grain, and write its maps."""
    name = row["image_id"]
    source = attributes_of(group_of(stores.images, name))
    numbers = grains_in(stores.tiles, name)
    first = attributes_of(grain_of(stores.tiles, name))
    found: Row = {key: row[key] for key in ("image_id", "file_id", "scan_id", "path", "signal", "frame")}
    found |= {"state": first["state"], "reason": first["reason"]} | lattice_figures(source, first)
    if first["state"] != "tiled":
        return Analysis(found)
    found["grains"] = len(numbers)
    states = {k: attributes_of(grain_of(stores.differences, name, k)) for k in numbers}
    kept = [k for k in numbers if states[k]["state"] == "analysed"]
    model = states[kept[0] if kept else numbers[0]]
    found |= {"state": model["state"], "reason": model["reason"], "model_misfit": model.get("model_misfit")}
    if not kept:
        return Analysis(found)
    header = header_nm(source)
    grains = {k: Grain.of(stores, name, k, header) for k in kept}
    with ExitStack() as scratch:
        judged = {}
        for k, grain in grains.items():
            folder = Path(scratch.enter_context(TemporaryDirectory(dir=stores.scratch, prefix=".z-")))
            judged[k] = judge_by_parts(grain.tiles, grain.differences, header, settings, folder)
        tallies = list_together(name, judged, settings, labels_of(group_of(stores.tiles, name)))
        group = stores.maps.create_group(name)
        laid = [grain.laid(judged[k].maps) for k, grain in grains.items()]
        write_maps(group, laid, (found["rows"], found["cols"]), header)
    whole = pooled(list(tallies.values()))
    figures = {k: _figures({k: grain}, {k: tallies[k]}, tallies[k], settings) for k, grain in grains.items()}
    of_image = figures[kept[0]] if len(kept) == 1 else _figures(grains, tallies, whole, settings)
    found |= of_image | {"model": model["model"]}
    if len(numbers) > 1:
        found |= _of_several(grains, source)
    without = [f"grain {k}: {states[k]['reason']}" for k in numbers if k not in kept]
    for k, grain in grains.items():
        without += [(f"grain {k}: " if len(numbers) > 1 else "") + line for line in untested(grain.image, tallies[k])]
    quality, spectrum = quality_of(
        array_of(group_of(stores.images, name), "0"), grains[kept[0]].tiles, grains[kept[0]].image.shapes
    )
    found |= quality
    doubt = [f"{UNVERIFIED}: {spectrum.objection}"] if spectrum.objection else []
    warnings = [*source.get("warnings", []), *_warnings(grains, whole, len(numbers)), *without, *doubt]
    found["reason"] = "; ".join(warning.rstrip(".") for warning in warnings)
    made = Analysis(found, trials=[{"image_id": name} | trial for trial in whole.trials])
    _fill_tables(made, row, stores, grains, tallies, figures)
    made = unverified(made) if doubt else made
    made = made if first["pixel_nm"] is not None else emptied(made, LENGTH)
    said: Row = {"image_id": name, "completeness": whole.losses, "trials": whole.trials}
    said |= {"grains": made.grains if len(numbers) > 1 else [], "boundaries": made.boundaries}
    group.update_attributes({"oddlattice": said})
    return made


def _fill_tables(
    made: Analysis,
    row: Row,
    stores: Stores,
    grains: dict[int, Grain],
    tallies: dict[int, Tally],
    figures: dict[int, Row],
) -> None:
    """Fill columns, defects, grains and boundaries of an image."""
    name = row["image_id"]
    labels = labels_of(group_of(stores.tiles, name))
    crystals = {
        k: Crystal(grain.image, tallies[k], grain.lattice["pixel_nm"] is not None) for k, grain in grains.items()
    }
    breaks = breaks_of(array_of(group_of(stores.images, name), "0"), labels, crystals)
    for k, tally in tallies.items():
        image, area = grains[k].image, grains[k].cell_nm2
        rows = [defect_row(row, k, defect, image, area) for defect in tally.defects]
        made.defects += numbered(breaks.with_closures(rows, k))
    made.columns = _columns(grains, tallies)
    made.defects = of_population(made.defects, made.columns)
    source = attributes_of(group_of(stores.images, name))
    made.grains, between = _grain_tables(name, stores, labels, grains, figures, source)
    made.boundaries = breaks.boundaries(name, between)
    pixel_nm = next(iter(grains.values())).image.pixel_nm
    made.defects += [boundary_defect(row, one, pixel_nm) for one in made.boundaries]


def labels_of(image: zarr.Group) -> Labels | None:
    """Grain of every pixel of an image of several, 0 where there is no crystal; None of an image of one."""
    return values_of(image, GRAIN_MAP) if GRAIN_MAP in image else None


def _columns(grains: dict[int, Grain], tallies: dict[int, Tally]) -> pl.DataFrame:
    """The tested columns of all grains (products.COLUMNS), cells counted from the frame's origin."""
    columns = [table([], COLUMNS)]
    for k, tally in tallies.items():
        u, v = (pl.col(key) + low for key, low in zip(("cell_u", "cell_v"), grains[k].image.first, strict=True))
        columns += [some.with_columns(u, v) for some in tally.columns]
    return with_population(pl.concat(columns)).select(list(COLUMNS))


def _grain_tables(
    name: str,
    stores: Stores,
    labels: Labels | None,
    grains: dict[int, Grain],
    figures: dict[int, Row],
    source: Row,
) -> tuple[list[Row], list[Row]]:
    """Rows of products.GRAINS and products.BOUNDARIES of an image, by the `figures` of its grains."""
    rows = []
    for k in grains_in(stores.tiles, name):
        lattice = attributes_of(grain_of(stores.tiles, name, k))
        known = figures[k] | lattice_figures(source, lattice) if k in grains else {}
        row = grain_row(name, k, lattice, attributes_of(grain_of(stores.differences, name, k)), known)
        if labels is not None:
            in_cell = len(grains[k].model["columns"]) if k in grains else 0
            cell_px2 = abs(float(np.linalg.det(grains[k].image.vectors_px))) if k in grains else 1.0
            row = in_labels(row, labels, in_cell / cell_px2)
        rows.append(row)
    if labels is None:
        return rows, []
    return rows, boundary_rows(name, labels, {k: grain.lattice for k, grain in grains.items()}, header_nm(source))


def _figures(grains: dict[int, Grain], tallies: dict[int, Tally], whole: Tally, settings: DefectSettings) -> Row:
    """Figures of an image from those of its grains."""
    area = sum(tally.area_nm2(grains[k].cell_nm2) for k, tally in tallies.items())
    regions = sum(sum(d.cells for d in tally.defects) * grains[k].cell_nm2 for k, tally in tallies.items())
    doses = [grain.dose_counts_per_nm2 for grain in grains.values()]
    known = [dose for dose in doses if dose is not None]
    cells = [int(np.count_nonzero(values_of(grain.tiles, "mask"))) for grain in grains.values()]
    dose = known[0] if known else None
    if len(doses) > 1:
        dose = float(np.average(known, weights=np.maximum(cells, 1))) if len(known) == len(doses) else None
    return image_figures(whole, area, regions, settings) | {"dose_counts_per_nm2": dose}


def _of_several(grains: dict[int, Grain], source: Row) -> Row:
    """What the images table says of an image of several grains: sums, and what they have in common."""
    said = [lattice_figures(source, grain.lattice) for grain in grains.values()]
    found: Row = {key: sum(one[key] for one in said) for key in ("cells_analysed", "cells_masked")}
    of_each = ("a_nm", "b_nm", "a_px", "b_px", "gamma_deg", "rotation_deg", "lattice_rms_px", "crystal_probability")
    found |= dict.fromkeys(of_each)
    crystals = list(dict.fromkeys(one["crystal"] for one in said if one["crystal"]))
    models = {str(grain.model["model"]) for grain in grains.values()}
    found |= {"crystal": " + ".join(crystals), "crystal_candidates": "", "model_misfit": None}
    return found | {"model": models.pop() if len(models) == 1 else ""}


def _warnings(grains: dict[int, Grain], whole: Tally, count: int) -> list[str]:
    """Sentences on the image's lattices, each said once: without a grain where it holds for all of them."""
    lines = {k: grain.lattice.get("warnings", []) for k, grain in grains.items()}
    of_all = {line for some in lines.values() for line in some if all(line in other for other in lines.values())}
    told = [
        line if line in of_all or count == 1 else f"grain {k}: {line}" for k, some in lines.items() for line in some
    ]
    told = list(dict.fromkeys(told))
    if not sum(map(len, whole.columns)):
        told.append("no column was tested: too few cells of crystal to know the image's own noise")
    return [*told, *whole.reasons]


def untested(image: Registered, tally: Tally) -> list[str]:
    """Sentences on the sites of a grain of which no column was tested, where others of it were."""
    seen = {column for rows in tally.columns for column in rows["column"]}
    few = dict.fromkeys(shape.site for shape in image.shapes if shape.column not in seen) if seen else {}
    return [f"{site}: fewer than {MIN_COLUMNS} columns that can be tested, and none of it is" for site in few]


def emptied(made: Analysis, names: re.Pattern[str]) -> Analysis:
    """The same with the columns of these names empty."""

    def told(row: Row) -> Row:
        return {key: None if names.search(key) else value for key, value in row.items()}

    columns = made.columns.with_columns(
        pl.lit(None, made.columns.schema[key]).alias(key) for key in made.columns.columns if names.search(key)
    )
    tables = ("defects", "grains", "boundaries", *(("trials",) if names is LENGTH else ()))
    rows = {key: [told(row) for row in getattr(made, key)] for key in tables}
    return replace(made, image=told(made.image), columns=columns, **rows)


def unverified(made: Analysis) -> Analysis:
    """The same of an image whose noise is not that of counting; without an area it is in no density."""
    without = emptied(made, CHANCE)
    grains = [row | {"area_nm2": None} for row in without.grains]
    return replace(without, image=without.image | {"area_nm2": None}, grains=grains)


def refused(row: Row, fault: Fault | None) -> Analysis:
    """What `analyse` gives, of an image in which it failed."""
    why = fault.words if fault is not None else "nothing was said"
    reason = f"its defects could not be looked for, by a fault of the program: {why}"
    return Analysis(row | {"state": "rejected", "reason": reason})
