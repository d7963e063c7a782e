"""Many images together: densities of each model, groups compared, trends within sessions and stacks."""

from collections import Counter
from collections.abc import Mapping, Sequence

import zarr

from oddlattice.defects.false_alarms import FalseAlarms
from oddlattice.statistics import densities
from oddlattice.statistics.counting import as_reviewed, crystal_of, grouped, one_of_each_stack, together
from oddlattice.statistics.groups import compare_groups, folders, pooled
from oddlattice.statistics.trends import trends_of_series
from oddlattice.storage.groups import attributes_of, group_of, listed_in
from oddlattice.storage.rows import Row


def by_model(
    rows: Sequence[Row],
    counts: Mapping[str, Mapping[str, int]],
    sites: Mapping[str, list[Row]],
    false: Mapping[str, Mapping[str, FalseAlarms]],
) -> tuple[list[Row], list[Row]]:
    """Densities and site fractions over all images of each model and crystal."""
    kinds, fractions = [], []
    for (model, crystal), images in grouped(rows, crystal_of).items():
        about = {"model": model, "crystal": crystal}
        each = [list(Counter(counts.get(row["image_id"], {})).elements()) for row in images]
        alarms = [false.get(row["image_id"], {}) for row in images]
        kinds += [about | row for row in densities.densities_by_kind(each, images, alarms)]
        tested: Counter[str] = Counter()
        flagged: list[tuple[str, str]] = []
        for row in images:
            for part in sites.get(row["image_id"], []):
                if part["kind"] == "any":
                    tested[part["site"]] += part["columns_tested"]
                else:
                    flagged += [(part["site"], part["kind"])] * part["number"]
        fractions += [about | row for row in densities.site_fractions(tested, flagged)]
    return kinds, fractions


def metadata_of(images_zarr: list[str], wanted: set[str]) -> dict[str, Row]:
    """The files' own metadata of the images named, by image id."""
    found: dict[str, Row] = {}
    for path in images_zarr:
        root = zarr.open_group(path, mode="r")
        for name in (str(row["image_id"]) for row in listed_in(root)):
            if name in wanted:
                found[name] = attributes_of(group_of(root, name)).get("original_metadata") or {}
    return found


def compare(
    rows: Sequence[Row],
    counts: Mapping[str, Mapping[str, int]],
    sites: Mapping[str, list[Row]],
    names: Mapping[str, str],
    false: Mapping[str, Mapping[str, FalseAlarms]],
    seed: int,
) -> Row:
    """What all images show together: the content of statistics.json.

    Parameters
    ----------
    rows : sequence of dict
        Analysed images (products.IMAGES).
    counts : mapping
        image_id -> kind -> point defects, as people reviewed them.
    sites : mapping
        image_id -> fractions of sites by their names in the run, see `crystals_of_run.sites_by_image`.
    names : mapping
        image_id -> group.
    false : mapping
        image_id -> kind -> false alarms expected among them, see `counting.false_by_kind`.
    seed : int
        Of the simulated p-values of trends.
    """
    reviewed = as_reviewed(rows)
    each = one_of_each_stack(reviewed)
    kinds, fractions = by_model(each, counts, sites, false)
    listed, compared = compare_groups(each, counts, names)
    return {
        "images": len(reviewed),
        "images_counted": len(each),
        "totals": totals(rows, each, counts, false),
        "folders": folders(each, counts),
        "densities": kinds,
        "sites": fractions,
        "groups": listed,
        "comparisons": compared,
        "trends": trends_of_series(reviewed, counts, seed),
    }


def totals(
    rows: Sequence[Row],
    each: Sequence[Row],
    counts: Mapping[str, Mapping[str, int]],
    false: Mapping[str, Mapping[str, FalseAlarms]],
) -> Row:
    """All images together, each place of the sample once: as flagged, and as people reviewed them.

    Parameters
    ----------
    rows : sequence of dict
        Analysed images (products.IMAGES).
    each : sequence of dict
        Those that count, as people reviewed them.
    counts : mapping
        image_id -> kind -> point defects, as people reviewed them.
    false : mapping
        image_id -> kind -> false alarms expected among them.
    """
    kinds: Counter[str] = sum((Counter(counts.get(str(row["image_id"]), {})) for row in each), Counter())
    flagged = {str(row["image_id"]): {"any": row["defects"] or 0} for row in rows}
    told = [row.get("expected_false") for row in one_of_each_stack(rows)]
    known = [value for value in told if value is not None]
    as_flagged = sum(known) if len(known) == len(told) else None
    alarms = together(false.get(str(row["image_id"]), {}) for row in each)
    sums = {key: sum(row[key] or 0 for row in each) for key in ("columns_tested", "cells_analysed", "cells_masked")}
    return {
        "flagged": pooled(one_of_each_stack(rows), flagged) | {"expected_false": as_flagged},
        "reviewed": pooled(each, counts) | sums | {"kinds": dict(kinds.most_common())} | alarms.row(),
    }
