# ruff: noqa: E501
"""Made-up products of the stages before the report, with everything consistent: for tests of the report alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import zarr
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.stats import norm

import compare_images
import gather_defects
from oddlattice.archive import review_files
from oddlattice.crystal import Crystal, crystal_from_dict
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.run.stage_settings import DefectSettings, StatisticsSettings
from oddlattice.simulate.columnwise import Conditions, Defect, Scan, simulate_scan
from oddlattice.statistics import per_image, polar, populations
from oddlattice.storage.image_json import write_by_image
from oddlattice.storage.products import COLUMNS, DEFECTS, GRAINS, IMAGES, OF_SERIES, READ, table, write_parquet
from support.settings import default

CRYSTAL = {
    "name": "srtio3_001",
    "a_nm": 0.3905,
    "b_nm": 0.3905,
    "gamma_deg": 90,
    "repeat_nm": 0.3905,
    "columns": [
        {"site": "Sr", "u": 0.0, "v": 0.0, "atoms": {"Sr": 1}, "rms_nm": 0.0089},
        {"site": "Ti", "u": 0.5, "v": 0.5, "atoms": {"Ti": 1, "O": 1}, "rms_nm": 0.0075},
    ],
}
KINDS = ("vacancy-like", "heavier", "lighter", "displaced", "extra", "unknown")
CONFIG: dict[str, Any] = {"models": ["srtio3_001"], "defects": default(DefectSettings).as_dict()}


@dataclass(frozen=True)
class Made:
    """Paths of the products of one shard."""

    images_zarr: Path
    tiles_zarr: Path
    differences_zarr: Path
    maps_zarr: Path
    defects: Path
    images: Path
    columns: Path
    grains: Path
    statistics: Path
    reviews_json: Path


def crystal() -> Crystal:
    """SrTiO3 along [001]."""
    return crystal_from_dict(CRYSTAL, Path("crystal.yaml"))


def scan_of(
    shape: tuple[int, int], defects: int, seed: int, pixel_nm: float = 0.0156, rotation_deg: float = 12.0
) -> Scan:
    """A scan with `defects` changed columns of several kinds."""
    found = crystal()
    conditions = Conditions(pixel_nm=pixel_nm, rotation_deg=rotation_deg, thickness_gradient=(0.15, -0.1))
    bare = simulate_scan(found, conditions, (64, 64), seed=seed, origin_px=(shape[0] / 2, shape[1] / 2))
    rng = np.random.default_rng(seed)
    reach = int(max(shape) / np.hypot(*bare.vectors_px[0])) + 1
    cells = [(int(i), int(j)) for i in range(-reach, reach) for j in range(-reach, reach)]
    places = bare.origin_px + np.array(cells) @ bare.vectors_px
    inside = np.flatnonzero(((places > 30) & (places < np.array(shape) - 30)).all(axis=1))
    placed = []
    for k, index in enumerate(rng.permutation(inside)[:defects]):
        column = int(rng.integers(2))
        change = [
            {"kind": "vacancy-like", "factor": 0.0},
            {"kind": "heavier", "factor": 1.7},
            {"kind": "lighter", "factor": 0.55},
            {"kind": "displaced", "shift_pm": (30.0, -50.0)},
        ][k % 4]
        placed.append(Defect(cells[index], column, **change))  # type: ignore[arg-type]
    return simulate_scan(found, conditions, shape, tuple(placed), seed=seed, origin_px=tuple(bare.origin_px))


def tile_arrays(scan: Scan) -> dict[str, np.ndarray]:
    """The lattice frame of a scan from its known lattice: tiles, mask, nodes, prediction, difference."""
    rows, cols = scan.counts.shape
    corners = (np.array([(r, c) for r in (0, rows - 1) for c in (0, cols - 1)]) - scan.origin_px) @ np.linalg.inv(
        scan.vectors_px
    )
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    size = high - low
    grid = np.stack(np.meshgrid(np.arange(size[0] + 1), np.arange(size[1] + 1), indexing="ij"), -1) + low
    nodes = np.moveaxis(grid @ scan.vectors_px + scan.origin_px, -1, 0)
    fine = (
        np.stack(np.meshgrid(*((np.arange(n * 20) + 0.5) / 20 for n in size), indexing="ij"), -1) + low
    ) @ scan.vectors_px
    places = np.moveaxis(fine + scan.origin_px, -1, 0)
    flat = scan.counts / gaussian_filter(scan.counts, 60)
    tiles = map_coordinates(flat, places, order=1, cval=0.0).astype(np.float32)
    margin = 14
    inside = ((places > margin) & (places < np.array([rows, cols])[:, None, None] - 1 - margin)).all(axis=0)
    mask = inside.reshape(size[0], 20, size[1], 20).all(axis=(1, 3))
    cells = tiles.reshape(size[0], 20, size[1], 20).swapaxes(1, 2)[mask]
    prediction = np.tile(np.median(cells, axis=0), tuple(size)).astype(np.float32)
    wide = np.repeat(np.repeat(mask, 20, 0), 20, 1)
    difference = np.where(wide, tiles - prediction, 0).astype(np.float32)
    return {
        "tiles": tiles,
        "mask": mask.astype(np.uint8),
        "nodes_px": nodes.astype(np.float32),
        "prediction": np.where(wide, prediction, 0).astype(np.float32),
        "difference": difference,
        "low": low,
    }


def tested_columns(scan: Scan, arrays: dict[str, np.ndarray], image_id: str, seed: int) -> pl.DataFrame:
    """Every column of the analysed cells, with scores drawn at random; the changed columns score high."""
    rng = np.random.default_rng(seed)
    cell = scan.cells - arrays["low"]
    size = np.array(arrays["mask"].shape)
    ok = ((cell >= 0) & (cell < size)).all(axis=1)
    index = np.flatnonzero(ok)[arrays["mask"][tuple(cell[ok].T)] > 0]
    z = rng.normal(size=len(index))
    known = {(*d.cell, d.column): d for d in scan.defects}
    change, shift = rng.normal(0, 0.04, len(index)), rng.normal(0, 4, (len(index), 2))
    kinds = np.full(len(index), "", dtype=object)
    for k, i in enumerate(index):
        defect = known.get((int(scan.cells[i, 0]), int(scan.cells[i, 1]), int(scan.columns[i])))
        if defect is not None:
            z[k] = (-1 if defect.factor < 1 else 1) * rng.uniform(5, 14)
            change[k] += defect.factor - 1
            shift[k] += defect.shift_pm
            kinds[k] = defect.kind
    return pl.DataFrame(
        {
            "image_id": [image_id] * len(index),
            "grain": [1] * len(index),
            "cell_u": cell[index, 0],
            "cell_v": cell[index, 1],
            "column": scan.columns[index],
            "site": [("Sr", "Ti")[c] for c in scan.columns[index]],
            "row_px": scan.places_px[index, 0],
            "col_px": scan.places_px[index, 1],
            "z": z,
            "p_value": 2 * norm.sf(np.abs(z)),
            "q_value": np.minimum(1, 2 * norm.sf(np.abs(z)) * 1000),
            "probability_real": np.minimum(1 - 10 * norm.sf(np.abs(z) - 2), 1).clip(0),
            "z_intensity": z,
            "z_shift": np.abs(z) / 2,
            "anm": 0.06 * z + rng.normal(0, 0.02, len(index)),
            "intensity_change": change,
            "intensity_change_sigma": np.full(len(index), 0.04),
            "intensity_noise": np.full(len(index), 0.02),
            "shift_row_pm": shift[:, 0],
            "shift_col_pm": shift[:, 1],
            "shift_sigma_pm": np.full(len(index), 4.0),
            "kind": kinds,
        },
        schema_overrides={"kind": pl.String},
    )


def defect_rows(columns: pl.DataFrame, path: str, pixel_nm: float, extended: bool) -> list[dict[str, Any]]:
    """The flagged columns as rows of the table of defects, and one extended region where asked for."""
    rows = []
    for row in columns.filter(pl.col("kind") != "").sort(pl.col("z").abs(), descending=True).iter_rows(named=True):
        row |= {"path": path, "signal": "HAADF", "frame": 0, "kind_probability": 0.93, "review": ""}
        row |= {"row_nm": row["row_px"] * pixel_nm, "col_nm": row["col_px"] * pixel_nm}
        rows.append({k: v for k, v in row.items() if k in DEFECTS})
    if extended:
        place = {"row_px": 120.0, "col_px": 260.0, "row_nm": 120 * pixel_nm, "col_nm": 260 * pixel_nm}
        head = {"image_id": columns["image_id"][0], "path": path, "signal": "HAADF", "frame": 0}
        rows.append(
            head
            | place
            | {
                "kind": "extended",
                "grain": 1,
                "number": 1,
                "area_px2": 1.3 / pixel_nm**2,
                "area_nm2": 1.3,
                "review": "",
            }
        )
    return rows


def image_row(image_id: str, path: str, state: str, **values: Any) -> dict[str, Any]:
    """A row of the images table."""
    base = {"image_id": image_id, "file_id": image_id, "path": path, "signal": "HAADF", "frame": 0, "state": state}
    return base | {"reason": "", "model": "", "acquired": ""} | values


def known_defect(name: str, change: float, shift_pm: float, found: float) -> dict[str, Any]:
    """A row of products.COMPLETENESS."""
    whole = {"atoms": 20, "of_atoms": 20} if change else {"atoms": 0, "of_atoms": 0}
    about = {
        "name": name,
        "site": "Sr",
        "kind": "lighter",
        "thickness_nm": 7.81,
        "change": change,
        "shift_pm": shift_pm,
    }
    interval = {"ci_low": found - 0.05, "ci_high": min(1.0, found + 0.04)}
    return about | whole | {"n": 500, "recovered": found, "ideal": min(1.0, found + 0.1)} | interval


def image_statistics(
    row: dict[str, Any], defects: list[dict[str, Any]], columns: pl.DataFrame, arrays: dict[str, np.ndarray], seed: int
) -> dict[str, Any]:
    """Statistics as measure_images makes them, the B sites displaced at random."""
    nodes, mask = arrays["nodes_px"], arrays["mask"]
    pixel = np.array([row["pixel_nm"]] * 2)
    found = per_image.defect_figures(row, table(defects, DEFECTS), columns)
    found["clustering"] = per_image.clustering(table(defects, DEFECTS), columns, pixel, 0.39, row["area_nm2"], seed)
    found["populations"] = populations.site_populations(columns, pixel, seed)
    at = Coordinates(nodes, np.zeros(row["rows"]))
    found["lattice"] = per_image.lattice_figures(*polar.lattice_field(nodes, mask, pixel), at)
    cells = np.argwhere(mask > 0)
    shift = np.random.default_rng(seed).normal(6, 3, (len(cells), 2))
    moved = polar.Polar(cells, cells + 0.5, shift, 3.0, "Sr", "Ti")
    return found | {"polar": per_image.polar_figures(moved, at)}


def trials(half: float) -> list[dict[str, float]]:
    """Part of trial columns found, half of them at a loss of `half`."""
    found = []
    for k in range(1, 21):
        part = float(norm.cdf((k / 20 - half) / 0.05))
        found.append(
            {
                "loss": k / 20,
                "n": 400,
                "recovered": part,
                "ci_low": max(0.0, part - 0.05),
                "ci_high": min(1.0, part + 0.05),
            }
        )
    return found


def _write_image(group: zarr.Group, image: np.ndarray, **attributes: Any) -> None:
    array = group.create_array(
        "0", shape=image.shape, dtype=image.dtype, chunks=(min(1024, image.shape[0]), min(1024, image.shape[1]))
    )
    array[:] = image
    if attributes:
        group.attrs["oddlattice"] = attributes


@dataclass
class Shard:
    """Collects the products of one shard; `write` puts the tables beside the zarr stores."""

    folder: Path
    name: str = "s0001-a"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.paths = Made(
            *(self.folder / f"{part}.zarr" for part in ("images", "tiles", "differences", "maps")),
            *(self.folder / f"{part}.parquet" for part in ("defects", "images", "columns", "grains")),
            self.folder / "statistics.json",
            self.folder / "reviews.json",
        )
        self.statistics: dict[str, Any] = {}
        self.statements: list[dict[str, Any]] = []
        self.files: list[dict[str, Any]] = []
        names = ("images", "tiles", "differences", "maps")
        self.roots = {k: zarr.open_group(self.folder / f"{k}.zarr", mode="w", zarr_format=3) for k in names}
        self.rows: list[dict[str, Any]] = []
        self.defects: list[dict[str, Any]] = []
        self.columns: list[pl.DataFrame] = []

    def _source(self, image_id: str, path: str, image: np.ndarray, **more: Any) -> None:
        attributes: dict[str, Any] = {
            "image_id": image_id, "file_id": image_id, "path": path, "signal": "HAADF", "frame": 0,
            "rows": image.shape[0], "cols": image.shape[1], "pixel_nm_header": [0.0161, 0.0161], "units_header": "n_m",
            "sha256": "3b" * 32, "acquired": "", "detector": "HAADF", "warnings": [],
            "original_metadata": {"Microscope": {"HT_V": 200000, "Name": "Titan"}},
        }  # fmt: skip
        _write_image(self.roots["images"].create_group(image_id), image, **(attributes | more))

    def analysed(
        self, image_id: str, path: str, scan: Scan, *, extended: bool = False, seed: int = 1, **values: Any
    ) -> None:
        """Add an analysed image."""
        pixel_nm = 0.0156
        arrays = tile_arrays(scan)
        self._source(image_id, path, scan.counts.astype(np.uint16), warnings=values.pop("warnings", []))
        group = self.roots["tiles"].create_group(f"{image_id}/1")
        for key in ("tiles", "mask", "nodes_px"):
            group[key] = arrays[key]
        group["line_shift_px"] = np.zeros(scan.counts.shape[0], dtype=np.float32)
        a, b = scan.vectors_px
        group.attrs["oddlattice"] = {
            "state": "tiled", "reason": "", "scan_transposed": False, "crystal": "srtio3_001", "a_px": list(a), "b_px": list(b), "a_sigma_px": 0.004,
            "b_sigma_px": 0.005, "origin_px": list(scan.origin_px), "gamma_deg": 90.02, "rotation_deg": 12.01,
            "a_nm_header": 0.4031, "b_nm_header": 0.4028, "pixel_nm": pixel_nm, "lattice_rms_px": 0.31,
            "row_jitter_px_rms": 0.34, "cells_analysed": int(arrays["mask"].sum()), "cells_masked": 60,
            "warnings": ["The pixel size by the lattice is 3.1 % smaller than the header's."],
            "fit_quality": {"peak_to_background": 41.2, "columns_fitted": 1800},
        }  # fmt: skip
        group = self.roots["differences"].create_group(f"{image_id}/1")
        for key in ("prediction", "difference"):
            group[key] = arrays[key]
        group.attrs["oddlattice"] = {
            "model": "srtio3_001",
            "model_sha256": "c4" * 32,
            "method": "vae",
            "model_misfit": 1.04,
            "state": "analysed",
        }
        columns = tested_columns(scan, arrays, image_id, seed)
        noise = scan.counts / gaussian_filter(scan.counts, 60) - 1
        raw_difference = gaussian_filter(np.random.default_rng(seed).normal(size=noise.shape), 2) * 0.4
        zmap = gaussian_filter(np.random.default_rng(seed + 1).normal(size=noise.shape), 4) * 14
        for row in columns.filter(pl.col("kind") != "").iter_rows(named=True):
            r, c = int(row["row_px"]), int(row["col_px"])
            part = (slice(max(0, r - 9), r + 10), slice(max(0, c - 9), c + 10))
            raw_difference[part] += 0.6 * np.sign(row["z"])
            zmap[part] += row["z"]
        raw_difference[:10] = np.nan
        zmap[:10] = np.nan
        maps = self.roots["maps"].create_group(image_id)
        maps.attrs["oddlattice"] = {
            "image_id": image_id,
            "completeness": {site: trials(x) for site, x in (("Sr", 0.1), ("Ti", 0.2))},
            "trials": [known_defect("Sr empty", -1.0, 0.0, 1.0), known_defect("Sr moved 10 pm", 0.0, 10.0, 0.62)],
        }
        _write_image(maps.create_group("difference"), raw_difference.astype(np.float32))
        _write_image(maps.create_group("z"), zmap.astype(np.float32))
        smooth = gaussian_filter(scan.counts.astype(np.float32), 1.5)
        smooth[:10] = 0
        _write_image(maps.create_group("prediction"), smooth)
        found = defect_rows(columns, path, pixel_nm, extended)
        self.defects += found
        self.columns.append(columns.drop("kind"))
        area, number = float(arrays["mask"].sum()) * 0.3905**2, sum(r["kind"] != "extended" for r in found)
        row = image_row(
            image_id, path, "analysed", rows=scan.counts.shape[0], cols=scan.counts.shape[1], pixel_nm_header=0.0161,
            pixel_nm=pixel_nm, a_nm=0.4031, b_nm=0.4028, a_px=25.0, b_px=25.0, gamma_deg=90.02, rotation_deg=12.01,
            lattice_rms_px=0.31, model="srtio3_001", model_misfit=1.04, cells_analysed=int(arrays["mask"].sum()),
            cells_masked=60, columns_tested=columns.height, defects=number, extended_regions=int(extended),
            extended_area_nm2=1.3 if extended else 0.0, density_per_nm2=number / area, density_ci_low=max(0, number - 2 * number**0.5) / area,
            density_ci_high=(number + 2 * number**0.5 + 3) / area, density_corrected_per_nm2=1.1 * number / area,
            density_corrected_ci_low=max(0, number - 2 * number**0.5) / area,
            density_corrected_ci_high=1.2 * (number + 2 * number**0.5 + 3) / area, area_nm2=area, fdr=0.05, density_corrected_left_out=2,
            expected_false=0.7, expected_false_ci_low=0.0, expected_false_ci_high=3.0, false_dispersion=1.2, noise_model="residuals of the image",
            dose_counts_per_nm2=1.6e6, published_mean=0.001, published_std=0.064, published_flagged=int(columns.height * 0.14),
            completeness_vacancy=0.98, completeness_vacancy_ci_low=0.953, completeness_vacancy_ci_high=0.993,
            smallest_loss_90=0.21, acquired=f"2026-03-04T15:12:{9 + len(self.rows):02d}",
        )  # fmt: skip
        self.rows.append(row | values)
        self.statistics[image_id] = image_statistics(row | values, found, columns.drop("kind"), arrays, seed)

    def plain(
        self, image_id: str, path: str, state: str, reason: str, lattice: dict[str, Any] | None = None, **values: Any
    ) -> None:
        """Add an image that was read and not analysed."""
        image = np.random.default_rng(5).poisson(40, (300, 420)).astype(np.uint16)
        self._source(image_id, path, image, **values.pop("source", {}))
        group = self.roots["tiles"].create_group(image_id)
        group.attrs["oddlattice"] = {"state": state, "reason": reason, "warnings": [], "fit_quality": {}} | (
            lattice or {}
        )
        self.rows.append(image_row(image_id, path, state, reason=reason, rows=300, cols=420, **values))

    def rejected(self, image_id: str, path: str, reason: str) -> None:
        """Add a refusal."""
        self.rows.append(image_row(image_id, path, "rejected", reason=reason, signal=""))

    def write(self) -> Made:
        """Write the tables."""
        read = [{k: row[k] for k in READ if k in row} for row in self.rows]
        self.roots["images"].attrs["images"] = read
        columns = pl.concat(self.columns).to_dicts() if self.columns else []
        for path, rows, schema in (
            (self.paths.defects, self.defects, DEFECTS),
            (self.paths.images, self.rows, IMAGES),
            (self.paths.columns, columns, COLUMNS),
            (self.paths.grains, [], GRAINS),
        ):
            write_parquet(table(rows, schema), path)
        text = review_files.dumped({"files": self.files, "statements": self.statements})
        self.paths.reviews_json.write_text(text, encoding="ascii")
        write_by_image(self.statistics.items(), self.paths.statistics)
        return self.paths

    def gathered(self, folder: Path) -> dict[str, str]:
        """The tables of all shards, as gather_defects leaves them, by name."""
        made = self.write()
        folder.mkdir(parents=True, exist_ok=True)
        parts = ("defects", "images", "reviews", "completeness", "grains", "boundaries")
        names = [f"{name}_{end}" for name in parts for end in ("parquet", "csv")]
        out = {name: str(folder / name.replace("_", ".")) for name in [*names, "precision_csv"]}
        none: list[str] = []
        tables = {"defects": [str(made.defects)], "images": [str(made.images)], "columns": [str(made.columns)]}
        tables |= {"completeness": none, "grains": none, "boundaries": none}
        gather_defects.main(tables, [str(made.maps_zarr)], str(made.reviews_json), out)
        beside = {name: folder / f"{name}.csv" for name in compare_images.CSV}
        statistics = folder / "statistics.json"
        given = (
            [str(made.statistics)],
            [str(made.images_zarr)],
            no_series(),
            statistics,
            beside,
            folder / "populations.parquet",
            series_in(folder),
            default(StatisticsSettings),
            1,
            [str(made.columns)],
        )
        tables_of_all = (out[f"{name}_parquet"] for name in ("images", "defects", "grains"))
        compare_images.main(*tables_of_all, *given)
        return out | {"statistics_json": str(statistics)}


def no_series() -> dict[str, list[str]]:
    """Tables of stacks of shards without any."""
    return {name: [] for name in OF_SERIES}


def series_in(folder: Path) -> dict[str, str]:
    """Where compare_images writes the tables of stacks."""
    return {f"{n}_{end}": str(folder / f"{n}.{end}") for n in OF_SERIES for end in ("parquet", "csv")}


def arguments(made: Made) -> tuple[Path, ...]:
    """What write_pages.main reads, in its order."""
    return tuple(path for name, path in vars(made).items() if name != "grains")


__all__ = ["CONFIG", "Shard", "arguments", "crystal", "image_row", "scan_of"]
