"""The report's numbers, pictures and pages; what a browser makes of them stands in test_browser.py."""

import csv
import json
import math
import re
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

import write_index
import write_pages
from oddlattice.numerics.intervals import poisson_interval
from oddlattice.report import image_facts, index_lines, numbers, outlines, pictures, plots
from oddlattice.report.advice import archive_here
from oddlattice.report.cell_pictures import View
from oddlattice.report.pages import embedded_json, find_pages, policy
from oddlattice.run import settings
from oddlattice.run.stage_settings import ReportSettings
from oddlattice.storage.json_text import json_text
from oddlattice.storage.products import INVENTORY, table, write_tsv
from support import report_products as made_up

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
INDEX_SETTINGS = ReportSettings(density_stands_out=3.0)
PROVENANCE = {
    "config": {"archive": "/data/micro<b>scope", "defects": {"fdr": 0.05}},
    "versions": {"oddlattice": "0.1.0"},
}


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.0, "1234"), (0.012345, "0.0123"), (-0.5, "−0.500"), (123456.0, "123_456"), (2.5e7, "2.50×10⁷"),
     (3.14e-9, "3.14×10⁻⁹"), (999.96, "1000"), (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_significant_digits(value: float | None, text: str) -> None:
    expected = text.replace("_", "\N{NARROW NO-BREAK SPACE}")
    assert numbers.significant(value) == expected


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(1.23456, 0.012, "1.235 ± 0.012 px"), (-0.5, 0.04, "−0.500 ± 0.040 px"), (1234.5, 56.0, "1234 ± 56 px"),
     (2.0, None, "2.00 px"), (2.0, 0.0, "2.00 px"), (None, 0.1, "–")],
)  # fmt: skip
def test_error_rounds_the_value(value: float | None, error: float | None, text: str) -> None:
    assert numbers.with_error(value, error, "px") == text


def test_interval_rounds_by_its_half_width() -> None:
    assert numbers.interval(0.012345, 0.0101, 0.0149) == ("0.0123", "0.0101 to 0.0149")
    assert numbers.interval(0.0, 0.0, 0.063) == ("0", "0 to 0.063")
    assert numbers.interval(None, 0.0, 1.0) == ("–", "–")


@pytest.mark.parametrize(("p", "text"), [(0.05, "0.05"), (3.1e-7, "3.1×10⁻⁷"), (0.0, "<10⁻³⁰⁰"), (None, "–")])
def test_probabilities(p: float | None, text: str) -> None:
    assert numbers.probability(p) == text


@pytest.mark.parametrize(
    ("q", "text"), [(0.05, "0.05"), (3e-5, "3.0×10⁻⁵"), (9e-7, "< 10⁻⁶"), (0.0, "< 10⁻⁶"), (None, "–")]
)
def test_a_false_discovery_rate_is_not_told_below_a_millionth(q: float | None, text: str) -> None:
    assert numbers.q_value(q) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_rounded_text_is_within_half_a_percent(value: float) -> None:
    text = numbers.significant(value, 3).replace("−", "-").replace("\N{NARROW NO-BREAK SPACE}", "")
    mantissa, _, power = text.partition("×10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if power else 0
    assert math.isclose(float(mantissa) * 10.0**exponent, value, rel_tol=0.0051, abs_tol=1e-300)


def test_poisson_interval_is_the_exact_one() -> None:
    low, high = poisson_interval(10)
    assert (round(low, 3), round(high, 3)) == (4.795, 18.390)  # Garwood 1936
    assert poisson_interval(0)[0] == 0.0


# ---------------------------------------------------------------- geometry and pictures


def test_outline_of_a_square_with_a_hole_encloses_its_area() -> None:
    mask = np.ones((6, 5), dtype=bool)
    mask[2:4, 1:3] = False
    nodes = np.stack(np.meshgrid(np.arange(7) * 10.0, np.arange(6) * 10.0, indexing="ij"))
    loops = outlines.outlines(mask, nodes)
    areas = []
    for loop in loops:
        r, c = np.array(loop).T
        areas.append(0.5 * float(np.sum(r * np.roll(c, -1) - c * np.roll(r, -1))))
    assert sorted(np.abs(areas)) == [400.0, 3000.0]
    assert abs(sum(areas)) == mask.sum() * 100


def test_cells_that_touch_at_a_corner_make_closed_loops() -> None:
    nodes = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0), indexing="ij"))
    loops = outlines.outlines(np.eye(2, dtype=bool), nodes)
    assert sum(len(loop) for loop in loops) == 8


def test_coarse_nodes_keep_the_corners() -> None:
    nodes = np.stack(np.meshgrid(np.arange(200.0), np.arange(5.0), indexing="ij"))
    u, v, places = outlines.coarse_nodes(nodes)
    assert (u[0], u[-1], v) == (0, 199, [0, 1, 2, 3, 4])
    assert places.shape == (2, len(u), 5)
    assert len(u) == 49


def test_bytes_of_counts_and_of_what_is_no_number() -> None:
    image = np.array([[0.0, 50.0, 100.0], [np.nan, np.inf, -np.inf]])
    assert pictures.to_bytes(image, 0, 100).tolist() == [[0, 128, 255], [0, 255, 0]]


def test_signed_bytes_have_zero_in_the_middle_and_gaps_where_there_is_no_data() -> None:
    view, gaps = pictures.signed_bytes(np.array([[-2.0, 0.0, 1.0, np.nan, np.inf]]), 1.0)
    assert view.tolist() == [[1, 128, 255, 128, 128]]
    assert gaps is not None and gaps.tolist() == [[False, False, False, True, True]]
    assert pictures.signed_bytes(np.zeros((1, 2)), 1.0)[1] is None


def test_gaps_are_as_gray_as_the_rest_on_average() -> None:
    view, gaps = pictures.covered_bytes(np.array([[0.0, 50.0, 100.0, np.nan]]), 0, 100)
    assert view.tolist() == [[0, 128, 255, 128]]
    assert gaps is not None and gaps.tolist() == [[False, False, False, True]]
    assert pictures.covered_bytes(np.full((1, 2), np.nan), 0, 100)[0].tolist() == [[0, 0]]


def test_display_range_of_a_flat_and_of_an_empty_image() -> None:
    assert pictures.display_range(np.full((4, 4), 7)) == (7.0, 8.0)
    assert pictures.display_range(np.full((4, 4), np.nan)) == (0.0, 1.0)


def test_halving_keeps_the_mean_and_leaves_out_what_is_not_finite() -> None:
    image = np.array([[1.0, 3.0, 5.0], [1.0, np.nan, 5.0], [4.0, 4.0, 8.0]])
    assert np.allclose(pictures.halved(image), [[5 / 3, 5.0], [4.0, 8.0]])


def test_pyramid_ends_with_one_tile() -> None:
    assert pictures.level_shapes((2100, 901), 1024) == [(2100, 901), (1050, 451), (525, 226)]


def test_levels_are_halves_of_the_whole_whatever_the_bands(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((333, 150)).astype(np.float32)
    expected = [image]
    while max(expected[-1].shape) > 64:
        expected.append(pictures.halved(expected[-1]))
    for number, heights in enumerate(([333], [128, 205], [64, 64, 64, 64, 64, 13])):
        writer = pictures.LayerWriter(
            tmp_path / f"{number}/raw", lambda x: (pictures.to_bytes(x, 0, 1), None), 64, None
        )
        layer, views = writer.write(np.split(image, np.cumsum(heights)[:-1]), image.shape)
        assert layer.levels == len(expected) == 4
        for view, level in zip(views, expected, strict=True):
            assert np.array_equal(view, pictures.to_bytes(level, 0, 1))
        assert len(list((tmp_path / f"{number}/raw").iterdir())) == 18 + 6 + 2 + 1


def test_tiles_of_the_native_level_are_lossless(tmp_path: Path) -> None:
    view = np.random.default_rng(0).integers(0, 256, (70, 90)).astype(np.uint8)
    writer = pictures.LayerWriter(tmp_path / "a1" / "raw", lambda pixels: (pixels.astype(np.uint8), None), 64, None)
    layer, _ = writer.write([view], view.shape)
    assert (layer.folder, layer.levels, layer.rows, layer.cols) == ("a1/raw", 2, 70, 90)
    back = np.zeros_like(view)
    for i in range(2):
        for j in range(2):
            part = np.asarray(Picture.open(tmp_path / "a1" / "raw" / f"0_{i}_{j}.png").convert("L"))
            back[64 * i : 64 * i + part.shape[0], 64 * j : 64 * j + part.shape[1]] = part
    assert np.array_equal(back, view)


def test_the_finest_level_of_a_layer_may_be_left_out(tmp_path: Path) -> None:
    image = np.arange(60.0 * 64).reshape(60, 64)
    writer = pictures.LayerWriter(tmp_path / "a1/z", lambda x: pictures.signed_bytes(x, 4000.0), 64, 90, first=1)
    layer, views = writer.write([image], image.shape)
    assert (layer.first, layer.levels, layer.rows) == (1, 2, 60) and [len(view) for view in views] == [0, 30]
    assert [path.name for path in (tmp_path / "a1/z").iterdir()] == ["1_0_0.jpg"]
    with Picture.open(tmp_path / "a1/z/1_0_0.jpg") as tile:
        assert tile.size == (32, 30)


def test_tiles_with_gaps_have_a_picture_that_is_see_through_there(tmp_path: Path) -> None:
    image = np.zeros((70, 90))
    image[10:20, 70:90] = np.nan
    writer = pictures.LayerWriter(tmp_path / "a1" / "z", lambda x: pictures.signed_bytes(x, 1.0), 64, 82)
    layer, _ = writer.write([image], image.shape)
    assert (layer.ending, layer.covers) == ("jpg", ["0_0_1", "1_0_0"])
    with Picture.open(tmp_path / "a1/z/0_0_1.cover.png") as cover:
        alpha = np.asarray(cover.convert("RGBA"))[..., 3]
    assert np.array_equal(alpha == 0, np.isnan(image[:64, 64:])) and set(alpha.ravel()) == {0, 255}
    assert sorted(p.name for p in (tmp_path / "a1/z").glob("*.cover.png")) == ["0_0_1.cover.png", "1_0_0.cover.png"]


def test_a_window_is_centred_and_nan_outside_and_where_nothing_was_analysed() -> None:
    frame = np.arange(1.0, 101.0).reshape(10, 10)
    frame[5, 5] = 0
    view = View.of(20 * np.eye(2), (20, 20), 4)
    assert view.side_px == pytest.approx(4)
    middle = pictures.sampled(frame, view.at(np.array([5, 5]) / 20))
    assert np.isnan(middle[2, 2]) and np.allclose(middle[0], frame[3, 3:7])
    corner = pictures.sampled(frame, view.at(np.array([1, 9]) / 20))
    assert np.isnan(corner[0]).all() and corner[1, 0] == pytest.approx(frame[0, 7])
    assert np.isnan(pictures.sampled(frame, view.at(np.array([9.0, 9.0])))).all()


def test_a_window_shows_a_hexagonal_cell_in_its_true_shape() -> None:
    """A round column of a hexagonal crystal is round in the picture, and lies as it does in the image."""
    vectors = 24 * np.array([[0.0, 1.0], [math.sqrt(3) / 2, 0.5]])
    u, v = np.meshgrid(*(np.arange(20 * 8) / 20 + 0.025,) * 2, indexing="ij")
    offset = np.stack([u - 4.2, v - 4.1], -1) @ vectors
    frame = np.exp(-0.5 * (offset**2).sum(-1) / 3.0**2) + 0.01
    view = View.of(vectors, (20, 20), 60)
    seen = pictures.sampled(frame, view.at(np.array([4.2, 4.1]))) - 0.01
    r, c = (np.arange(60) - 29.5) * view.side_px / 60, (np.arange(60) - 29.5) * view.side_px / 60
    weight = seen / seen.sum()
    spread = [float((weight.sum(1) * r**2).sum()), float((weight.sum(0) * c**2).sum()), float((r @ weight) @ c)]
    assert spread == pytest.approx([9.0, 9.0, 0.0], abs=0.4)
    beside = pictures.sampled(
        frame, view.at(np.array([5.2, 4.1]))
    )  # one cell along a, which lies along the image's rows
    row, col = np.unravel_index(np.nanargmax(beside), beside.shape)
    assert (float(row), float(col)) == pytest.approx((29.5, 29.5 - 24 * 60 / view.side_px), abs=1)


def test_median_cell_ignores_masked_cells() -> None:
    frame = np.tile(np.arange(4.0).reshape(2, 2), (3, 3))
    frame[:2, :2] = 99
    mask = np.ones((3, 3), dtype=bool)
    mask[0, 0] = False
    assert pictures.median_cell(frame, mask, (2, 2)).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="no cell is analysed"):
        pictures.median_cell(frame, mask & False, (2, 2))


def test_colours_of_less_and_more_differ_in_hue_and_agree_in_lightness() -> None:
    less, middle, more = pictures.coloured(np.array([[-1.0, 0.0, 1.0]]), 1.0)[0].astype(int)
    assert less[2] > less[0] + 60
    assert more[0] > more[2] + 60
    assert middle.min() > 230


# ---------------------------------------------------------------- plots


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_lie_inside_and_are_few(low: float, width: float) -> None:
    found = plots.ticks(low, low + width)
    assert len(found) <= 9
    assert all(low - 1e-8 * width - 1e-9 * abs(low) <= t <= low + width * (1 + 1e-8) + 1e-9 * abs(low) for t in found)


def test_histogram_counts_everything_and_what_lies_beyond() -> None:
    found = plots.z_histogram(np.array([0.1, -3.0, 40.0, np.nan]), np.array([False, False, True, False]))
    assert sum(found["counts"]) == 3
    assert (sum(found["flagged"]), found["flagged"][-1], found["beyond"]) == (1, 1, 1)
    assert math.isclose(sum(found["normal"]), 3, rel_tol=1e-3)


def test_completeness_rises_to_the_right() -> None:
    found = plots.completeness_plot({"Ti": made_up.trials(0.3), "Sr": made_up.trials(0.1)})
    assert [line["site"] for line in found["lines"]] == ["Sr", "Ti"]
    heights = [float(point.split(",")[1]) for point in found["lines"][1]["line"].split()]
    assert heights == sorted(heights, reverse=True)  # upwards in the picture
    assert found["top"] <= min(heights) < found["nine_tenths"] < max(heights) <= found["bottom"]


def test_published_band_is_mean_and_deviations() -> None:
    found = plots.published_histogram(np.array([0.0, 0.2, -0.3]), 0.01, 0.1, 1.5)
    assert np.allclose(found["band"], [-0.14, 0.16])
    assert found["outside_band"] == 2


# ---------------------------------------------------------------- safety


@given(st.recursive(st.text() | st.floats() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_embedded_json_cannot_leave_its_element(value: Any) -> None:
    text = str(embedded_json({"v": value, "hostile": HOSTILE + "<!--]]>\u2028"}))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["hostile"] == HOSTILE + "<!--]]>\u2028"


def test_json_has_no_nan() -> None:
    assert json_text({"a": [math.nan, math.inf, 1.5]}) == '{"a":[null,null,1.5]}'


def test_policy_lets_nothing_in_by_default() -> None:
    found = dict(part.split(" ", 1) for part in policy("a{}", "1").split("; "))
    assert found["default-src"] == "'none'"
    assert found["script-src"].startswith("'sha256-")
    assert found["style-src"].startswith("'sha256-")
    assert "unsafe" not in str(found)
    assert "http" not in str(found)


# ---------------------------------------------------------------- pages


class Reader(HTMLParser):
    """Collects what a page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = "data" if dict(attrs).get("id") == "data" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif self._inside not in ("script", "style"):
            self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[made_up.Shard, made_up.Made, Path]:
    folder = tmp_path_factory.mktemp("report")
    found = made_up.Shard(folder / "products")
    scan = made_up.scan_of((300, 340), 12, 3)
    hostile = {"Title": HOSTILE, "Broken": "\udcff", "javascript:alert(1)": {"x": float("nan")}}
    warnings = [f"A warning with {HOSTILE}"]
    found.analysed("f00d-a", f"2026/a {HOSTILE.replace('/', '')}.dm4", scan, extended=True, warnings=warnings)
    group = found.roots["images"]["f00d-a"]
    group.attrs["oddlattice"] = group.attrs["oddlattice"] | {"original_metadata": hostile}
    found.analysed("f00d-b", "2026/pure.dm4", made_up.scan_of((300, 300), 0, 4))
    lattice = {"a_px": [13.5, 0.2], "b_px": [-0.2, 13.4], "a_sigma_px": [0.01, 0.02], "b_sigma_px": [0.01, 0.02], "gamma_deg": 90.1, "rotation_deg": 0.8}  # fmt: skip # noqa: E501
    found.plain("cafe", "2026/BTO.dm4", "no_model", "No model for this lattice.", lattice, a_nm=0.40042, b_nm=0.39871, gamma_deg=90.123)  # fmt: skip # noqa: E501
    found.plain("c001", "vacuum.emd", "no_lattice", "No lattice was found.", source={"pixel_nm_header": None})
    found.rejected("bad", f"2026/{HOSTILE.replace('/', '')}.emd", f"It is cut off {HOSTILE}")
    made = found.write()
    out = folder / "5_report" / "s0001-a"
    with chdir(folder):  # pages name the archive of the run that they are made in, and here there may be one
        write_pages.main(*made_up.arguments(made), out, made_up.CONFIG)
    return found, made, out


def write_index_of(found: made_up.Shard, folder: Path, path: Path, pages: list[str]) -> None:
    """The index of a shard, from tables gathered as the rule does; discovered.tsv lies in `folder`."""
    tables = found.gathered(folder / "4_defects")
    names = [tables[name] for name in ("images_parquet", "defects_parquet", "reviews_parquet", "precision_csv")]
    reviews, discovered = found.paths.reviews_json, folder / "discovered.tsv"
    statistics = tables["statistics_json"]
    write_index.main(*names, reviews, discovered, statistics, pages, path, INDEX_SETTINGS, PROVENANCE)


@pytest.fixture(scope="module")
def index(shard: tuple[made_up.Shard, made_up.Made, Path]) -> Path:
    found, made, out = shard
    files = [{"file_id": row["file_id"], "path": row["path"], "state": "ready", "reason": ""} for row in found.rows]
    files.append({"file_id": "new", "path": "new.dm4", "state": "waiting", "reason": "It may still be being written."})
    write_tsv(table(files, INVENTORY), out.parent.parent / "discovered.tsv")
    path = out.parent / "index.html"
    for name in ("statistics.html", "methods.md"):
        path.with_name(name).touch()  # written by the rule before
    write_index_of(found, out.parent.parent, path, [str(out)])
    return path


def test_every_image_read_has_a_page_and_a_refusal_has_none(shard: tuple[Any, Any, Path]) -> None:
    assert sorted(path.stem for path in shard[2].glob("*.html")) == ["c001", "cafe", "f00d-a", "f00d-b"]


def test_hostile_text_is_shown_and_makes_no_element(shard: tuple[Any, Any, Path], index: Path) -> None:
    for page in (shard[2] / "f00d-a.html", index):
        found = read(page)
        assert sum(tag == "script" for tag, _ in found.tags) == 2
        assert not any("onerror" in attrs or str(attrs.get("src")) == "x" for _, attrs in found.tags)
        assert not any("style" in attrs or any(k.startswith("on") for k in attrs) for _, attrs in found.tags)
        assert not any(re.match(r"\s*javascript", str(attrs.get("href", "")), re.IGNORECASE) for _, attrs in found.tags)
    assert HOSTILE in "".join(read(shard[2] / "f00d-a.html").text)


def test_pages_ask_for_nothing_from_anywhere(shard: tuple[Any, Any, Path], index: Path) -> None:
    for page in (*shard[2].glob("*.html"), index):
        for tag, attrs in read(page).tags:
            for key in ("src", "href", "data", "action", "poster"):
                address = attrs.get(key)
                assert address is None or not re.match(r"(?i)(https?:|//)", address), (page, tag, address)


def test_links_lead_to_files_that_are_there(shard: tuple[Any, Any, Path], index: Path) -> None:
    for page in (*shard[2].glob("*.html"), index):
        for _, attrs in read(page).tags:
            for key in ("src", "href"):
                address = attrs.get(key)
                if address and not address.startswith("#"):
                    assert (page.parent / address).exists(), (page, address)
    data = json.loads(read(index).data)
    lines = [dict(zip(data["keys"], row, strict=True)) for row in data["rows"]]
    for line in lines:
        assert (line["base"] != "") == (line["state"] not in ("rejected", "waiting"))
        if line["base"]:
            assert (index.parent / line["base"] / f"{line['id']}.html").exists()
            assert (index.parent / line["base"] / line["id"] / "thumbnail.webp").exists()


def test_tiles_the_viewer_asks_for_are_there(shard: tuple[Any, Any, Path]) -> None:
    for page in shard[2].glob("*.html"):
        data = json.loads(read(page).data)
        for layer in (data["raw"], *filter(None, [data["prediction"]]), *data["maps"].values()):
            for name in layer["covers"]:
                assert (shard[2] / layer["folder"] / f"{name}.cover.png").exists()
            for level in range(layer["first"], layer["levels"]):
                side = layer["tile_px"] * 2**level
                for i in range(math.ceil(layer["rows"] / side)):
                    for j in range(math.ceil(layer["cols"] / side)):
                        assert (shard[2] / layer["folder"] / f"{level}_{i}_{j}.{layer['ending']}").exists()


def test_machine_readable_twin_holds_the_numbers(shard: tuple[Any, Any, Path]) -> None:
    found, _, out = shard
    twin = json.loads((out / "f00d-a.json").read_text())
    row = found.rows[0]
    assert twin["image"]["density_per_nm2"] == row["density_per_nm2"]
    assert len(twin["defects"]) == row["defects"] + 1  # and one extended region
    assert sum(number for kind, number in twin["kinds"].items() if kind != "extended") == row["defects"]
    assert sum(twin["histograms"]["z"]["counts"]) == row["columns_tested"]
    assert sum(twin["histograms"]["z"]["flagged"]) == row["defects"]
    assert sum(twin["histograms"]["anm"]["counts"]) == row["columns_tested"]
    assert {site["site"]: (site["u"], site["v"]) for site in twin["sites"]} == {
        "Sr": (pytest.approx(0, abs=0.01), pytest.approx(0, abs=0.01)),
        "Ti": (pytest.approx(0.5, abs=0.01), pytest.approx(0.5, abs=0.01)),
    }
    with (out / "f00d-a.defects.csv").open(newline="") as file:
        assert [float(r["row_px"]) for r in csv.DictReader(file)] == [d["row_px"] for d in twin["defects"]]


def test_page_shows_the_key_figures(shard: tuple[Any, Any, Path]) -> None:
    found, _, out = shard
    text = " ".join(" ".join(read(out / "f00d-a.html").text).split())
    row = found.rows[0]
    density, between = numbers.interval(row["density_per_nm2"], row["density_ci_low"], row["density_ci_high"])
    assert f"Defects per nm² {density} nm⁻² 95 % interval {between}" in text
    assert f"Flagged columns {row['defects']} of {row['columns_tested']} tested" in text
    assert "False-discovery rate 5.0 %" in text
    assert "Detectable loss 21 %" in text
    assert "Empty columns found 98.0 % 95 % interval 95.3 to 99.3 %" in text
    assert "unit written 'n_m'" in text
    assert "Lattice against header −3.1 %" in text
    assert "c4" * 32 in text


def test_columns_in_regions_are_told_beside_those_that_are_counted(shard: tuple[Any, Any, Path]) -> None:
    row = shard[0].rows[0]
    for number, told in ((0, ""), (3, "; 3 more in or at extended regions or boundaries")):
        notes = {figure["label"]: figure["note"] for figure in image_facts.key_figures(row, number)}
        assert notes["Flagged columns"].startswith(f"of {row['columns_tested']} tested")
        assert ("extended regions" in notes["Flagged columns"]) == (number > 0)
        assert notes["Flagged columns"].endswith(told)


def test_crops_show_the_defect_in_their_middle(shard: tuple[Any, Any, Path]) -> None:
    twin = json.loads((shard[2] / "f00d-a.json").read_text())
    index = next(k for k, d in enumerate(twin["defects"]) if d["kind"] == "vacancy-like")
    side = twin["display"]["crops"]["side"]
    sheet = np.asarray(Picture.open(shard[2] / "f00d-a" / "crops_0.jpg")).astype(int)
    assert sheet.shape == (side * len(twin["defects"]), 3 * side, 3)
    seen, predicted, difference = (
        sheet[index * side : (index + 1) * side, k * side : (k + 1) * side] for k in range(3)
    )
    middle = slice(side // 2 - 3, side // 2 + 3)
    assert seen[middle, middle].mean() < predicted[middle, middle].mean() - 40
    colour = difference[middle, middle].mean(axis=(0, 1))
    assert colour[2] > colour[0] + 50  # less than the bulk is blue


def test_image_without_defects(shard: tuple[Any, Any, Path]) -> None:
    text = " ".join(" ".join(read(shard[2] / "f00d-b.html").text).split())
    assert "No column is flagged at a false-discovery rate of 5 %." in text
    assert not any(attrs.get("id") == "list" for _, attrs in read(shard[2] / "f00d-b.html").tags)
    assert "nothing is flagged" in text


def test_no_model_page_gives_settings_to_train_with(shard: tuple[Any, Any, Path]) -> None:
    page = read(shard[2] / "cafe.html")
    blocks = [text for text in page.text if text.lstrip().startswith(("models:", "snakemake"))]
    given = yaml.safe_load(blocks[0])
    assert given["train"]["crystal"] == "auto" and "archive" not in given
    assert given["models"] == ["srtio3_001", "cafe"]
    repository = Path(write_pages.__file__).parents[2]
    assert blocks[1].startswith(
        f"snakemake --snakefile {repository}/Snakefile --directory {shard[2].parents[1]} --cores all train "
    )
    schema = settings.load_schema(repository / "workflow/schemas/config.schema.yaml")
    whole = settings.load_yaml(repository / "config.yaml")
    settings.checked(whole | {"models": given["models"], "train": whole["train"] | given["train"]}, schema, [])


def test_settings_to_train_with_name_the_archive_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/0_archive").mkdir(parents=True)
    (tmp_path / "results/0_archive/archive.txt").write_text("/data/my\\x09images\n")
    assert archive_here() == {"archive": "/data/my\timages"}


def test_no_lattice_page_says_why_and_what_to_do(shard: tuple[Any, Any, Path]) -> None:
    text = " ".join(read(shard[2] / "c001.html").text)
    assert "No lattice was found." in text
    assert "nothing was tested" in text.lower()
    assert "lengths are in pixels" in text


def test_pages_ask_the_index_for_their_neighbours(shard: tuple[Any, Any, Path]) -> None:
    links = [a for tag, a in read(shard[2] / "f00d-b.html").tags if tag == "a" and a.get("rel") in ("prev", "next")]
    assert [(a["data-go"], a["href"]) for a in links] == [("previous", "../index.html"), ("next", "../index.html")]


def test_same_products_give_the_same_bytes(shard: tuple[Any, made_up.Made, Path], index: Path, tmp_path: Path) -> None:
    _, made, out = shard
    with chdir(out.parents[1]):
        write_pages.main(*made_up.arguments(made), tmp_path / out.name, made_up.CONFIG)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / out.name) for p in (tmp_path / out.name).rglob("*") if p.is_file())
    for path in files:
        assert (out / path).read_bytes() == (tmp_path / out.name / path).read_bytes(), path


# ---------------------------------------------------------------- index


def lines_of(index: Path) -> list[dict[str, Any]]:
    data = json.loads(read(index).data)
    return [dict(zip(data["keys"], row, strict=True)) for row in data["rows"]]


def test_index_counts_every_state_and_says_what_needs_a_person(index: Path) -> None:
    lines = lines_of(index)
    assert [line["state"] for line in lines] == [
        "no_model",
        "rejected",
        "no_lattice",
        "waiting",
        "analysed",
        "analysed",
    ]
    twin = json.loads(index.with_suffix(".json").read_text())
    assert twin["states"] == {"analysed": 2, "no_lattice": 1, "no_model": 1, "rejected": 1, "waiting": 1}
    assert {figure["label"]: figure["value"] for figure in twin["figures"]}["Files found"] == "6"
    assert {line["id"]: line for line in lines}["new"]["why"] == "It may still be being written."


def test_an_image_whose_density_stands_out_comes_first() -> None:
    calm = [
        made_up.image_row(f"a{k}", f"{k}.dm4", "analysed", model="m", density_per_nm2=0.01, density_ci_low=0.005)
        for k in range(6)
    ]
    odd = made_up.image_row("b", "b.dm4", "analysed", model="m", density_per_nm2=0.2, density_ci_low=0.15)
    remarkable = index_lines.remarkable_densities([*calm, odd], 3.0)
    assert remarkable == {"m": pytest.approx(0.03)}
    assert index_lines.urgency(odd, remarkable, set())[0] == "density"
    assert index_lines.urgency(calm[0], remarkable, set()) == ("", "")
    assert index_lines.remarkable_densities([*calm[:3], odd], 3.0) == {}


def test_a_detector_left_out_of_a_file_that_was_read_is_no_news() -> None:
    row = made_up.image_row("a-s1", "a.emd", "rejected", reason="the signal BF was left out", file_id="a")
    assert index_lines.urgency(row, {}, {"a"}) == ("", "The signal BF was left out")
    assert index_lines.urgency(row, {}, set()) == ("rejected", "The signal BF was left out")


def test_a_page_with_an_unsafe_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a b.html").touch()
    with pytest.raises(ValueError, match="a page's name may hold"):
        find_pages([str(tmp_path)], tmp_path)


def test_index_of_an_empty_archive(tmp_path: Path) -> None:
    found = made_up.Shard(tmp_path / "products")
    write_tsv(table([], INVENTORY), tmp_path / "discovered.tsv")
    path = tmp_path / "5_report" / "index.html"
    write_index_of(found, tmp_path, path, [])
    assert json.loads(read(path).data)["rows"] == []


def test_index_of_ten_thousand_images_stays_light(tmp_path: Path) -> None:
    found = made_up.Shard(tmp_path / "products")
    found.rows = [
        made_up.image_row(f"id-{k}", f"2026/session {k // 100}/image {k}.dm4", "analysed", model="srtio3_001",
                          defects=k % 7, columns_tested=1000, density_per_nm2=0.01, density_ci_low=0.002,
                          density_ci_high=0.03)
        for k in range(10_000)
    ]  # fmt: skip
    write_tsv(table([], INVENTORY), tmp_path / "discovered.tsv")
    path = tmp_path / "5_report" / "index.html"
    write_index_of(found, tmp_path, path, [])
    assert path.stat().st_size < 5_000_000
