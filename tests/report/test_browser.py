"""The report in a real browser, opened from disk: every control by mouse and keyboard, no request, no console error."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
from PIL import Image

import write_index
import write_pages
from oddlattice.archive import review_files
from oddlattice.report.one_file import one_file
from oddlattice.run import settings
from oddlattice.run.stage_settings import ReportSettings
from oddlattice.storage.products import INVENTORY, table, write_tsv
from support import report_products as made_up
from support.in_browser import chromium, violations

HOSTILE = "<script>document.title='owned'<script>"
INDEX_SETTINGS = ReportSettings(density_stands_out=3.0)
PROVENANCE = {"config": {"archive": "/data/microscope", "defects": {"fdr": 0.05}}, "versions": {"oddlattice": "0.1.0"}}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report: images with and without defects, one of no known lattice, refusals; 500 lines in the index."""
    folder = tmp_path_factory.mktemp("browser")
    shard = made_up.Shard(folder / "products")
    shard.analysed("aa-1", f"2026/{HOSTILE}.dm4", made_up.scan_of((300, 340), 16, 3), extended=True, warnings=[HOSTILE])
    shard.analysed("aa-2", "2026/pure.dm4", made_up.scan_of((260, 260), 0, 4))
    shard.plain("bb-1", "2026/BTO.dm4", "no_model", "No model for this lattice.", a_nm=0.4, b_nm=0.4, gamma_deg=90.1)
    shard.rejected("cc-1", "2026/broken.emd", f"It is cut off {HOSTILE}")
    shard.statements = [
        mark_on(shard.defects[0], "B. Li", "rejected"),
        mark_on(shard.defects[1], "B. Li", "confirmed"),
        mark_on(shard.defects[1], "C. Ray", "rejected"),
    ]
    shard.files = [{"file": f"{HOSTILE}.json", "state": "refused", "reason": HOSTILE, "reviewers": [], "statements": 0}]
    pages = folder / "5_report" / "s0001"
    write_pages.main(*made_up.arguments(shard.write()), pages, made_up.CONFIG)
    template = shard.rows[1]
    for k in range(496):
        row = template | {"image_id": f"xx-{k}", "file_id": f"xx-{k}", "path": f"2026/many/image-{k:03d}.dm4"}
        shard.rows.append(row | {"density_per_nm2": k / 5000, "density_ci_low": k / 8000, "density_ci_high": k / 3000})
    write_tsv(table([], INVENTORY), folder / "discovered.tsv")
    tables = shard.gathered(folder / "4_defects")
    names = [tables[name] for name in ("images_parquet", "defects_parquet", "reviews_parquet", "precision_csv")]
    index = folder / "5_report" / "index.html"
    listed = (shard.paths.reviews_json, folder / "discovered.tsv", tables["statistics_json"])
    write_index.main(*names, *listed, [str(pages)], index, INDEX_SETTINGS, PROVENANCE)
    return folder / "5_report"


def mark_on(defect: dict[str, Any], reviewer: str, verdict: str) -> dict[str, Any]:
    """What a person said of a defect, as review files hold it."""
    place = {key: defect.get(key) for key in ("image_id", "path", "site", "cell_u", "cell_v", "row_px", "col_px")}
    said = {"file": "review.json", "reviewer": reviewer, "what": "defect", "verdict": verdict, "kind": "", "note": ""}
    return place | said | {"found_kind": defect["kind"], "at": "2026-11-01T10:00:00Z"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def wait(page: Any, condition: str, seconds: float = 10) -> None:
    """Wait until a condition holds; Playwright's own waiting needs eval, which the policy refuses."""
    until = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        page.wait_for_timeout(20)


class Tab:
    """A tab that remembers what went wrong in it and what it asked for."""

    def __init__(self, browser: Any, width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("requestfailed", self.failed)
        self.page.on("request", lambda r: self.requests.append(r.url))

    def failed(self, request: Any) -> None:
        """A file that is missing or refused is a fault; a picture still on its way when the page is left is not."""
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"failed: {request.url} {request.failure}")

    def open(self, path: Path, extra: str = "") -> Any:
        self.page.goto(path.as_uri() + extra)
        return self.page

    def image(self, path: Path) -> Any:
        page = self.open(path)
        wait(page, "[...oddlattice.viewer.layers.raw.tiles.values()].some((tile) => tile.ready)")
        page.locator("#stage").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('bench').scrollIntoView()")
        return page

    def close(self) -> None:
        assert self.faults == []
        assert all(url.startswith(("file:", "data:")) for url in self.requests)
        self.context.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    found = Tab(browser)
    yield found
    found.close()


def ink(page: Any) -> float:
    """Share of the stage's screenshot that is not empty stage: read from the screen, as a person would."""
    page.wait_for_timeout(80)
    picture = page.locator("#stage").screenshot()
    values = np.asarray(Image.open(BytesIO(picture)).convert("RGB")).astype(int)[80:-70, 60:-220]
    return float((np.abs(values - np.array([12, 14, 17])).sum(axis=2) > 20).mean())


def only(page: Any, *layers: str) -> None:
    """Show these layers and no others."""
    for name in "raw prediction difference z cells mask marks".split():
        if page.locator(f"#show-{name}").count():
            page.set_checked(f"#show-{name}", name in layers)


def test_image_is_drawn_with_its_defects(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    assert page.title().endswith("HAADF · oddlattice")
    assert HOSTILE in page.locator("h1").inner_text()
    only(page)
    assert ink(page) == 0
    only(page, "raw")
    assert ink(page) > 0.4
    only(page, "marks")
    assert 0.002 < ink(page) < 0.5


@pytest.mark.parametrize("name", ["prediction", "difference", "z", "cells", "mask", "marks"])
def test_layers_are_switched_and_faded(tab: Tab, report: Path, name: str) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    only(page, name)
    if name in ("prediction", "difference", "z"):
        wait(page, f"[...oddlattice.viewer.layers.{name}.tiles.values()].some((tile) => tile.ready)")
    strong = ink(page)
    assert strong > 0.002
    assert page.locator("#ramp-z").is_visible() == (name == "z")
    if name in ("difference", "z"):
        page.click("#contrast")
        page.locator(f"#range-{name}").fill("100")
        assert ink(page) < strong  # a wider range shows less
    page.locator(f"#fade-{name}").fill("0")
    assert ink(page) == 0
    page.uncheck(f"#show-{name}")
    assert page.locator(f"#fade-{name}").is_disabled()


def test_moving_draws_what_drawing_anew_would(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    only(page, "raw", "z", "cells", "mask", "marks")
    wait(page, "[...oddlattice.viewer.layers.z.tiles.values()].some((tile) => tile.ready)")
    page.evaluate("oddlattice.viewer.zoom(3.3)")
    page.wait_for_timeout(100)
    for dx, dy in ((37, -21), (-150, 90), (11, 300)):
        page.evaluate(f"oddlattice.viewer.move({dx}, {dy})")
        page.wait_for_timeout(60)
    moved = page.locator("#stage").screenshot()
    page.evaluate("oddlattice.viewer.refresh()")
    page.wait_for_timeout(100)
    shots = [
        np.asarray(Image.open(BytesIO(x)).convert("RGB")).astype(int)
        for x in (moved, page.locator("#stage").screenshot())
    ]
    assert (np.abs(shots[0] - shots[1]).max(axis=2) > 4).mean() < 6e-4  # smoothed edges may differ, no strip


def test_wheel_zooms_about_the_pointer_and_the_scale_bar_follows(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    box = page.locator("#stage").bounding_box()
    x, y = box["width"] * 0.3, box["height"] * 0.4
    page.mouse.move(box["x"] + x, box["y"] + y)
    before = page.evaluate(f"oddlattice.viewer.place({x}, {y})")
    page.mouse.wheel(0, -600)
    wait(page, "oddlattice.viewer.scale > oddlattice.viewer.fit * 1.2")
    page.wait_for_timeout(100)
    assert page.evaluate(f"oddlattice.viewer.place({x}, {y})") == pytest.approx(before, abs=0.5)
    length, unit = page.locator("#scale span").inner_text().split()
    drawn = page.locator("#scale i").bounding_box()["width"]
    expected = float(length) / {"nm": 1, "pm": 1000}[unit] / 0.0156 * page.evaluate("oddlattice.viewer.scale")
    assert drawn == pytest.approx(expected, rel=0.02)
    assert "nm" in page.locator("#read").inner_text()


def test_read_out_gives_the_values_of_the_column_under_the_pointer(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    row, col, z, change = page.evaluate('["row", "col", "z", "change"].map((k) => oddlattice.data.defects[k][0])')
    x, y = page.evaluate(f"oddlattice.viewer.screen({row}, {col})")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    text = page.locator("#read").inner_text().replace("−", "-")
    assert f"z {z:.1f}" in text
    assert f"intensity {100 * change:.1f} %" in text
    at = [float(x) for x in re.search(r"row (\d+), col (\d+)\n([\d.]+), ([\d.]+) nm", text).groups()]  # type: ignore[union-attr]
    assert at == pytest.approx([row, col, row * 0.0156, col * 0.0156], abs=1)
    assert at[2] == pytest.approx(row * 0.0156, abs=0.02)


def test_dragging_moves_the_image(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    page.click("#zoom-in")
    page.click("#zoom-in")
    page.wait_for_timeout(60)
    box = page.locator("#stage").bounding_box()
    col, scale = page.evaluate("[oddlattice.viewer.col, oddlattice.viewer.scale]")
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 200, steps=5)
    page.mouse.up()
    page.wait_for_timeout(60)
    moved = (page.evaluate("oddlattice.viewer.col") - col) * scale
    assert 35 <= moved <= 50


def test_pinch_zooms(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    before = page.evaluate("oddlattice.viewer.scale")
    page.evaluate(
        """() => {
          const stage = document.getElementById("stage"), box = stage.getBoundingClientRect();
          stage.setPointerCapture = () => {};
          const send = (type, id, x) => stage.dispatchEvent(new PointerEvent(type, {pointerId: id, pointerType: "touch",
            clientX: box.left + x, clientY: box.top + 200, bubbles: true}));
          send("pointerdown", 1, 200); send("pointerdown", 2, 300); send("pointermove", 2, 400);
          send("pointerup", 2, 400); send("pointerup", 1, 200);
        }"""
    )
    page.wait_for_timeout(60)
    assert page.evaluate("oddlattice.viewer.scale") == pytest.approx(2 * before, rel=0.05)


def test_list_and_viewer_point_at_each_other(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    page.locator("#defects tr.row").nth(2).locator(".go").click()
    here = page.evaluate("oddlattice.viewer.here")
    assert page.evaluate("[oddlattice.viewer.row, oddlattice.viewer.col]") == pytest.approx(
        page.evaluate(f"[oddlattice.data.defects.row[{here}], oddlattice.data.defects.col[{here}]]")
    )
    assert page.locator("#defects tr.here").count() == 1
    other = page.evaluate(
        "oddlattice.viewer.marks.findIndex((m) => m.index !== oddlattice.viewer.here && m.kind !== 'extended')"
    )
    page.click("#zoom-fit")
    page.wait_for_timeout(60)
    x, y = page.evaluate(
        f"oddlattice.viewer.screen(oddlattice.viewer.marks[{other}].row, oddlattice.viewer.marks[{other}].col)"
    )
    page.locator("#stage").click(position={"x": x, "y": y})
    assert page.evaluate("oddlattice.viewer.here") == other
    assert page.locator("#defects tr.here").get_attribute("data-index") == str(other)


def test_keyboard_reaches_everything(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    shown = page.evaluate("[...document.querySelectorAll('#defects tr.row')].map((row) => Number(row.dataset.index))")
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert page.evaluate("oddlattice.viewer.here") == shown[1]
    page.keyboard.press("p")
    assert page.evaluate("oddlattice.viewer.here") == shown[0]
    for key, name in (
        ("d", "difference"), ("z", "z"), ("b", "prediction"), ("r", "raw"),
        ("m", "marks"), ("l", "cells"), ("k", "mask"),
    ):  # fmt: skip
        before = page.evaluate(f"oddlattice.viewer.show.{name}")
        page.keyboard.press(key)
        assert page.evaluate(f"oddlattice.viewer.show.{name}") is not before
    page.keyboard.press("i")
    assert not page.evaluate("['prediction', 'difference', 'z'].some((name) => oddlattice.viewer.show[name])")
    page.focus("#stage")
    page.keyboard.press("0")
    before = page.evaluate("oddlattice.viewer.scale")
    page.keyboard.press("+")
    assert page.evaluate("oddlattice.viewer.scale") > before
    row = page.evaluate("oddlattice.viewer.row")
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(60)
    assert page.evaluate("oddlattice.viewer.row") > row
    page.keyboard.press("1")
    assert page.evaluate("oddlattice.viewer.scale") == 1
    page.keyboard.press("?")
    assert page.locator("#help-dialog").is_visible()
    page.uncheck("#keys")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("n")
    assert page.evaluate("oddlattice.viewer.here") == shown[0]  # single keys are off now


def test_brackets_go_through_the_images_as_the_index_shows_them(tab: Tab, report: Path) -> None:
    page = tab.open(report / "index.html", "#sort=-name")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.locator("#images .name[href*='bb-1']").click()
    page.wait_for_url("**/bb-1.html#from=sort%3D-name")
    page.keyboard.press("[")
    page.wait_for_url("**/aa-2.html#from=sort%3D-name")
    page.keyboard.press("[")
    page.wait_for_timeout(300)
    assert "index.html" in page.url and "first image" in page.locator("#shown").inner_text()
    page.go_back()
    page.wait_for_url("**/aa-2.html*")
    page.keyboard.press("]")
    page.wait_for_url("**/bb-1.html*")
    page.click("text=All images")
    page.wait_for_url("**/index.html#sort=-name")


def test_table_sorts_and_filters(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")

    def column(key: str) -> list[Any]:
        found: list[Any] = page.evaluate(
            "(key) => [...document.querySelectorAll('#defects tr.row')]"
            ".map((row) => oddlattice.data.defects[key][row.dataset.index])",
            key,
        )
        return found

    for key in ("change", "kind_text", "row"):
        button = page.locator(f"#defects [data-sort={ {'kind_text': 'kind', 'row': 'place'}.get(key, key) }]")
        for up in (True, False):
            button.click()
            values = [x for x in column(key) if x is not None]
            assert values == sorted(values, reverse=not up)
            assert button.locator("xpath=ancestor::th").get_attribute("aria-sort") == (
                "ascending" if up else "descending"
            )
    page.click("#defects [data-sort=z]")
    page.fill("#least", "8")
    assert all(abs(z) >= 8 for z in column("z") if z is not None) and len(column("z")) > 3
    page.fill("#least", "0")
    page.select_option("#reviewed", "rejected")
    assert len(column("z")) == 1
    page.select_option("#reviewed", "")
    page.uncheck("[data-kind=vacancy-like]")
    assert "vacancy-like" not in column("kind")
    page.select_option("#site", "Ti")
    assert set(column("site")) == {"Ti"}
    for box in page.locator("[data-kind]").all():
        box.uncheck()
    assert page.locator("#list-empty").is_visible()


def test_contrast_changes_the_picture(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    only(page, "raw")

    def brightness() -> float:
        page.wait_for_timeout(80)
        return float(
            np.asarray(Image.open(BytesIO(page.locator("#stage").screenshot())).convert("L"))[100:400, 100:400].mean()
        )

    page.click("#contrast")
    plain = brightness()
    page.locator("#gamma").fill("-50")
    assert page.locator("#gamma-text").inner_text() == "0.50"
    assert brightness() > plain + 10
    page.check("#invert")
    page.click("#contrast-reset")
    assert brightness() == pytest.approx(plain, abs=0.5)
    page.locator("#white").fill("80")
    assert brightness() > plain + 5


@pytest.mark.parametrize("name", ["aa-2", "bb-1"])
def test_images_without_defects_and_without_model(tab: Tab, report: Path, name: str) -> None:
    page = tab.image(report / "s0001" / f"{name}.html")
    page.keyboard.press("n")
    page.keyboard.press("z")
    assert ink(page) > 0.2
    assert page.locator(".list").count() == 0
    assert ("No column is flagged" in page.locator("main").inner_text()) == (name == "aa-2")


@pytest.mark.parametrize(("width", "scheme"), [(800, "dark"), (1600, "light"), (800, "light"), (1600, "dark")])
def test_pages_fit_their_window(browser: Any, report: Path, width: int, scheme: str) -> None:
    found = Tab(browser, width, scheme)
    for name in ("index.html", "gallery.html", "s0001/aa-1.html", "s0001/bb-1.html"):
        page = found.open(report / name)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(x) for x in ground[4:-1].split(",")) < 200) == (scheme == "dark")
    found.close()


def test_index_of_500_images_opens_fast_and_scrolls(tab: Tab, report: Path) -> None:
    page = tab.open(report / "index.html")
    took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert took < 2000
    assert 5 < page.locator("#images tr.row").count() < 60
    page.evaluate("window.scrollTo(0, document.getElementById('images').offsetTop + 77 * 400)")
    wait(page, "[...document.querySelectorAll('#images tr.row')].some((row) => Number(row.ariaRowIndex) === 400)")
    assert page.locator("#images tr.row").count() < 60
    assert (report / "index.html").stat().st_size < 1_000_000


def test_index_filter_survives_a_reload(tab: Tab, report: Path) -> None:
    page = tab.open(report / "index.html")
    page.fill("#query", "many image-48")
    page.click("#images th[data-sort=density] button")
    names = page.locator("#images .name").all_inner_texts()
    assert names == [f"image-48{k}.dm4" for k in range(9, -1, -1)]
    assert page.url.endswith("#q=many+image-48&sort=-density")
    page.reload()
    assert page.locator("#images .name").all_inner_texts() == names
    assert page.input_value("#query") == "many image-48"
    page.click("[data-state=rejected]")
    assert page.locator("#empty").is_visible()
    page.click("#clear")
    page.click("[data-state=rejected]")
    assert page.locator("#images tr.row").count() == 1
    assert HOSTILE in page.locator("#images .why").inner_text()
    page.click("[data-state='']")
    page.click("[data-sort-first]")
    first = page.locator("#images .why").first.inner_text()
    assert first.startswith("People disagree about 1 of its defects. Density stands out")
    page.keyboard.press("/")
    page.keyboard.type("pure")
    assert page.locator("#images .name").all_inner_texts() == ["pure.dm4"]


def test_hostile_address_changes_nothing(tab: Tab, report: Path) -> None:
    page = tab.open(report / "index.html", "#q=%3Cimg%20src=x%3E&state=constructor&sort=%22%5D,*")
    assert page.locator("#empty").is_visible()
    page.click("#clear")
    assert page.locator("#images tr.row").count() > 5


def test_index_leads_to_a_page_and_back(tab: Tab, report: Path) -> None:
    page = tab.open(report / "index.html", "#q=pure")
    page.locator("#images tr.row td").nth(2).click()
    page.wait_for_url("**/s0001/aa-2.html#from=q%3Dpure")
    page.click("text=All images")
    page.wait_for_url("**/index.html#q=pure")


def test_policy_holds_in_the_browser(tab: Tab, report: Path) -> None:
    page = tab.open(report / "s0001" / "aa-1.html")
    outcome = page.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.textContent = "window.owned = true";
          document.body.append(script);
          let answer = "asked";
          try { await fetch("https://example.invalid/"); } catch (error) { answer = "refused"; }
          return [window.owned === undefined, answer];
        }"""
    )
    assert outcome == [True, "refused"]
    assert len(tab.faults) >= 2
    assert all("Content Security Policy" in fault or "Fetch API" in fault for fault in tab.faults)
    tab.faults.clear()


PAN = """() => new Promise((done) => {
  const spent = [], { viewer } = oddlattice, paint = viewer.paint.bind(viewer);
  viewer.paint = () => { const start = performance.now(); paint(); spent.push(performance.now() - start); };
  const step = () => {
    viewer.move(14 * Math.cos(spent.length / 25), 9 * Math.sin(spent.length / 19));
    if (spent.length < 40) requestAnimationFrame(step);
    else { delete viewer.paint; done(spent); }
  };
  step();
})"""


def test_2000_defects_on_4096_px_are_listed_and_moved(browser: Any, report: Path, tmp_path: Path) -> None:
    source = report / "s0001"
    text = (source / "aa-1.html").read_text()
    head, _, rest = text.partition('<script type="application/json" id="data">')
    body, _, tail = rest.partition("</script>")
    data = json.loads(body)
    rng = np.random.default_rng(0)
    data["defects"] = {key: (values * 2000)[:2000] for key, values in data["defects"].items()}
    data["defects"]["row"], data["defects"]["col"] = (
        rng.uniform(0, 4095, 2000).tolist(),
        rng.uniform(0, 4095, 2000).tolist(),
    )
    data["crops"]["per_sheet"] = 2000
    data |= {"rows": 4096, "cols": 4096}
    for layer in (data["raw"], data["prediction"], *data["maps"].values()):
        layer |= {"levels": 3, "rows": 4096, "cols": 4096, "tile_px": 1024}
        (tmp_path / layer["folder"]).mkdir(parents=True)
        names = [f"{k}_{i}_{j}" for k, number in enumerate((4, 2, 1)) for i, j in np.ndindex(number, number)]
        layer["covers"] = names if layer["covers"] else []
        for ending in (layer["ending"], *(["cover.png"] if layer["covers"] else [])):
            first = tmp_path / layer["folder"] / f"0_0_0.{ending}"
            with Image.open(source / layer["folder"] / f"0_0_0.{ending}") as tile:
                tile.resize((1024, 1024)).save(first, **tile.info)
            for name in names[1:]:
                os.link(first, first.with_name(f"{name}.{ending}"))
    for sheet in (source / "aa-1").glob("c*_*.*"):
        shutil.copy(sheet, tmp_path / "aa-1")
    (tmp_path / "many.html").write_text(
        f'{head}<script type="application/json" id="data">{json.dumps(data)}</script>{tail}'
    )
    found = Tab(browser)
    page = found.image(tmp_path / "many.html")
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 3000
    for name in ("prediction", "difference", "z", "cells"):
        page.check(f"#show-{name}")
    page.evaluate("oddlattice.viewer.zoom(2)")
    wait(page, "Object.values(oddlattice.viewer.layers).every((l) => [...l.tiles.values()].every((t) => t.ready))")
    page.wait_for_timeout(1000)
    spent = page.evaluate(PAN)
    assert np.median(spent) < 1000 / 30, spent  # ms to draw a frame with every layer on
    assert page.locator("#defects tr.row").count() < 40
    page.evaluate("document.getElementById('scroller').scrollTop = 91 * 1500")
    wait(page, "[...document.querySelectorAll('#defects tr.row')].some((row) => Number(row.ariaRowIndex) === 1502)")
    found.close()


# ---------------------------------------------------------------- review


def exported(page: Any, tmp_path: Path) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click("#export")
    assert re.fullmatch(r"review-a-meier-\d{8}-\d{6}\.json", download.value.suggested_filename)
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    content: dict[str, Any] = json.loads(path.read_text())
    schema = settings.load_yaml(Path(__file__).parents[2] / "workflow/schemas/review.schema.yaml")
    assert settings.checked(content, schema, [("review", content)]) == content
    return content


def test_a_review_is_kept_and_exported(tab: Tab, report: Path, tmp_path: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    page.keyboard.press("n")
    page.keyboard.press("a")
    assert "Give your name" in page.locator("#review-says").inner_text()
    page.keyboard.type("A. Meier")
    page.keyboard.press("Tab")
    page.focus("#stage")
    first, second, third = page.evaluate("oddlattice.gallery.order.slice(0, 3)")
    assert page.evaluate("oddlattice.viewer.here") == first
    page.keyboard.press("a")  # confirm, and on to the next
    assert page.evaluate("oddlattice.viewer.here") == second
    page.keyboard.press("x")
    assert page.evaluate("oddlattice.viewer.here") == third
    page.select_option("#other-kind", "heavier")
    page.fill("#defect-note", "beside <b>a step")
    page.locator("#defect-note").blur()
    page.check("#unusable")
    page.fill("#image-note", "tip change")
    page.locator("#image-note").blur()
    page.click("#region-draw")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    for x, y in ((300, 200), (300, 300), (200, 300)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    place = page.evaluate("oddlattice.viewer.place(300, 300)")
    page.click("#region-seen")
    page.locator("#regions button", has_text="Include again").last.click()
    assert page.locator("#regions li").count() == 1
    verdicts = page.locator("#defects .verdict").all_inner_texts()
    assert verdicts[:3] == ["! disagreement", "! disagreement", "+ heavier"]  # B. Li and C. Ray said other things
    page.reload()
    assert page.locator("#defects .verdict").all_inner_texts() == verdicts
    assert page.is_checked("#unusable")
    content = exported(page, tmp_path)
    (review,) = content["reviews"]
    assert (review["reviewer"], review["image_id"], review["unusable"]["is"]) == ("A. Meier", "aa-1", True)
    places = page.evaluate("oddlattice.gallery.order.slice(0, 3).map((k) => oddlattice.data.defects.row[k])")
    said = {mark["row_px"]: mark for mark in review["defects"]}
    assert [said[row]["verdict"] for row in places] == ["confirmed", "rejected", "other"]
    assert (said[places[2]]["kind"], said[places[2]]["note"]) == ("heavier", "beside <b>a step")
    assert review["note"]["text"] == "tip change"
    assert [region["withdrawn"] for region in review["regions"]] == [False, True]
    corners = review["regions"][0]["corners_px"]
    assert min(np.hypot(r - place[0], c - place[1]) for r, c in corners) < 3
    page.keyboard.press("Escape")
    page = tab.open(report / "index.html")
    page.click("#review summary")
    assert "7 statements on 1 image" in page.locator("#local").inner_text()
    assert "all exported" in page.locator("#local").inner_text()
    assert exported(page, tmp_path)["reviews"][0]["defects"] == review["defects"]


def test_a_review_ends(tab: Tab, report: Path, tmp_path: Path) -> None:
    """A missed defect is added on its column, the image is ticked off, the index counts it at once, a key goes on."""
    page = tab.image(report / "s0001" / "aa-1.html")
    page.fill("#reviewer", "A. Meier")
    page.click("#stage")
    page.evaluate("oddlattice.viewer.columns.near(0, 0)")  # unpacks them
    row, col = page.evaluate("oddlattice.viewer.columns.place(200)")
    page.evaluate(f"oddlattice.viewer.goTo({row}, {col}, 60)")
    page.wait_for_timeout(100)
    page.keyboard.press("f")
    x, y = page.evaluate(f"oddlattice.viewer.screen({row} + 0.8, {col} - 0.8)")
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + x, box["y"] + y)
    page.keyboard.press("f")
    assert page.locator("#missed li").count() == 1
    page.keyboard.press("c")
    assert page.is_checked("#looked")
    review = exported(page, tmp_path)["reviews"][0]
    assert review["looked"]["is"] is True
    (missed,) = review["missed"]
    assert (missed["row_px"], missed["col_px"]) == pytest.approx((row, col), abs=0.02)
    page.click("h1")
    page.keyboard.press("g")
    page.wait_for_url(lambda url: "aa-1" not in url and "index.html" not in url)
    page = tab.open(report / "index.html")
    page.select_option("#only", "open")
    assert page.locator("#images a.name", has_text="aa-1").count() == 0
    page.select_option("#only", "reviewed")
    assert "looked at" in page.locator("#images tbody").inner_text()


def test_a_review_of_another_browser_is_loaded(tab: Tab, report: Path, tmp_path: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    row, col, u, v, site = page.evaluate(
        "['row', 'col', 'cell_u', 'cell_v', 'site'].map((k) => oddlattice.data.defects[k][4])"
    )
    mark = {
        "verdict": "confirmed",
        "row_px": row,
        "col_px": col,
        "cell_u": u,
        "cell_v": v,
        "site": site,
        "note": HOSTILE,
    }
    said = {"reviewer": "__proto__", "image_id": "aa-1", "defects": [mark | {"at": "2026-11-20T10:00:00Z"}]}
    good = {"format": "oddlattice-review-1", "reviews": [said, said | {"image_id": "elsewhere"}]}
    for name, content in (
        ("good", good),
        ("bad", good | {"reviews": [said | {"defects": [{"verdict": "x"}]}]}),
        ("no", 5),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    page = tab.open(report / "index.html")
    page.click("#review summary")
    for name, says in (("bad", "no review that can be read"), ("no", "no review that"), ("good", "on 1 image of this")):
        page.set_input_files("#take", tmp_path / f"{name}.json")
        wait(page, f"document.getElementById('local').textContent.includes({json.dumps(says)})")
    page = tab.image(report / "s0001" / "aa-1.html")
    page.evaluate("oddlattice.gallery.onchoose(4, false)")
    assert page.locator("#defects tr.here .verdict").all_inner_texts() == ["✓ confirmed"]
    assert page.locator("#chosen-others").inner_text() == f"__proto__: confirmed ({HOSTILE})"


def test_a_mark_is_taken_back(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    page.fill("#reviewer", "A. Meier")
    page.locator("#reviewer").blur()
    page.uncheck("#go-on")
    page.locator("#defects tr.row").nth(3).locator(".go").click()
    for key, shown in (("a", ["✓ confirmed"]), ("x", ["✕ rejected"]), ("x", [])):
        page.keyboard.press(key)
        assert page.locator("#defects tr.here .verdict").all_inner_texts() == shown
    page.click("[data-verdict=confirmed]")
    assert page.locator("#defects tr.here .verdict").all_inner_texts() == ["✓ confirmed"]
    page.select_option("#reviewed", "open")
    assert page.locator("#defects tr.here").count() == 0


def test_a_review_comes_back_with_the_next_run(tab: Tab, browser: Any, report: Path, tmp_path: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    page.fill("#reviewer", "A. Meier")
    page.locator("#reviewer").blur()
    page.focus("#stage")
    for key in "naxa":
        page.keyboard.press(key)
    order = page.evaluate("oddlattice.gallery.order.slice(0, 3)")
    (tmp_path / "review").mkdir()
    exported(page, tmp_path / "review")
    schema = settings.load_yaml(Path(__file__).parents[2] / "workflow/schemas/review.schema.yaml")
    said = review_files.read_reviews(review_files.review_paths(tmp_path / "review", tmp_path), schema)
    assert [file["state"] for file in said.files] == ["taken"]
    shard = made_up.Shard(tmp_path / "products")
    shard.analysed("aa-1", f"2026/{HOSTILE}.dm4", made_up.scan_of((300, 340), 16, 3), extended=True)
    shard.statements, shard.files = said.statements, said.files
    pages = tmp_path / "5_report" / "s0001"
    write_pages.main(*made_up.arguments(shard.write()), pages, made_up.CONFIG)
    other = Tab(browser)  # another browser, which knows nothing
    page = other.image(pages / "aa-1.html")
    assert page.locator("#defects .verdict").all_inner_texts() == ["✓ confirmed", "✕ rejected", "✓ confirmed"]
    assert page.evaluate("oddlattice.gallery.all.filter((one) => one.verdict).map((one) => one.index)") == sorted(order)
    assert "Defects: 2 confirmed, 1 rejected." in page.locator(".taken").inner_text()
    assert "16 of" not in page.locator(".taken").inner_text()
    other.close()


def test_what_people_said_before_is_shown(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001" / "aa-1.html")
    text = page.locator(".taken").inner_text()
    assert "Reviewed by B. Li; C. Ray" in text
    assert "1 rejected" in text and "B. Li: confirmed; C. Ray: rejected" in text
    assert page.locator("#defects .verdict").all_inner_texts() == ["✕ rejected", "! disagreement"]
    page.locator("#defects .go").nth(1).click()
    assert page.locator("#chosen-others").inner_text() == "B. Li: confirmed; C. Ray: rejected"
    page = tab.open(report / "index.html")
    page.click("#review summary")
    assert f"Refused {HOSTILE}" in page.locator("#review").inner_text().replace("\n", " ")


def test_sessions_and_what_is_new(tab: Tab, report: Path) -> None:
    page = tab.open(report / "index.html")
    page.locator("#session-rows .go", has_text="many").click()
    assert page.url.endswith("#session=2026%2Fmany")
    assert page.locator("#shown").inner_text() == "496 of 500 shown"
    page.reload()
    assert page.locator("#shown").inner_text() == "496 of 500 shown"
    page.click("#session-clear")
    page.select_option("#only", "new")
    assert page.locator("#images tr.row").count() > 2
    page.click("#seen")
    assert page.locator("#empty").is_visible()
    page.reload()
    assert page.locator("#empty").is_visible()


def test_a_printed_page_shows_everything(tab: Tab, report: Path) -> None:
    rows = "document.querySelectorAll('#images tr.row, #defects tr.row').length"
    told = f"window.told = []; window.addEventListener('beforeprint', () => told.push({rows}))"
    for name, number in (("index.html", 500), ("s0001/aa-1.html", 16)):
        page = tab.open(report / name)
        few = page.evaluate(rows)
        page.evaluate(told)
        assert page.pdf(format="A4").count(b"/Subtype /Image") >= 3  # thumbnails; crops
        assert page.evaluate("told") == [number]
        wait(page, f"{rows} === {few}")
        page.evaluate(
            "window.print = () => { window.printed = [...document.images].every((image) => image.complete); }"
        )
        page.locator("#print").click()
        wait(page, "window.printed === true")
        assert page.evaluate(rows) == number


def test_a_link_names_a_defect_by_place_and_cell(tab: Tab, report: Path) -> None:
    page = tab.image(report / "s0001/aa-1.html")
    page.keyboard.press("n")
    page.keyboard.press("n")
    chosen = page.evaluate("oddlattice.viewer.here")
    parts = parse_qs(page.evaluate("location.hash").removeprefix("#"))
    assert set(parts) == {"at", "cell"}
    fields = page.evaluate("oddlattice.data.defects")
    assert parts["cell"] == [":".join(str(fields[key][chosen]) for key in ("grain", "cell_u", "cell_v", "column"))]
    page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    page.locator("#copy-link").click()
    wait(page, "window.copied")
    assert page.evaluate("copied") == page.url
    for link in ("at", "cell"):  # each alone will do
        page.goto("about:blank")
        page.goto((report / "s0001/aa-1.html").as_uri() + "#" + urlencode({link: parts[link][0]}))
        assert page.evaluate("oddlattice.viewer.here") == chosen


def test_a_page_in_one_file_needs_nothing_beside_it(tab: Tab, report: Path, tmp_path: Path) -> None:
    (tmp_path / "sent.html").write_text(one_file(report / "s0001/aa-1.html"), encoding="utf-8")
    page = tab.image(tmp_path / "sent.html")
    page.locator("#show-difference").check()
    wait(page, "[...oddlattice.viewer.layers.difference.tiles.values()].some((tile) => tile.ready)")
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert [url for url in tab.requests if not url.startswith("data:")] == [(tmp_path / "sent.html").as_uri()]
    assert "crops_0" not in page.locator(".crops div").first.get_attribute("style")
    seen = [a.get_attribute("download") for a in page.locator(".files a").all() if a.is_visible()]
    assert seen == ["aa-1.defects.csv", "aa-1.geojson"]
