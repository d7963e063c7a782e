"""The results of a run as arrays and tables with units: `oddlattice.open("results")`."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import zarr
from zarr.storage import MemoryStore

from oddlattice.defects.kinds import KINDS, kind_of
from oddlattice.lattice import pixel_size
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.record import Record, write_tiles
from oddlattice.report.structures import column_table, elements_of, structure
from oddlattice.run.settings import find_model, load_yaml, model_names
from oddlattice.run.stage_settings import DefectSettings, InferSettings
from oddlattice.statistics.strain import COMPONENTS, Strain
from oddlattice.statistics.strain_maps import strain_from_table, write_strain
from oddlattice.storage.atomic import whole_directory
from oddlattice.storage.groups import (
    GRAIN_MAP,
    array_if_any,
    attributes_of,
    grain_if_any,
    group_if_any,
    group_of,
    listed_in,
    new_store,
    values_of,
)
from oddlattice.storage.image_json import ByImage
from oddlattice.storage.packed_stores import ENDING, open_store
from oddlattice.storage.products import BOUNDARIES, GRAINS, Schema, table
from oddlattice.storage.rows import Row

#: Unit by the end of a column's or key's name; the longest that fits counts.
UNITS = {
    "_per_nm2": "nm^-2",
    "_counts_per_nm2": "counts nm^-2",
    "_nm2": "nm^2",
    "_barn": "barn",
    "_px": "px",
    "_nm": "nm",
    "_pm": "pm",
    "_deg": "deg",
    "_bytes": "byte",
}
_BY_NAME = {
    "density_ci_low": "nm^-2",
    "density_ci_high": "nm^-2",
    "density_corrected_ci_low": "nm^-2",
    "density_corrected_ci_high": "nm^-2",
    "density_reviewed_ci_low": "nm^-2",
    "density_reviewed_ci_high": "nm^-2",
    "pixel_nm_header": "nm",
}
_SIDES = {"D": (4, 0.0), "^": (3, math.pi), "v": (3, 0.0), "h": (6, 0.0)}  # corners and turn of a marker


def unit_of(column: str) -> str:
    """Unit of a column or key by its name; "" for a plain number, a fraction or a text."""
    if column in _BY_NAME:
        return _BY_NAME[column]
    ends = [end for end in UNITS if column.endswith(end)]
    return UNITS[max(ends, key=len)] if ends else ""


class Results:
    """The results of a run; its tables are read when they are asked for.

    Units stand in the names of the columns; `units` tells them.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / "4_defects/images.parquet").is_file():
            raise FileNotFoundError(
                f"{self.path}: found no 4_defects/images.parquet; needed the folder `results` of a finished run"
            )

    @cached_property
    def images(self) -> pl.DataFrame:
        """A row per image, analysed or refused (products.IMAGES)."""
        return pl.read_parquet(self.path / "4_defects/images.parquet")

    @cached_property
    def defects(self) -> pl.DataFrame:
        """A row per defect of all images (products.DEFECTS)."""
        return pl.read_parquet(self.path / "4_defects/defects.parquet")

    @cached_property
    def grains(self) -> pl.DataFrame:
        """A row per grain of every image with a lattice (products.GRAINS)."""
        return self._if_any("grains", GRAINS)

    @cached_property
    def boundaries(self) -> pl.DataFrame:
        """A row per boundary between two grains, and per fault within one (products.BOUNDARIES)."""
        return self._if_any("boundaries", BOUNDARIES)

    def _if_any(self, name: str, schema: Schema) -> pl.DataFrame:
        """A table of this name; empty where another version of the program wrote none."""
        path = self.path / f"4_defects/{name}.parquet"
        return pl.read_parquet(path) if path.is_file() else table([], schema)

    @cached_property
    def series(self) -> pl.DataFrame:
        """A row per stack followed through its frames (products.SERIES)."""
        return pl.read_parquet(self.path / "4_defects/series.parquet")

    @cached_property
    def series_frames(self) -> pl.DataFrame:
        """A row per frame of a stack (products.SERIES_FRAMES)."""
        return pl.read_parquet(self.path / "4_defects/series_frames.parquet")

    @cached_property
    def tracks(self) -> pl.DataFrame:
        """A row per column of a stack for as long as it was odd (products.TRACKS)."""
        return pl.read_parquet(self.path / "4_defects/tracks.parquet")

    @cached_property
    def events(self) -> pl.DataFrame:
        """A row per change, return or hop of a column of a stack (products.EVENTS)."""
        return pl.read_parquet(self.path / "4_defects/events.parquet")

    @cached_property
    def statistics(self) -> Row:
        """What all images show together: densities, sites, groups, comparisons, trends; all of statistics.html."""
        found: Row = json.loads((self.path / "4_defects/statistics.json").read_text(encoding="utf-8"))
        return found

    @property
    def units(self) -> dict[str, str]:
        """Unit of every column of `images` and `defects`; "" for a plain number or a text."""
        return {name: unit_of(name) for name in [*self.images.columns, *self.defects.columns]}

    @cached_property
    def _shards(self) -> dict[str, str]:
        """Shard of each image that was read, by image id."""
        found: dict[str, str] = {}
        for store in sorted((self.path / "1_images").glob("*.zarr")):
            root = zarr.open_group(store, mode="r")
            found |= {str(row["image_id"]): store.stem for row in listed_in(root) if row["state"] == "read"}
        return found

    def image(self, image_id: str) -> "ResultImage":
        """One image by its id, as it stands in `images`.

        Raises
        ------
        KeyError
            If there is no such image, or it could not be read.
        """
        if image_id not in self._shards:
            raise KeyError(f"{self.path}: found no image {image_id!r} that was read; `images` lists them")
        return ResultImage(self, image_id, self._shards[image_id])

    __getitem__ = image

    def stack(self, series_id: str) -> "ResultSeries":
        """A stack by its id, as it stands in `series`.

        Raises
        ------
        KeyError
            If there is no such stack.
        """
        if series_id not in self.series["series_id"]:
            raise KeyError(f"{self.path}: found no stack {series_id!r}; `series` lists them")
        return ResultSeries(self, series_id)

    def __iter__(self) -> Iterator["ResultImage"]:
        return (self.image(name) for name in self.images["image_id"] if name in self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def __repr__(self) -> str:
        states = ", ".join(f"{n} {state}" for state, n in self.images["state"].value_counts().sort("state").iter_rows())
        return f"<oddlattice results {self.path}: {states or 'no image'}; {self.defects.height} defects>"


class ResultSeries:
    """A stack of a run: its frames as one lazy array, and what was followed through them.

    Attributes
    ----------
    series_id : str
    """

    def __init__(self, results: Results, series_id: str) -> None:
        self.results, self.series_id = results, series_id

    def __repr__(self) -> str:
        row = self.row
        return f"<oddlattice series {self.series_id}: {row['state']}, {row['frames']} frames>"

    @cached_property
    def row(self) -> Row:
        """Its row of the table of series."""
        return self.results.series.row(by_predicate=pl.col("series_id") == self.series_id, named=True)

    @property
    def frames(self) -> pl.DataFrame:
        """A row per frame: drift, time and dose, columns that are odd (products.SERIES_FRAMES)."""
        return self._own(self.results.series_frames)

    @property
    def tracks(self) -> pl.DataFrame:
        """A row per column for as long as it was odd (products.TRACKS)."""
        return self._own(self.results.tracks)

    @property
    def events(self) -> pl.DataFrame:
        """A row per change, return or hop (products.EVENTS)."""
        return self._own(self.results.events)

    def _own(self, found: pl.DataFrame) -> pl.DataFrame:
        return found.filter(pl.col("series_id") == self.series_id)

    @property
    def raw(self) -> Any:
        """The frames as they were read, dask array of shape (frames, rows, cols), in the order of `frames`."""
        import dask.array as da

        frames = [self.results.image(name).raw for name in self.frames["image_id"]]
        return da.stack(frames)  # type: ignore[no-untyped-call]

    @property
    def drift_px(self) -> npt.NDArray[np.float64]:
        """Drift (row, col) of the specimen since the first frame used, shape (frames, 2) [px]; NaN where left out."""
        return self.frames.select("drift_row_px", "drift_col_px").to_numpy().astype(np.float64)


class ResultImage:
    """One image of a run: arrays are lazy dask arrays, axes (row, col).

    Attributes
    ----------
    image_id, shard : str
    """

    def __init__(self, results: Results, image_id: str, shard: str) -> None:
        self.results, self.image_id, self.shard = results, image_id, shard

    def __repr__(self) -> str:
        return f"<oddlattice image {self.image_id}: {self.row['state']}, {self.defects.height} defects>"

    @cached_property
    def row(self) -> Row:
        """Its row of the table of images."""
        return self.results.images.row(by_predicate=pl.col("image_id") == self.image_id, named=True)

    @property
    def defects(self) -> pl.DataFrame:
        """Its defects (products.DEFECTS)."""
        return self.results.defects.filter(pl.col("image_id") == self.image_id)

    @property
    def grains(self) -> pl.DataFrame:
        """Its grains (products.GRAINS)."""
        return self.results.grains.filter(pl.col("image_id") == self.image_id)

    @property
    def boundaries(self) -> pl.DataFrame:
        """Boundaries between its grains, and faults within them (products.BOUNDARIES)."""
        return self.results.boundaries.filter(pl.col("image_id") == self.image_id)

    @property
    def columns(self) -> pl.DataFrame:
        """Every column tested (products.COLUMNS)."""
        return self._table("columns")

    @property
    def places(self) -> pl.DataFrame:
        """Every column's measured place, and the polar displacement of B sites (products.PLACES)."""
        return self._table("places")

    def _table(self, name: str) -> pl.DataFrame:
        path = self.results.path / f"4_defects/{self.shard}.{name}.parquet"
        return pl.read_parquet(path).filter(pl.col("image_id") == self.image_id)

    @cached_property
    def statistics(self) -> Row:
        """Densities, site fractions, clustering and displacements; empty where it was not analysed."""
        return ByImage(self.results.path / f"4_defects/{self.shard}.statistics.json").get(self.image_id)

    def _group(self, stage: str) -> zarr.Group:
        return group_of(zarr.open_group(self.results.path / stage / f"{self.shard}.zarr", mode="r"), self.image_id)

    @cached_property
    def metadata(self) -> Row:
        """What the file said: pixel size, detector, acquisition time, its own metadata."""
        return attributes_of(self._group("1_images"))

    @property
    def pixel_nm(self) -> tuple[float, float] | None:
        """Pixel size (row, col) [nm]: by the fitted lattice where there is one, else the header's; None without."""
        return pixel_size.pixel_nm(self.row["pixel_nm"], pixel_size.header_nm(self.metadata))

    @property
    def raw(self) -> Any:
        """The image as it was read, dask array of shape (rows, cols) [counts]."""
        return _lazy(self._group("1_images")["0"])

    @cached_property
    def maps(self) -> dict[str, Any]:
        """Maps in the image's frame by name, dask arrays of shape (rows, cols): difference [local mean], z, ...

        Where they were dropped to save space they are made again, in seconds; the models of the run must be here.
        """
        path = self.results.path / f"4_defects/{self.shard}.zarr"
        if path.is_dir():
            return self._maps_in(path)
        if self.row["state"] != "analysed":
            return {}
        with TemporaryDirectory() as folder:
            self._make_maps(Path(folder))
            found = self._maps_in(Path(folder) / "maps")
            return {name: _dask(values.compute()) for name, values in found.items()}

    def _maps_in(self, path: Path) -> dict[str, Any]:
        root = zarr.open_group(path, mode="r")
        if self.image_id not in root:
            return {}
        names = sorted(p.name for p in (path / self.image_id).iterdir() if p.is_dir())
        return {name: _lazy(root[f"{self.image_id}/{name}/0"]) for name in names}

    def _make_maps(self, folder: Path) -> None:
        from oddlattice.defects.maps_again import maps_again  # here: it brings PyTorch

        config = load_yaml(self.results.path / "config.yaml")
        places = [Path.cwd() / "models", Path(__file__).parents[3] / "models"]
        models = {name: find_model(name, places) for name in model_names(config["models"], places)}
        settings = InferSettings.of(config["infer"]), DefectSettings.of(config["defects"])
        images = zarr.open_group(self.results.path / f"1_images/{self.shard}.zarr", mode="r")
        maps_again(images, next(self._lattice_stores()), self.image_id, models, settings, folder)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Cells analysed, shape (U, V); empty without a lattice."""
        return np.asarray(self._tile("mask"), dtype=bool)

    @property
    def nodes_px(self) -> npt.NDArray[np.float32]:
        """Places (row, col) of the corners of the cells, shape (2, U + 1, V + 1) [px]; empty as `mask` is."""
        return np.asarray(self._tile("nodes_px"), dtype=np.float32)

    @property
    def grain_map(self) -> npt.NDArray[np.uint8]:
        """Grain of every pixel, shape (rows, cols), 0 where is no crystal; empty as `mask` is, and of one grain."""
        found = array_if_any(group_if_any(self._lattices, self.image_id), GRAIN_MAP)
        return np.asarray(np.empty((0, 0)) if found is None else found[:], dtype=np.uint8)

    def strain(self, grain: int = 1) -> dict[str, npt.NDArray[np.float64]]:
        """Strain of a grain against its own mean lattice, cell by cell, from the places of its columns.

        Returns
        -------
        dict of str to ndarray
            ``exx``, ``eyy`` and ``exy``, of x along a row and y down, and ``rotation_deg``, from +row towards +col: of
            shape (U, V), nan where too few columns were measured. ``sigma``, of shape (4,): their standard errors.
            ``row_px`` and ``col_px``, of shape (U, V): where the cells' middles are. Empty where too few columns were
            measured.
        """
        found = self._strain(grain)
        if found is None:
            return {}
        strain, at = found
        cells = np.moveaxis(np.indices(strain.values.shape[1:]), 0, -1) + 0.5
        row, col = np.moveaxis(at.seen_px(cells.astype(np.float64)), -1, 0)
        values = dict(zip(COMPONENTS, strain.values, strict=True))
        return values | {"sigma": strain.sigma, "row_px": row, "col_px": col}

    def write_strain(self, folder: str | PathLike[str]) -> None:
        """Write the strain of all grains as OME-Zarr maps over the image into a new folder.

        Raises
        ------
        ValueError
            If there is none.
        """
        numbers = sorted(self.places["grain"].unique())
        found = {k: one for k in numbers if (one := self._strain(k)) is not None}
        if not found:
            raise ValueError(f"{self.image_id}: found no strain; needed columns side by side")
        with whole_directory(Path(folder)) as part:
            shape = (self.raw.shape[0], self.raw.shape[1])
            write_strain(new_store(part), found, shape, pixel_size.header_nm(self.metadata))

    def _strain(self, grain: int) -> tuple[Strain, Coordinates] | None:
        group = self._lattice(grain)
        if group is None or "mask" not in group:
            return None
        found = strain_from_table(self.places.filter(pl.col("grain") == grain), group, self.pixel_nm or (1.0, 1.0))
        return None if found is None else (found, Coordinates.of(group))

    def tiles(self, grain: int = 1) -> npt.NDArray[np.float32]:
        """The image on the lattice of a grain, divided by its local mean; empty without a lattice.

        Shape (U n_u, V n_v). Cut from the image with the record of its registration: the same bytes as those that were
        analysed, whether these are still there or were dropped to save space.
        """
        group = self._lattice(grain)
        if group is None or "nodes_px" not in group:
            return np.empty((0, 0), np.float32)
        again = zarr.open_group(MemoryStore(), mode="w", zarr_format=3)
        write_tiles(values_of(self._group("1_images"), "0"), Record.of(group), again)
        return np.asarray(values_of(again, "tiles"), np.float32)

    def _lattice(self, grain: int = 1) -> zarr.Group | None:
        """The group of a grain's lattice, of what was kept of it where the tiles were dropped."""
        return grain_if_any(self._lattices, self.image_id, grain)

    @property
    def _lattices(self) -> zarr.Group | None:
        """The store of the tile stage, or what was kept of it."""
        path = next(self._lattice_stores(), None)
        return None if path is None else open_store(path)

    def _lattice_stores(self) -> Iterator[Path]:
        places = (f"2_tiles/{self.shard}.zarr", f"2_records/{self.shard}{ENDING}")
        return (path for place in places if (path := self.results.path / place).exists())

    def _tile(self, name: str) -> Any:
        found = array_if_any(self._lattice(), name)
        return np.empty((0, 0)) if found is None else found[:]

    @property
    def column_table(self) -> pl.DataFrame:
        """Every column tested and every extra atom: place, site, occupancy, what was found; see report/structures.

        Raises
        ------
        ValueError
            If the image has no pixel size.
        """
        return column_table(self.columns, self.places, self.defects, self._known_pixel_nm())

    def _known_pixel_nm(self) -> pixel_size.PixelNm:
        if self.pixel_nm is None:
            raise ValueError(
                f"{self.image_id}: found no pixel size; needed one in the file, or a crystal that is known"
            )
        return self.pixel_nm

    def atoms(self, grain: int | None = None, elements: Mapping[str, str] | None = None) -> Any:
        """The columns as ASE atoms, one an atomic column, what was found as arrays; see report/structures.

        Parameters
        ----------
        grain : int, optional
            Of one grain; else of all.
        elements : mapping of str to str, optional
            Element of a site, where its name tells none or another one.

        Raises
        ------
        ValueError
            If the image has no pixel size.
        """
        found = self.column_table
        named = elements_of(found["site"].unique(maintain_order=True).to_list(), self.row) | dict(elements or {})
        if grain is not None:
            found = found.filter(pl.col("grain") == grain)
        return structure(found, self.raw.shape, self._known_pixel_nm(), named)

    def signal(self) -> Any:
        """The image as a lazy HyperSpy signal, axes calibrated, its defects as markers that are saved with it."""
        import hyperspy.api as hs

        pixel = self.pixel_nm
        axes = [
            {"name": name, "size": n, "units": "nm" if pixel else "px", "scale": pixel[k] if pixel else 1.0}
            for k, (name, n) in enumerate(zip(("row", "col"), self.raw.shape, strict=True))
        ]
        found = hs.signals.Signal2D(self.raw, axes=axes).as_lazy()
        found.metadata.General.title = f"{self.row['path']} {self.row['signal']}".strip()
        markers = defect_markers(self.defects, pixel or (1.0, 1.0))
        if markers:
            found.add_marker(markers, plot_marker=False, permanent=True)
        return found


def _lazy(array: Any) -> Any:
    return _dask(array, array.chunks)


def _dask(array: Any, chunks: Any = "auto") -> Any:
    import dask.array as da

    return da.from_array(array, chunks=chunks)  # type: ignore[no-untyped-call]


def defect_markers(defects: pl.DataFrame, pixel_nm: tuple[float, float]) -> list[Any]:
    """HyperSpy markers of defects, one collection for each kind, on a signal whose axes start at 0."""
    import hyperspy.api as hs

    found = []
    kinds = defects["kind"].fill_null("unknown")
    for kind in sorted(set(kinds)):
        some = defects.filter(kinds == kind)
        # markers want (x, y): (col, row)
        offsets = np.column_stack([some["col_px"].to_numpy() * pixel_nm[1], some["row_px"].to_numpy() * pixel_nm[0]])
        shape, colour = KINDS[kind_of(kind)].marker, KINDS[kind_of(kind)].colour
        look = {"edgecolor": colour, "facecolor": "none", "linewidth": 1.6}
        marker: Any
        if shape == "o":
            marker = hs.plot.markers.Circles(offsets, sizes=0.28, units="xy", **look)
        elif shape == "s":
            marker = hs.plot.markers.Squares(offsets, widths=0.5, units="xy", **look)
        elif shape in _SIDES:
            sides, turn = _SIDES[shape]
            marker = hs.plot.markers.Polygons(_polygons(offsets, sides, turn, 0.18), **look)
        else:
            marker = hs.plot.markers.Lines(_crosses(offsets, shape == "+", 0.14), color=colour, linewidth=1.6)
        marker.name = re.sub(r"\W", "_", kind)
        found.append(marker)
    return found


def _polygons(centres: npt.NDArray[np.float64], sides: int, turn: float, radius: float) -> npt.NDArray[np.float64]:
    angle = turn + math.pi / 2 + 2 * math.pi * np.arange(sides) / sides
    corners = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    return np.asarray(centres[:, None] + corners)


def _crosses(centres: npt.NDArray[np.float64], upright: bool, reach: float) -> npt.NDArray[np.float64]:
    arms = np.array([[[-1, 0], [1, 0]], [[0, -1], [0, 1]]] if upright else [[[-1, -1], [1, 1]], [[-1, 1], [1, -1]]])
    return np.asarray((centres[:, None, None] + reach * arms).reshape(-1, 2, 2), dtype=np.float64)
