"""Rule write_pages: one page per image of a shard, its pictures beside it, and every number on it as JSON and CSV.

The page only shows: what it shows is computed here, or read from the products of the earlier stages.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
import zarr
from scipy import stats

from oddlattice.crystal import CELL_PX
from oddlattice.products import write_csv
from oddlattice.report import geometry, pictures, plots
from oddlattice.report import numbers as n
from oddlattice.report.html import json_text, render
from oddlattice.report.kinds import KINDS, kind_of
from oddlattice.settings import versions
from oddlattice.whole import whole_directory

Array = npt.NDArray[np.float64]
Row = dict[str, Any]

TILE_PX = 1024  # side of a tile of the viewer
CROP_CELLS = 3  # side of a defect's crop
CROPS_PER_SHEET = 50
STATES = {
    "analysed": "Analysed",
    "no_lattice": "No lattice found",
    "no_model": "No model for this lattice",
    "rejected": "Rejected",
}


@dataclass(frozen=True)
class Image:
    """One image and what the stages found out about it.

    Attributes
    ----------
    row : dict
        Its row of the images table.
    raw : ndarray of shape (rows, cols)
        The image [counts].
    source, lattice, model : dict
        Attributes left by the read, tile and infer stages; empty where a stage did not come to it.
    tiles, prediction, difference : ndarray of shape (U*20, V*20) or None
        In the lattice frame.
    mask : ndarray of shape (U, V), bool, or None
        Cells analysed.
    nodes_px : ndarray of shape (2, U + 1, V + 1) or None
        Raw places of the cell corners [px].
    maps : dict of str to ndarray of shape (rows, cols)
        ``difference`` and ``z`` in the raw frame.
    defects, columns : polars.DataFrame
        Its rows of these tables.
    """

    row: Row
    raw: npt.NDArray[np.generic]
    source: dict[str, Any]
    lattice: dict[str, Any]
    model: dict[str, Any]
    tiles: npt.NDArray[np.float32] | None
    prediction: npt.NDArray[np.float32] | None
    difference: npt.NDArray[np.float32] | None
    mask: npt.NDArray[np.bool_] | None
    nodes_px: Array | None
    maps: dict[str, npt.NDArray[np.generic]]
    defects: pl.DataFrame
    columns: pl.DataFrame


# ---------------------------------------------------------------- reading


def _group(root: zarr.Group, name: str) -> zarr.Group | None:
    if name not in root:
        return None
    found = root[name]
    return found if isinstance(found, zarr.Group) else None


def _array(group: zarr.Group | None, name: str) -> Any:
    if group is None or name not in group:
        return None
    found = group[name]
    return found[:] if isinstance(found, zarr.Array) else None


def _attributes(group: zarr.Group | None) -> dict[str, Any]:
    return dict(group.attrs.get("oddlattice", {})) if group is not None else {}  # type: ignore[arg-type, call-overload]


def load_image(row: Row, stores: dict[str, zarr.Group], defects: pl.DataFrame, columns: pl.DataFrame) -> Image:
    """Collect what the stages left of the image of `row`; `stores` are the zarr groups images, tiles, differences, maps.

    Raises
    ------
    ValueError
        If the image itself is not among the images.
    """
    name = str(row["image_id"])
    group = {key: _group(root, name) for key, root in stores.items()}
    raw = _array(group["images"], "0")
    if raw is None:
        raise ValueError(f"{stores['images'].store}: found no image {name}; the images table says {row['state']}")
    maps = {}
    for key in ("difference", "z"):
        found = _array(_group(group["maps"], key) if group["maps"] is not None else None, "0")
        if found is not None and np.isfinite(found).any():
            maps[key] = found
    mask, nodes = _array(group["tiles"], "mask"), _array(group["tiles"], "nodes_px")
    return Image(
        row=row,
        raw=raw,
        source=_attributes(group["images"]),
        lattice=_attributes(group["tiles"]),
        model=_attributes(group["differences"]),
        tiles=_array(group["tiles"], "tiles"),
        prediction=_array(group["differences"], "prediction"),
        difference=_array(group["differences"], "difference"),
        mask=None if mask is None else mask > 0,
        nodes_px=None if nodes is None or not np.isfinite(nodes).all() else nodes.astype(np.float64),
        maps=maps,
        defects=defects.filter(pl.col("image_id") == name),
        columns=columns.filter(pl.col("image_id") == name),
    )


# ---------------------------------------------------------------- facts


def poisson_interval(number: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson mean.

    Source: Garwood, Biometrika 28 (1936) 437, doi:10.1093/biomet/28.3-4.437.
    """
    tail = (1 - level) / 2
    low = float(stats.chi2.ppf(tail, 2 * number) / 2) if number else 0.0
    return low, float(stats.chi2.ppf(1 - tail, 2 * number + 2) / 2)


def densities(names: list[str], area_nm2: float | None) -> list[Row]:
    """Number, density and 95 % interval for each name."""
    found = []
    for name in sorted(set(names)):
        number = names.count(name)
        low, high = poisson_interval(number)
        row: Row = {"name": name, "number": number, "density_per_nm2": None, "ci_low": None, "ci_high": None}
        if area_nm2:
            row |= {"density_per_nm2": number / area_nm2, "ci_low": low / area_nm2, "ci_high": high / area_nm2}
        found.append(row)
    return found


def file_name(row: Row) -> tuple[str, str]:
    """Folder and name of the file of a row."""
    folder, _, name = str(row["path"]).rpartition("/")
    return folder, name


def title(row: Row) -> str:
    """What the page is called: file, signal, frame of a stack."""
    parts = [file_name(row)[1]]
    if row["signal"]:
        parts.append(str(row["signal"]))
    if str(row["image_id"]).endswith(f"-f{row['frame']:04d}"):
        parts.append(f"frame {row['frame']}")
    elif row["frame"] == -1:
        parts.append("sum of frames")
    return " · ".join(parts)


def pixel_size_nm(image: Image) -> tuple[tuple[float, float] | None, str]:
    """Pixel size (row, col) [nm] the page measures with, and the ruler it comes from."""
    header = image.source.get("pixel_nm_header")
    fitted = image.row["pixel_nm"]
    if n.usable(fitted) and image.row["model"]:
        ratio = math.sqrt(header[0] / header[1]) if header else 1.0
        return (fitted * ratio, fitted / ratio), "fitted lattice"
    return ((float(header[0]), float(header[1])), "file header") if header else (None, "none: lengths are in pixels")


def warnings_of(image: Image) -> list[str]:
    """Every warning of the stages, once, in their order."""
    found = [*image.source.get("warnings", []), *image.lattice.get("warnings", []), *image.model.get("warnings", [])]
    if image.row["state"] == "analysed" and image.row["reason"]:
        known = " ".join(found)
        found += [part for part in str(image.row["reason"]).split("; ") if part.rstrip(".") not in known]
    return list(dict.fromkeys(str(w) for w in found if w))


# ---------------------------------------------------------------- what the page shows


def _figure(label: str, value: str, unit: str, note: str) -> Row:
    return {"label": label, "value": value, "unit": unit, "note": note}


def key_figures(row: Row) -> list[Row]:
    """The figures at the head of the page of an analysed image."""
    density, between = n.interval(row["density_per_nm2"], row["density_ci_low"], row["density_ci_high"])
    flagged, tested, fdr = row["defects"] or 0, row["columns_tested"], row["fdr"]
    masked, cells = row["cells_masked"] or 0, (row["cells_analysed"] or 0) + (row["cells_masked"] or 0)
    expected = n.significant(flagged * fdr, 1) if n.usable(fdr) else n.NONE
    false = f"of {n.count(flagged)} flagged, about {expected} expected to be false" if flagged else "nothing is flagged"
    found = [
        _figure("Defects per nm²", density, "nm⁻²" if density != n.NONE else "", f"95 % interval {between}"),
        _figure("Flagged columns", n.count(flagged), "", f"of {n.count(tested)} tested"),
        _figure(
            "Area analysed",
            n.significant(row["area_nm2"]),
            "nm²" if n.usable(row["area_nm2"]) else "",
            f"{n.count(row['cells_analysed'])} cells; {n.percent(masked / cells if cells else None)} masked",
        ),
        _figure("False-discovery rate", n.significant(100 * fdr, 2) if n.usable(fdr) else n.NONE, "%", false),
    ]
    if row["extended_regions"]:
        area = f"{n.significant(row['extended_area_nm2'], 2)} nm² in all, not counted as point defects"
        found.insert(2, _figure("Extended regions", n.count(row["extended_regions"]), "", area))
    loss = row["smallest_loss_90"]
    if n.usable(loss):
        note = "of a column’s intensity: the smallest loss found 9 times in 10"
        found.append(_figure("Detectable loss", n.significant(100 * loss, 2), "%", note))
    else:
        found.append(_figure("Detectable loss", n.NONE, "", "no loss of intensity is found 9 times in 10"))
    found.append(_completeness(row))
    return found


def _completeness(row: Row) -> Row:
    vacancy, low, high = (row[f"completeness_vacancy{end}"] for end in ("", "_ci_low", "_ci_high"))
    if not n.usable(vacancy):
        return _figure("Empty columns found", n.NONE, "", "not measured in this image")
    between = f"95 % interval {n.significant(100 * low, 3)} to {n.significant(100 * high, 3)} %; " if n.usable(low) else ""
    return _figure("Empty columns found", n.significant(100 * vacancy, 3), "%", f"{between}put into this image as a trial")


def _vector_rows(image: Image, name: str) -> list[tuple[str, str]]:
    vector = image.lattice.get(f"{name}_px")
    if vector is None:
        return []
    sigma = np.atleast_1d(np.asarray(image.lattice.get(f"{name}_sigma_px", np.nan), dtype=np.float64))
    row_sigma, col_sigma = float(sigma[0]), float(sigma[-1])
    length = math.hypot(*vector)
    error = math.hypot(vector[0] * row_sigma, vector[1] * col_sigma) / length
    rows = [
        (f"{name} (row, col)", f"{n.with_error(vector[0], row_sigma)}, {n.with_error(vector[1], col_sigma)} px"),
        (f"|{name}|", n.with_error(length, error, "px")),
    ]
    header = image.source.get("pixel_nm_header")
    if header:
        metres = math.hypot(vector[0] * header[0], vector[1] * header[1])
        rows.append((f"|{name}| by the header", f"{n.significant(metres, 4)} nm"))
    return rows


def lattice_table(image: Image) -> list[tuple[str, str]]:
    """Label and text of each line of the lattice table; empty without a lattice."""
    found, row = image.lattice, image.row
    if found.get("a_px") is None:
        return []
    pixel, ruler = pixel_size_nm(image)
    header = image.source.get("pixel_nm_header")
    lines = [*_vector_rows(image, "a"), *_vector_rows(image, "b")]
    lines.append(("Angle from a to b", f"{n.with_error(found.get('gamma_deg'), found.get('gamma_sigma_deg'))}°"))
    lines.append(("Rotation of a from +row", f"{n.significant(found.get('rotation_deg'))}°"))

    def length(label: str, key: str) -> None:
        value = found.get(key)
        if n.usable(value):
            metric = f" ({n.significant(1000 * value * math.sqrt(pixel[0] * pixel[1]), 2)} pm)" if pixel else ""
            lines.append((label, f"{n.significant(value, 2)} px{metric}"))

    length("Columns about the smooth lattice, rms", "lattice_rms_px")
    length("Row jitter, rms", "row_jitter_px_rms")
    units = image.source.get("units_header")
    as_written = f", unit written {units!r}" if units not in (None, "nm", "m") else ""
    lines.append(("Pixel by the header", _pixel_text(header) + as_written))
    if n.usable(row["pixel_nm"]) and ruler == "fitted lattice":
        lines.append(("Pixel by the lattice", f"{n.significant(1000 * row['pixel_nm'], 4)} pm"))
        if n.usable(row["pixel_nm_header"]):
            off = row["pixel_nm"] / row["pixel_nm_header"] - 1
            lines.append(("Lattice against header", f"{'+' if off > 0 else ''}{n.percent(off, 1)}"))
    return lines


def _pixel_text(header: list[float] | None) -> str:
    if not header:
        return "not calibrated"
    if math.isclose(header[0], header[1], rel_tol=1e-4):
        return f"{n.significant(1000 * header[0], 4)} pm"
    return f"{n.significant(1000 * header[0], 4)} × {n.significant(1000 * header[1], 4)} pm (row × col)"


def quality_table(image: Image) -> list[tuple[str, str]]:
    """The tile stage's measures of the fit, as they are."""
    found = image.lattice.get("fit_quality", {})
    return [
        (str(key).replace("_", " "), n.significant(v) if isinstance(v, int | float) and not isinstance(v, bool) else str(v))
        for key, v in found.items()
    ]


def train_config(image: Image) -> Row:
    """Settings that train a model of this image's own lattice: see the rule train_model."""
    row = image.row
    return {
        "train": {
            "name": f"model_{row['image_id']}",
            "crystal": {
                "a_nm": _rounded(row["a_nm"], 4),
                "b_nm": _rounded(row["b_nm"], 4),
                "gamma_deg": _rounded(row["gamma_deg"], 2),
            },
            "bulk": [{"path": row["path"], "signal": row["signal"], "frame": row["frame"]}],
        }
    }


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, decimals)


def advice(image: Image) -> Row:
    """What to do about an image that was not analysed: sentences, and a file to paste with its command."""
    row = image.row
    if row["state"] == "no_model":
        name = f"train_{row['image_id']}.yaml"
        says = ["Train a model of this crystal from images of its bulk. Save these lines as a file and run the command."]
        if not n.usable(row["a_nm"]):
            says.append("The file is not calibrated: fill in a_nm and b_nm, the lengths of the cell’s edges, first.")
        return {
            "says": says,
            "file": name,
            "yaml": yaml.safe_dump(train_config(image), sort_keys=False, allow_unicode=True),
            "command": f"snakemake --cores all train --configfile {name}",
        }
    if row["state"] == "no_lattice":
        says = [
            "Nothing was tested for defects here. Look whether the image shows atomic columns at all: a lattice is found "
            "from about 8 pixels per unit cell on, over at least a few cells.",
            "If it is a survey image, vacuum or an amorphous region, nothing is to be done; the configuration key exclude "
            "keeps such files out of the next run.",
        ]
        return {"says": says, "file": "", "yaml": "", "command": ""}
    return {"says": [], "file": "", "yaml": "", "command": ""}


def provenance(image: Image, shard: str) -> list[tuple[str, str]]:
    """Label and text: from which file, model and program the numbers come."""
    row, source = image.row, image.source
    device = " ".join(str(image.model[key]) for key in ("device", "precision") if image.model.get(key))
    lines = [
        ("File", str(row["path"])),
        ("SHA-256 of the file", str(source.get("sha256", ""))),
        ("Image", str(row["image_id"])),
        ("Shard", shard),
        ("Acquired", str(row["acquired"] or "")),
        ("Detector", str(source.get("detector", "") or "")),
        ("Model", str(row["model"] or "")),
        ("SHA-256 of the weights", str(image.model.get("model_sha256", "") or "")),
        ("Prediction", " on ".join(x for x in (str(image.model.get("method", "") or ""), device) if x)),
        ("Misfit of the model", n.significant(row["model_misfit"]) if n.usable(row["model_misfit"]) else ""),
        ("Noise model", str(row["noise_model"] or "")),
        ("Dose", f"{n.significant(row['dose_counts_per_nm2'])} counts/nm²" if n.usable(row["dose_counts_per_nm2"]) else ""),
    ]
    return [(label, text) for label, text in lines if text]


def defect_columns(image: Image) -> dict[str, list[Any]]:
    """The table of defects as the page shows it: values to sort and draw by, and texts."""
    pixel, _ = pixel_size_nm(image)
    found: dict[str, list[Any]] = {key: [] for key in DEFECT_KEYS}
    for row in image.defects.iter_rows(named=True):
        shift = [row["shift_row_pm"], row["shift_col_pm"]]
        size = math.hypot(*shift) if all(n.usable(s) for s in shift) else None
        radius = None
        if row["kind"] == "extended" and n.usable(row["area_nm2"]) and pixel:
            radius = round(math.sqrt(row["area_nm2"] / math.pi / (pixel[0] * pixel[1])), 1)
        arrow = [s / 1000 / p for s, p in zip(shift, pixel, strict=True)] if size is not None and pixel else [None, None]
        change, sigma = row["intensity_change"], row["intensity_change_sigma"]
        values = {
            "row": row["row_px"],
            "col": row["col_px"],
            "kind": kind_of(row["kind"]),
            "kind_text": str(row["kind"] or "unknown"),
            "site": str(row["site"] or ""),
            "probability_text": n.percent(row["kind_probability"]) if n.usable(row["kind_probability"]) else "",
            "z": row["z"],
            "z_text": n.fixed(row["z"], 1),
            "q": row["q_value"],
            "q_text": n.probability(row["q_value"]),
            "change": change,
            "change_text": _split_error(change, sigma, 100),
            "shift": size,
            "shift_text": _split_error(size, row["shift_sigma_pm"], 1),
            "arrow_row": arrow[0],
            "arrow_col": arrow[1],
            "radius": radius,
            "area_text": f"{n.significant(row['area_nm2'], 2)} nm²" if n.usable(row["area_nm2"]) else "",
            "place_text": f"{n.fixed(row['row_px'], 1)}, {n.fixed(row['col_px'], 1)}",
            "review": str(row["review"] or ""),
        }
        for key in DEFECT_KEYS:
            value = values[key]
            found[key].append(round(value, 5) if isinstance(value, float) and key != "q" else value)
    return found


DEFECT_KEYS = (
    "row col kind kind_text site probability_text z z_text q q_text change change_text shift shift_text arrow_row arrow_col "
    "radius area_text place_text review"
).split()


def _split_error(value: float | None, error: float | None, factor: float) -> list[str]:
    """Value and error as two texts rounded alike; the signed value carries its sign."""
    if value is None or not math.isfinite(value):
        return [n.NONE, ""]
    if error is None or not math.isfinite(error) or error <= 0:
        return [n.significant(factor * value, 2), ""]
    decimals = n.decimals_for(factor * error, 1)
    return [n.fixed(factor * value, decimals), f"± {n.fixed(factor * error, decimals)}"]


# ---------------------------------------------------------------- pictures


def write_raw(image: Image, folder: Path) -> Row:
    """Tiles and thumbnail of the raw image; how its counts became gray."""
    low, high = pictures.display_range(image.raw)
    levels = [pictures.to_bytes(level, low, high) for level in pictures.pyramid(image.raw, TILE_PX)]
    layer = pictures.write_layer(levels, folder / "raw", TILE_PX, None)
    small = next(view for view in reversed(levels) if min(view.shape) >= 176 or view is levels[0])
    pictures.thumbnail(small).convert("RGB").save(folder / "thumbnail.webp", "WEBP", quality=80, method=4)
    level = np.percentile(levels[min(2, len(levels) - 1)], np.linspace(0, 100, 101))
    return vars(layer) | {"low": low, "high": high, "percentiles": [round(float(x), 2) for x in level]}


def write_maps(image: Image, folder: Path) -> dict[str, Row]:
    """Tiles of the signed maps in the raw frame."""
    found = {}
    for key, values in image.maps.items():
        limit = map_limit(values, 8.0 if key == "z" else 0.2)
        start = min(limit, 6.0 if key == "z" else limit / 2)
        levels = [pictures.signed_bytes(level, limit) for level in pictures.pyramid(values, TILE_PX)]
        layer = pictures.write_layer(levels, folder / key, TILE_PX, 82)
        found[key] = vars(layer) | {"limit": limit, "start": start}
    return found


def map_limit(values: npt.NDArray[np.generic], least: float) -> float:
    """Half range of a signed map: 99.95 % of it lies inside, rounded up to two digits, at least `least`."""
    low, high = pictures.display_range(values, 0.025, 99.975)
    reach = max(abs(low), abs(high), least)
    step = 10.0 ** (math.floor(math.log10(reach)) - 1)
    return round(math.ceil(reach / step - 1e-9) * step, 12)


def write_crops(image: Image, folder: Path) -> Row | None:
    """Sheets of crops, a row per defect, and their scales; None where there is nothing to crop."""
    if image.tiles is None or image.prediction is None or image.difference is None or image.nodes_px is None:
        return None
    if not image.defects.height:
        return None
    places = image.defects.select("row_px", "col_px").to_numpy()
    uv = geometry.lattice_place(image.nodes_px, places) * CELL_PX
    side = CROP_CELLS * CELL_PX
    inside = _spread(image.mask, image.tiles.shape)
    low, high = pictures.display_range(np.where(inside, image.tiles, np.nan), 0.5, 99.5)
    limit = map_limit(np.where(inside, image.difference, np.nan), 0.2)
    for start in range(0, len(uv), CROPS_PER_SHEET):
        triples = []
        for u, v in uv[start : start + CROPS_PER_SHEET]:
            seen = pictures.crop(image.tiles, u, v, side)
            where = pictures.crop(inside, u, v, side) == 1
            others = (pictures.crop(a, u, v, side) for a in (image.prediction, image.difference))
            triples.append((np.where(seen == 0, np.nan, seen), *(np.where(where, a, np.nan) for a in others)))
        view = pictures.sheet(triples, low, high, limit)
        pictures.save_webp(view, folder / f"crops_{start // CROPS_PER_SHEET}.webp", 88)
    return {
        "src": f"{folder.name}/crops_",
        "per_sheet": CROPS_PER_SHEET,
        "number": len(uv),
        "side": side,
        "low": low,
        "high": high,
        "limit": limit,
        "scale_text": f"{CROP_CELLS} × {CROP_CELLS} cells; gray {n.fixed(low, 2)} to {n.fixed(high, 2)} and colour "
        f"{n.MINUS}{n.significant(limit, 2)} to +{n.significant(limit, 2)} of the local mean",
    }


def _spread(mask: npt.NDArray[np.bool_] | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if mask is None:
        return np.ones(shape, dtype=bool)
    return np.repeat(np.repeat(mask, CELL_PX, axis=0), CELL_PX, axis=1)


def write_cells(image: Image, folder: Path) -> Row | None:
    """Pictures of the median cell, seen and predicted, two cells wide with the cell in their middle; None without them."""
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
        uv = geometry.lattice_place(image.nodes_px, rows.select("row_px", "col_px").to_numpy().astype(np.float64))
        turn = np.exp(2j * np.pi * uv).mean(axis=0)
        place = np.angle(turn) / (2 * np.pi)
        found.append({"site": site, "u": round(float(place[0]) % 1, 3) % 1, "v": round(float(place[1]) % 1, 3) % 1})
    return found


# ---------------------------------------------------------------- page


def _histograms(image: Image, settings: dict[str, Any]) -> Row:
    row, found = image.row, {}
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


def viewer_data(image: Image, raw: Row, maps: dict[str, Row], crops: Row | None) -> Row:
    """What the viewer and the list of defects draw."""
    pixel, ruler = pixel_size_nm(image)
    data: Row = {
        "image_id": image.row["image_id"],
        "rows": image.raw.shape[0],
        "cols": image.raw.shape[1],
        "pixel_nm": pixel,
        "ruler": ruler,
        "raw": raw,
        "maps": maps,
        "colours": pictures.DIVERGING.tolist(),
        "kinds": KINDS,
        "outlines": None,
        "nodes": None,
        "crops": crops,
        "defects": defect_columns(image),
    }
    if image.nodes_px is not None and image.mask is not None:
        loops = geometry.outlines(image.mask, image.nodes_px)
        data["outlines"] = [[int(round(10 * x)) for point in loop for x in point] for loop in loops]
    if image.nodes_px is not None:
        u, v, places = geometry.coarse_nodes(image.nodes_px)
        tenths = np.rint(10 * places).astype(int)
        data["nodes"] = {"u": u, "v": v, "row": tenths[0].ravel().tolist(), "col": tenths[1].ravel().tolist()}
    return data


def _kind_rows(found: list[Row]) -> list[Row]:
    rows = []
    for row in found:
        density, between = n.interval(row["density_per_nm2"], row["ci_low"], row["ci_high"])
        rows.append(row | {"number_text": n.count(row["number"]), "density": density, "interval": between})
    return rows


def write_page(image: Image, neighbours: tuple[str, str], shard: str, folder: Path, settings: dict[str, Any]) -> None:
    """Write the page, the pictures, the JSON and the CSV of one image into `folder`."""
    row = image.row
    name = str(row["image_id"])
    beside = folder / name
    beside.mkdir()
    raw, maps = write_raw(image, beside), write_maps(image, beside)
    crops, cells = write_crops(image, beside), write_cells(image, beside)
    points = image.defects.filter(pl.col("kind") != "extended")
    by_kind = densities([str(k or "unknown") for k in points["kind"]], row["area_nm2"])
    by_site = densities([str(s) for s in points["site"] if s], row["area_nm2"])
    histograms = _histograms(image, settings)
    todo, lines = advice(image), provenance(image, shard)
    pixel, ruler = pixel_size_nm(image)
    twin = {
        "image": row,
        "warnings": warnings_of(image),
        "source": image.source,
        "lattice": image.lattice,
        "model": image.model,
        "ruler": {"pixel_nm": pixel, "from": ruler},
        "expected_false": row["defects"] * row["fdr"] if row["defects"] is not None and n.usable(row["fdr"]) else None,
        "density_by_kind": by_kind,
        "density_by_site": by_site,
        "sites": cells["sites"] if cells else [],
        "histograms": histograms,
        "display": {"raw": raw, "maps": maps, "crops": crops, "cells": cells},
        "defects": image.defects.to_dicts(),
        "provenance": {"shard": shard, "versions": versions(), "config": settings["config"]},
    }
    (folder / f"{name}.json").write_text(json_text(twin, indent=1) + "\n", encoding="ascii")
    write_csv(image.defects, folder / f"{name}.defects.csv")
    page = render(
        "image.html.j2",
        ("viewer.js", "image.js"),
        viewer_data(image, raw, maps, crops),
        title=title(row),
        folder=file_name(row)[0],
        row=row,
        name=name,
        state=STATES[row["state"]],
        neighbours=neighbours,
        figures=key_figures(row) if row["state"] == "analysed" else [],
        warnings=warnings_of(image),
        reason=row["reason"] if row["state"] != "analysed" else "",
        advice=todo,
        ruler=ruler,
        has_pixel=pixel is not None,
        maps=maps,
        mask=image.mask is not None and image.nodes_px is not None,
        nodes=image.nodes_px is not None,
        crops=crops,
        cells=cells,
        kinds=KINDS,
        kind_rows=_kind_rows(by_kind),
        site_rows=_kind_rows(by_site),
        extended=n.count(image.defects.height - points.height) if image.defects.height > points.height else "",
        histograms=histograms,
        published=plots.published_plot(histograms["anm"]) if "anm" in histograms else None,
        z=plots.z_plot(histograms["z"]) if "z" in histograms else None,
        texts=_texts(image, histograms),
        lattice=lattice_table(image),
        quality=quality_table(image),
        provenance=lines,
        versions=versions(),
        config=yaml.safe_dump(settings["config"], sort_keys=True, allow_unicode=True),
        metadata=json_text(image.source.get("original_metadata", {}), indent=1),
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
            "normal_share": n.percent(float(2 * stats.norm.sf(anm["band_std"])), 1),
            "band_std": n.significant(anm["band_std"], 2),
            "mean": n.fixed(anm["mean"], n.decimals_for(anm["std"])),
            "std": n.fixed(anm["std"], n.decimals_for(anm["std"])),
            "published_flagged": n.count(row["published_flagged"]),
            "published_share": n.percent(share, 1),
        }
    if "z" in histograms:
        found["beyond"] = n.count(histograms["z"]["beyond"]) if histograms["z"]["beyond"] else ""
        found["z_reach"] = n.significant(histograms["z"]["edges"][-1], 2)
    return found


def main(
    images_zarr: str | Path,
    tiles_zarr: str | Path,
    differences_zarr: str | Path,
    maps_zarr: str | Path,
    defects: str | Path,
    images: str | Path,
    columns: str | Path,
    out_dir: str | Path,
    settings: dict[str, Any],
) -> None:
    """Write the pages of one shard into `out_dir`.

    Parameters
    ----------
    images_zarr, tiles_zarr, differences_zarr, maps_zarr : path
        The shard's zarr stores.
    defects, images, columns : path
        The shard's Parquet tables.
    out_dir : path
        Written whole: <image_id>.html, .json, .defects.csv and the folder <image_id> of each image that was read.
    settings : dict
        ``published_band_std``: half width of the published rule's band [std]; ``config``: the merged configuration,
        shown as it is.
    """
    stores = {
        key: zarr.open_group(str(path), mode="r")
        for key, path in zip(
            ("images", "tiles", "differences", "maps"), (images_zarr, tiles_zarr, differences_zarr, maps_zarr), strict=True
        )
    }
    rows = [row for row in pl.read_parquet(images).iter_rows(named=True) if row["state"] != "rejected"]
    found, tested = pl.read_parquet(defects), pl.read_parquet(columns)
    names = [str(row["image_id"]) for row in rows]
    with whole_directory(out_dir) as part:
        for i, row in enumerate(rows):
            neighbours = (names[i - 1] if i else "", names[i + 1] if i + 1 < len(names) else "")
            write_page(load_image(row, stores, found, tested), neighbours, Path(out_dir).name, part, settings)


if "snakemake" in globals():
    snakemake: Any = globals()["snakemake"]
    main(
        snakemake.input.images_zarr,
        snakemake.input.tiles_zarr,
        snakemake.input.differences_zarr,
        snakemake.input.maps_zarr,
        snakemake.input.defects,
        snakemake.input.images,
        snakemake.input.columns,
        snakemake.output[0],
        dict(snakemake.params.settings),
    )
