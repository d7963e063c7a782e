"""Raw files whose names and metadata hold markup, scripts and directives, all the way into pages in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults.test_disk import OnDisk
from oddlattice.crystal import load_crystal
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from report import test_browser as browsing
from support.fault_runs import CRYSTAL, ROOT
from support.in_browser import chromium
from support.raw_files import shard_of, write_dm, write_velox

OWNED = "window.owned=1"
PAYLOADS = [
    f"<script>{OWNED}</script>",
    f"</script><script>{OWNED}</script>",
    f"<img src=x onerror={OWNED}>",
    f"\"'><svg onload={OWNED}>",
    f"javascript:{OWNED}",
    f"<a href='javascript:{OWNED}'>here</a>",
    f"<iframe srcdoc='<script>parent.{OWNED.removeprefix('window.')}</script>'></iframe>",
    "<style>@import 'file:///etc/hostname'</style><base href='file:///'><meta http-equiv=refresh content='0;url=x'>",
    f".. raw:: html\n\n   <script>{OWNED}</script>\n\n.. include:: /etc/hostname\n",
    "`here <javascript:window.owned=1>`_ |sub| :raw-html:`<b>`",
    "{{ 7 * 7 }} {% include '/etc/hostname' %} ${7*7}",
    "<!--<script>",
    "\u2028\u2029\u202e\x00\x1b]0;title\x07",
]


def in_a_name(text: str) -> str:
    return text.replace("/", "∕").replace("\x00", "")[:150]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an analysed image, of one without a model, and of refusals, all of them hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    archive = folder / "archive" / in_a_name(PAYLOADS[2])
    archive.mkdir(parents=True)
    # names of tags are Latin-1 in these files
    tags = {f"{number} {text.encode('ascii', 'ignore').decode()}": text for number, text in enumerate(PAYLOADS)}
    conditions = Conditions(pixel_nm=0.02, rotation_deg=7.0, dose_e_px=2000.0)
    counts = simulate_scan(load_crystal(CRYSTAL), conditions, (220, 220), seed=1).counts.astype(np.uint16)
    named = {"DataBar": {"Signal Name": PAYLOADS[0], "Acquisition Date": PAYLOADS[2]}, "Title": PAYLOADS[1]}
    write_dm(archive / f"{in_a_name(PAYLOADS[1])}.dm4", counts, pixel=0.02, tags=tags | named)
    noise = np.random.default_rng(0).poisson(50, (1, 128, 128)).astype(np.uint16)
    write_velox(archive / f"{in_a_name(PAYLOADS[3])}.emd", {PAYLOADS[2]: noise})
    for number, text in enumerate(PAYLOADS):
        (archive / f"{number}{in_a_name(text)}.dm3").write_text(text)
    shard_of(folder / "archive", folder / "shard.tsv")
    out = folder / "5_report"
    out.mkdir()
    shard = OnDisk(folder, out)
    shard.outputs = ("pages",)
    for stage in ("read", "tile", "infer", "find", "measure", "report", "index"):
        getattr(shard, stage)()
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_nothing_in_a_file_is_executed_or_fetched(report: Path, browser: Any) -> None:
    pages = sorted(report.rglob("*.html"))
    assert len(pages) == 4, "two images that were read, the index and the gallery"
    shown = ""
    for path in pages:
        tab = browsing.Tab(browser)
        tab.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        page = tab.open(path)
        page.wait_for_timeout(300)
        assert page.evaluate("window.owned") is None
        assert page.url.partition("#")[0] == path.as_uri(), "it stays where it is"
        for never in ("iframe", "object", "embed", "base", "img[onerror]", "svg[onload]", "meta[http-equiv=refresh]"):
            assert page.locator(never).count() == 0, never
        assert page.locator("script").count() == 2
        protocols = page.evaluate("[...document.querySelectorAll('[href],[src]')].map((e) => (e.href || e.src))")
        assert {str(url).partition(":")[0] for url in protocols} <= {"file", "data", "blob", ""}
        inside = report.as_uri()
        assert all(url.startswith((inside, "data:", "blob:")) for url in tab.requests), tab.requests
        for link in page.locator("a[href]").all()[:40]:
            assert (
                not str(link.get_attribute("href")).lower().lstrip().startswith(("javascript:", "data:", "vbscript:"))
            )
        shown += page.locator("body").inner_text() + page.content()
        tab.close()
    assert "onerror=window.owned=1" in shown, "the text itself is there to be read"
    assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|49 ", shown)
    assert "{{ 7 * 7 }}" in shown


def test_no_text_reaches_a_caption_of_snakemake() -> None:
    """`snakemake --report` interprets directives in captions, and embeds names as they are: no product is given one."""
    for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]:
        assert not re.search(r"\breport\(", path.read_text()), path
