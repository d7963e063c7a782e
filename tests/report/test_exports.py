"""What others take: GeoJSON for QuPath, figures with a scale bar, the Python entry, and provenance."""

import json
import subprocess
import sys
import uuid
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from PIL import Image as Picture

import oddlattice
from oddlattice.defects.kinds import KINDS, kind_of
from oddlattice.report import exports, figures
from oddlattice.results import unit_of
from oddlattice.run import crate
from oddlattice.storage.products import DEFECTS, table

ROWS = [
    {"image_id": "a", "row_px": 10.0, "col_px": 20.0, "site": "Sr", "kind": "vacancy-like", "z": -9.0},
    {"image_id": "a", "row_px": 30.0, "col_px": 40.0, "kind": "extended", "area_px2": 3.141592653589793 / 2e-4},
    {"image_id": "a", "row_px": 50.0, "col_px": 60.0, "site": "Ti", "kind": None, "z": float("nan")},
]


def test_geojson_is_what_qupath_reads() -> None:
    found = exports.geojson("a", table(ROWS, DEFECTS), (0.02, 0.01))
    assert found["type"] == "FeatureCollection"
    column, region, unknown = found["features"]
    # (row 10, col 20) is the middle of a pixel; from the image's corner that is x = 20.5, y = 10.5
    assert column["geometry"] == {"type": "Point", "coordinates": [20.5, 10.5]}
    assert column["properties"]["classification"] == {"name": "vacancy-like", "color": [92, 188, 242]}
    assert column["properties"]["objectType"] == "detection"
    assert column["properties"]["measurements"] == {"z": -9.0}
    ring = np.array(region["geometry"]["coordinates"][0])
    assert ring[0].tolist() == ring[-1].tolist() and len(ring) == 33
    # pi nm^2 is a circle of 1 nm: 100 px across in x, 50 px in y
    assert np.ptp(ring, axis=0) == pytest.approx([200, 100], abs=0.01)
    assert unknown["properties"]["classification"]["name"] == "unknown"
    assert unknown["properties"]["measurements"] == {}
    ids = [uuid.UUID(feature["id"]) for feature in found["features"]]
    assert len(set(ids)) == 3
    json.dumps(found, allow_nan=False)


def test_the_same_defect_keeps_its_id() -> None:
    one, two = (exports.geojson("a", table(ROWS[:1], DEFECTS), None)["features"][0]["id"] for _ in range(2))
    assert one == two


@pytest.mark.parametrize("defects", [ROWS, []])
def test_figures_have_a_scale_bar_and_are_the_same_every_time(tmp_path: Path, defects: list[dict[str, object]]) -> None:
    view = np.random.default_rng(0).poisson(50, (80, 120)).astype(np.uint8)
    for name in ("one", "two"):
        figure = figures.defect_figure(view.shape, table(defects, DEFECTS), (0.02, 0.02))
        figures.save_figure(view, figure, tmp_path / name)
    for end in ("svg", "png"):
        assert (tmp_path / f"one.{end}").read_bytes() == (tmp_path / f"two.{end}").read_bytes()
    text = (tmp_path / "one.svg").read_text()
    assert "0.3 nm" in text  # 12 % of 2.4 nm, rounded up
    assert ("vacancy-like (1)" in text) == bool(defects)
    with Picture.open(tmp_path / "one.png") as picture:
        assert picture.size[0] == 1050 and round(picture.info["dpi"][0]) == 300


def test_a_figure_shows_the_image_and_on_it_the_marks_in_their_colours(tmp_path: Path) -> None:
    view = np.tile(np.linspace(0, 255, 120).astype(np.uint8), (80, 1))
    figures.save_figure(view, figures.defect_figure(view.shape, table(ROWS, DEFECTS), None), tmp_path / "f")
    with Picture.open(tmp_path / "f.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    assert shown.shape[0] > 700 and (shown[700:, :20] == 255).all()  # the legend below the image
    side = shown[4:680:8, 4:1050:9].min(axis=2), shown[4:680:8, 4:1050:9].max(axis=2)
    gray = np.broadcast_to(view[0, (np.arange(4, 1050, 9) * 120) // 1050], side[0].shape)
    assert (np.abs(side[0] - gray) <= 2).mean() > 0.95 and (side[1] == side[0]).mean() > 0.95
    for row in ROWS:  # a pixel of the image is 8.75 of the figure
        row_at, col_at = (round(8.75 * (float(str(row[axis])) + 0.5)) for axis in ("row_px", "col_px"))
        around = shown[row_at - 45 : row_at + 45, col_at - 45 : col_at + 45]
        colour = exports.rgb(KINDS[kind_of(row["kind"])].colour)
        assert (around == colour).all(axis=2).sum() > 50, row
    tree = ElementTree.parse(tmp_path / "f.svg")
    (image,) = tree.iter("{http://www.w3.org/2000/svg}image")
    packed = image.attrib["{http://www.w3.org/1999/xlink}href"].removeprefix("data:image/png;base64,")
    assert np.array_equal(np.asarray(Picture.open(BytesIO(b64decode(packed))).convert("L")), view)
    assert (image.attrib["width"], image.attrib["height"]) == ("252", "168")


def test_a_narrow_image_makes_a_figure_that_fits_a_page(tmp_path: Path) -> None:
    view = np.full((3300, 50), 100, np.uint8)
    figures.save_figure(view, figures.defect_figure(view.shape, table([], DEFECTS), None), tmp_path / "f")
    with Picture.open(tmp_path / "f.png") as picture:
        shown = np.asarray(picture.convert("L"))
    assert shown.shape == (2700, 1050)
    dark = np.flatnonzero((np.abs(shown.astype(int) - 100) <= 1).all(axis=0))
    assert (dark[0], dark[-1]) == (505, 545)  # 2700 * 50 / 3300 wide, in the middle


# ---------------------------------------------------------------- the Python entry


@pytest.mark.parametrize(
    ("column", "unit"),
    [("row_px", "px"), ("row_nm", "nm"), ("shift_row_pm", "pm"), ("area_nm2", "nm^2"), ("density_per_nm2", "nm^-2"),
     ("density_ci_low", "nm^-2"), ("dose_counts_per_nm2", "counts nm^-2"), ("gamma_deg", "deg"), ("kind", ""),
     ("frame", ""), ("intensity_change", ""), ("pixel_nm_header", "nm")],
)  # fmt: skip
def test_units_by_name(column: str, unit: str) -> None:
    assert unit_of(column) == unit


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no 4_defects/images\.parquet; needed the folder `results`"):
        oddlattice.open(tmp_path)


def test_importing_is_light() -> None:
    heavy = ("numpy", "polars", "torch", "zarr", "hyperspy")
    code = f"import sys, oddlattice; print([m for m in {heavy} if m in sys.modules])"
    path = str(Path(oddlattice.__file__).parent.parent)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path)
    assert said.stdout.strip() == "[]"


def test_markers_stand_at_their_defects_with_a_shape_for_each_kind() -> None:
    from oddlattice.results import defect_markers

    kinds = ["vacancy-like", "lighter", "heavier", "displaced", "extra", "extended", None]
    rows = [{"image_id": "a", "row_px": 10.0 * k, "col_px": 5.0, "kind": kind} for k, kind in enumerate(kinds)]
    markers = defect_markers(table(rows, DEFECTS), (0.02, 0.01))
    assert len(markers) == len(kinds)
    circle = next(m for m in markers if m.name == "vacancy_like")
    assert circle.get_current_kwargs()["offsets"].tolist() == [[0.05, 0.0]]
    triangle = next(m for m in markers if m.name == "heavier")
    assert triangle.get_current_kwargs()["verts"].mean(axis=1)[0] == pytest.approx([0.05, 0.4])
    assert all(repr(m) for m in markers)
    assert defect_markers(pl.DataFrame(schema=DEFECTS), (1.0, 1.0)) == []


# ---------------------------------------------------------------- provenance


def test_the_crate_is_whole(tmp_path: Path) -> None:
    """What RO-Crate 1.1 asks for: a descriptor, a root, no dangling reference, files that are there with their hash."""
    for name in ("config.yaml", "4_defects/a b.csv", "4_defects/.x.csv.part", "5_report/index.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "1_images/s.zarr").mkdir(parents=True)
    models = [{"name": "sto", "weights_sha256": "ab" * 32}]
    found = crate.crate(tmp_path, models, "/data/archive", {"oddlattice": "0.1.0", "numpy": "2.4"})
    by_id = {entity["@id"]: entity for entity in found["@graph"]}
    assert len(by_id) == len(found["@graph"])
    assert by_id["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert by_id["ro-crate-metadata.json"]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    root = by_id["./"]
    assert {"name", "description", "datePublished", "license"} <= set(root)
    parts = {part["@id"] for part in root["hasPart"]}
    assert parts == {"config.yaml", "4_defects/a%20b.csv", "5_report/index.html", "1_images/s.zarr/"}

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            return [value["@id"]] if set(value) == {"@id"} else [r for v in value.values() for r in references(v)]
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    outside = {"https://w3id.org/ro/crate/1.1"}
    assert set(references(found["@graph"])) - outside <= set(by_id)
    # sha256 of "text"
    digest = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert by_id["config.yaml"]["sha256"] == digest and by_id["config.yaml"]["contentSize"] == "4"
    assert by_id["#model-sto"]["identifier"] == "sha256:" + "ab" * 32
    again = crate.crate(tmp_path, models, "/data/archive", {"oddlattice": "0.1.0", "numpy": "2.4"})
    assert again == found


def test_a_figure_shows_at_least_a_thousand_pixels_where_there_are() -> None:
    image = np.random.default_rng(0).poisson(50, (2100, 1300)).astype(np.float32)
    assert figures.figure_view(image).shape == (1050, 650)
    assert figures.figure_view(image[:1990]).shape == (1990, 1300)
    seen = figures.figure_view(np.arange(12.0).reshape(3, 4))
    assert (seen.min(), seen.max()) == (0, 255)
