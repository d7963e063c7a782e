"""Groups of images: their names, the density of each, every two compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.statistics import poisson
from oddlattice.statistics.counting import crystal_of, folder_of, grouped
from oddlattice.storage.rows import Row


def group_name(row: Mapping[str, Any], source: Mapping[str, Any], group_by: str) -> str:
    """Name of the group an image belongs to: its folder, a column of the images table, or a field of its metadata.

    Parameters
    ----------
    row : mapping
        Of the images table.
    source : mapping
        The file's own metadata.
    group_by : str
        "folder", the name of a column, or keys of the metadata joined by "/".
    """
    if group_by == "folder":
        return folder_of(row)
    found: Any = row.get(group_by) if group_by in row else source
    if group_by not in row:
        for key in group_by.split("/"):
            found = found.get(key) if isinstance(found, Mapping) else None
    return "not told" if found is None or found == "" or isinstance(found, Mapping | list) else str(found)


def compare_groups(
    rows: Sequence[Row], counts: Mapping[str, Mapping[str, int]], names: Mapping[str, str]
) -> tuple[list[Row], list[Row]]:
    """Density of each group of images, and every pair of groups compared; images of one crystal at a time.

    Returns
    -------
    groups : list of dict
        model, crystal, group, images, number, area_nm2, density_per_nm2, ci_low_per_nm2, ci_high_per_nm2, dispersion.
    comparisons : list of dict
        As `poisson.compare`, with `model` and `crystal`.
    """
    listed, compared = [], []
    for (model, crystal), images in grouped([r for r in rows if r["area_nm2"]], crystal_of).items():
        members, about = grouped(images, lambda row: names[row["image_id"]]), {"model": model, "crystal": crystal}
        listed += [about | {"group": name} | pooled(some, counts) for name, some in members.items()]
        compared += [about | row for row in poisson.compare(members_seen(members, counts))]
    return listed, compared


def members_seen(
    members: Mapping[str, Sequence[Row]], counts: Mapping[str, Mapping[str, int]]
) -> dict[str, tuple[list[int], list[float]]]:
    """Defects and area [nm^2] of each image of each group."""
    return {
        name: ([_number(row, counts) for row in images], [float(row["area_nm2"]) for row in images])
        for name, images in members.items()
    }


def pooled(images: Sequence[Row], counts: Mapping[str, Mapping[str, int]]) -> Row:
    """Density of images together: the one place where it is computed.

    Parameters
    ----------
    images : sequence of dict
        Each place of the sample once, see `counting.one_of_each_stack`.
    counts : mapping
        image_id -> kind -> point defects.

    Returns
    -------
    dict
        images, defects; of the images whose area is known images_with_area, number, area_nm2, density_per_nm2,
        ci_low_per_nm2, ci_high_per_nm2, dispersion. The interval is widened by the scatter of the images beyond
        counting; densities are None without an area.
    """
    tested = [row for row in images if row["area_nm2"]]
    numbers, areas = [_number(row, counts) for row in tested], [float(row["area_nm2"]) for row in tested]
    number, area = sum(numbers), sum(areas)
    spread = poisson.within_dispersion([(numbers, areas)]) if tested else None
    ends = (number, *poisson_interval(number, dispersion=spread))
    density, low, high = (x / area for x in ends) if area else (None, None, None)
    found: Row = {"images": len(images), "defects": sum(_number(row, counts) for row in images)}
    found |= {"images_with_area": len(tested), "number": number, "area_nm2": area, "density_per_nm2": density}
    return found | {"ci_low_per_nm2": low, "ci_high_per_nm2": high, "dispersion": spread}


def _number(row: Row, counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(counts.get(str(row["image_id"]), {}).values())


def folders(rows: Sequence[Row], counts: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """Density of each folder, images of all models together; see `pooled`."""
    return [{"folder": name} | pooled(some, counts) for name, some in grouped(rows, folder_of).items()]
