"""Groups of images: their names, the density of each, every two compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from oddlattice.numerics.intervals import poisson_interval
from oddlattice.statistics import poisson
from oddlattice.statistics.counting import folder_of
from oddlattice.statistics.trends import _grouped
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
    """Density of each group of images, and every pair of groups compared; images of one model at a time.

    Returns
    -------
    groups : list of dict
        model, group, images, number, area_nm2, density_per_nm2, ci_low_per_nm2, ci_high_per_nm2, dispersion.
    comparisons : list of dict
        As `rates.compare`, with `model`.
    """
    listed, compared = [], []
    for model, images in _grouped([r for r in rows if r["area_nm2"]], lambda row: str(row["model"])).items():
        members: dict[str, tuple[list[int], list[float]]] = {}
        for row in images:
            n, areas = members.setdefault(names[row["image_id"]], ([], []))
            n.append(sum(counts.get(row["image_id"], {}).values()))
            areas.append(float(row["area_nm2"]))
        for name, (n, areas) in sorted(members.items()):
            spread, area = poisson.within_dispersion([(n, areas)]), sum(areas)
            scale = max(spread or 1.0, 1.0)
            low, high = _scaled_interval(sum(n), scale)
            listed.append(
                {
                    "model": model,
                    "group": name,
                    "images": len(n),
                    "number": sum(n),
                    "area_nm2": area,
                    "density_per_nm2": sum(n) / area,
                    "ci_low_per_nm2": low / area,
                    "ci_high_per_nm2": high / area,
                    "dispersion": spread,
                }
            )
        compared += [{"model": model} | row for row in poisson.compare(members)]
    return listed, compared


def _scaled_interval(number: int, dispersion: float) -> tuple[float, float]:
    """Interval of a count that scatters by `dispersion` times what counting does."""
    low, high = poisson_interval(number / dispersion)
    return dispersion * low, dispersion * high
