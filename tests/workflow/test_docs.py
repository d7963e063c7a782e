"""The documentation: it builds as a site without a warning, and every piece of code in it does what it says."""

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_args

from oddlattice.command.places import HERE as ROOT
from oddlattice.run import settings
from support.in_browser import chromium, violations
from support.small_results import write_results

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Blocks of these kinds are code, and are run; `text` and blocks without a kind are what a terminal or a file shows.
CODE = {"sh", "python", "yaml", "ini"}


def blocks(kind: str) -> list[tuple[str, str]]:
    """Page and text of every block of a kind."""
    found = []
    for page in PAGES:
        for name, body in re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
            if name == kind:
                found.append((page.name, body))
    return found


def orders() -> list[tuple[str, list[str]]]:
    """Page and words of every line that a shell is given."""
    found = []
    for page, body in blocks("sh"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            found += [(page, words)] if words else []
    return found


def test_every_kind_of_block_is_looked_at() -> None:
    kinds = {name for page in PAGES for name in re.findall(r"^```(\S+)$", page.read_text(encoding="utf-8"), re.M)}
    assert {kind for kind in kinds if not kind.startswith("{")} == CODE | {"text"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as a site; whoever asks for the network while it is built is refused."""
    out = tmp_path_factory.mktemp("site")
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from sphinx.cmd.build import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["--quiet", "--fail-on-warning", "--keep-going", "--doctree-dir", str(out / "trees")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, str(ROOT / "docs"), str(out / "html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_the_site_has_every_page_and_needs_no_network(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        html = (site / page.with_suffix(".html").name).read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|link)[^>]+(src|href)=\"(https?:)?//", html), page.name
    assert "<math" in (site / "equations.html").read_text(encoding="utf-8")
    python = (site / "reference_python.html").read_text(encoding="utf-8")
    assert all(name in python for name in ("oddlattice.open", "column_table", "Conditions", "pixel_nm"))


def test_every_page_of_the_site_can_be_read_by_everybody(site: Path) -> None:
    """No fault that axe knows, and nothing wider than the window."""
    found = {}
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        for path in sorted(site.glob("*.html")):
            page.goto(path.as_uri())
            found[path.name] = violations(page, ("minor", "moderate", "serious", "critical"))
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280, path.name
    assert not {name: faults for name, faults in found.items() if faults}


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = set()
    for page in PAGES:
        for body in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            listed |= {line for line in body.splitlines() if line and not line.startswith(":")}
    assert listed == {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}


# docs/exports.md runs in test_end_to_end, on the results of a whole run
@pytest.mark.parametrize(("page", "code"), [block for block in blocks("python") if block[0] != "exports.md"])
def test_python_runs(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").symlink_to(write_results(tmp_path / "work/results"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})


def test_settings_are_as_the_schema_wants_them() -> None:
    schema = settings.load_schema(ROOT / "workflow/schemas/config.schema.yaml")
    config = settings.load_yaml(ROOT / "config.yaml")
    for page, text in blocks("yaml"):
        given = yaml.safe_load(text)
        whole = {key: value | given.get(key, {}) if isinstance(value, dict) else value for key, value in config.items()}
        whole |= {key: value for key, value in given.items() if not isinstance(value, dict)}
        settings.checked(whole, schema, [(page, given)])


def test_units_of_systemd_can_be_parsed() -> None:
    for _, text in blocks("ini"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read_string(text)
        assert parser["Service"]["ExecStart"] and parser["Timer"]["OnCalendar"]


def test_what_a_shell_is_given_is_there() -> None:
    """Options of Snakemake are known ones, scripts and targets exist; tests/command runs the lines of `oddlattice`."""
    targets = set(re.findall(r"^rule (\w+):", "".join(p.read_text() for p in ROOT.glob("workflow/rules/*.smk")), re.M))
    makes = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page, words in orders():
        program, rest = words[0], words[1:]
        if program == "snakemake":
            rest = [word.replace("REPO/", f"{ROOT}/") for word in rest if "profile" not in word]
            _, args = parse_args([word for word in rest if word not in ("slurm", "gpu")])
            assert set(args.targets) <= targets | {"train", "benchmark"}, page
        elif program == "make":
            assert {word for word in rest if "=" not in word} <= makes, page
        elif program in ("python", "sh"):
            assert (ROOT / rest[0]).is_file(), f"{page}: {rest[0]}"
        else:
            known = program in (".", "git", "oddlattice", "echo", "cd") or words[0].startswith("_ODDLATTICE")
            assert known, f"{page}: {words}"
