"""The whole workflow on a tiny archive: what runs, what runs again, and what a person reads when something is wrong.

One installation (a copy of the repository) serves a working folder elsewhere. One real run; everything about what would
run again is asked of `snakemake -n`.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from oddlattice import __version__
from oddlattice.crystal import load_crystal
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from oddlattice.storage import products
from support.fault_runs import ROOT, install
from support.raw_files import write_ncem
from support.small_disk import small_disk

PER_SHARD = {"read_images", "cut_tiles", "infer_differences", "find_defects", "measure_images", "write_pages"}
AT_THE_INDEX = {"write_index", "write_crate"}
AT_THE_END = {"gather_defects", "compare_images", "write_statistics"} | AT_THE_INDEX
MODEL = "srtio3_001"

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(600)]


@dataclass
class Work:
    """A working folder with its archive, and the installation it is worked on with."""

    installation: Path
    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.installation / "Snakefile")]
        return subprocess.run(
            [*command, "--directory", str(self.folder), "--cores", "2", *arguments],
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, *arguments: str) -> str:
        done = self.snakemake(*arguments, "--config", "archive=archive", "settle_s=0")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def would_run(self, *arguments: str) -> dict[str, int]:
        """The rules that a run now would run, and how often."""
        text = self.run("--dry-run", *arguments)
        if "Nothing to be done" in text:
            return {}
        table = text.partition("Job stats:")[2].partition("total")[0]
        jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}
        return {name: count for name, count in jobs.items() if name != "all"}

    def refused(self, *arguments: str) -> str:
        """The last line of a run that has to fail, which has to be the only one about the failure."""
        done = self.snakemake("--quiet", "host", *arguments)
        assert done.returncode != 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]


def lay_out_archive(archive: Path) -> None:
    """One image of a crystal, and three files that hold no image."""
    archive.mkdir()
    crystal = load_crystal(ROOT / "models" / MODEL / "crystal.yaml")
    conditions = Conditions(pixel_nm=0.02, rotation_deg=7.0, dose_e_px=2000.0, jitter_pm=3.0)
    scan = simulate_scan(crystal, conditions, (320, 320), seed=1)
    write_ncem(archive / "good.emd", scan.counts.astype(np.uint16), pixel=0.02)
    (archive / "empty, and odd\n.dm4").write_bytes(b"")
    (archive / "bad").mkdir()
    (archive / "bad/text.dm3").write_text("no image")
    (archive / "notes.txt").write_text("not asked for")


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and modification time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, str, dict[str, tuple[str, int]]]:
    """A finished run; its output; the archive as it was before."""
    top = tmp_path_factory.mktemp("workflow")
    work = Work(install(top / "installation"), top / "work")
    work.folder.mkdir()
    lay_out_archive(work.archive)
    shutil.copytree(ROOT / "models" / MODEL, work.folder / "models" / MODEL)
    before = contents(work.archive)
    return work, work.run(), before


@pytest.fixture
def work(finished: tuple[Work, str, object]) -> Work:
    """The finished run, for tests that change it and put everything back."""
    return finished[0]


# ---- one run


def test_run_says_where_it_is_and_what_came_out(finished: tuple[Work, str, object]) -> None:
    work, text, _ = finished
    lines = text.splitlines()
    assert any(re.fullmatch(r"\[ *1/\d+ +\d+ %\] read_images \S+  \d+ s", line) for line in lines)
    assert f"{work.archive}: 3 files: 1 done, 2 rejected" in lines
    assert f"report: {work.results}/5_report/index.html" in lines
    assert len(lines) < 30


def test_the_archive_is_as_it_was(finished: tuple[Work, str, dict[str, tuple[str, int]]]) -> None:
    work, _, before = finished
    assert contents(work.archive) == before


def test_every_file_is_in_the_inventory_once(work: Work) -> None:
    inventory = products.read_tsv(work.results / "0_archive/inventory.tsv", products.INVENTORY)
    states = dict(zip(inventory["path"], inventory["state"], strict=True))
    assert states == {"good.emd": "done", "empty, and odd\\x0a.dm4": "rejected", "bad/text.dm3": "rejected"}
    rejected = inventory.filter(pl.col("state") == "rejected")
    assert all(len(reason) > 10 for reason in rejected["reason"])


def test_products_are_where_the_contract_says(work: Work) -> None:
    images = pl.read_parquet(work.results / "4_defects/images.parquet")
    defects = pl.read_parquet(work.results / "4_defects/defects.parquet")
    assert set(products.IMAGES) <= set(images.columns)
    assert set(products.DEFECTS) <= set(defects.columns)
    assert sorted(images["state"]) == ["analysed", "rejected", "rejected"]
    [analysed] = images.filter(pl.col("state") == "analysed").rows(named=True)
    assert analysed["a_nm"] == pytest.approx(0.3905, rel=0.02)
    assert analysed["defects"] == defects.height
    with open(work.results / "4_defects/images.csv", newline="", encoding="utf-8") as file:
        assert [row["image_id"] for row in csv.DictReader(file)] == images["image_id"].to_list()
    assert (work.results / "5_report/index.html").stat().st_size > 1000


def test_config_and_versions_lie_beside_the_results(work: Work) -> None:
    config = yaml.safe_load((work.results / "config.yaml").read_text())
    assert config["archive"] == str(work.archive)
    assert config["settle_s"] == 0
    assert (work.results / "versions.txt").read_text().startswith("oddlattice ")


def test_every_job_has_a_log(work: Work) -> None:
    shards = [path.stem for path in (work.results / "1_images").glob("*.zarr")]
    assert len(shards) == 2
    for rule in PER_SHARD:
        assert sorted(path.stem for path in (work.results / "logs" / rule).glob("*.log")) == sorted(shards)
    for rule in AT_THE_END:
        assert (work.results / f"logs/{rule}.log").is_file()


def test_nothing_half_written_is_left(work: Work) -> None:
    assert not [path for path in work.results.rglob("*") if path.name.endswith(".part")]


# ---- the next run


def test_second_run_does_nothing_and_says_so(work: Work) -> None:
    before = contents(work.results)
    text = work.run()
    assert "Nothing to be done" in text
    before.pop("0_archive/inventory.tsv")
    after = contents(work.results)
    after.pop("0_archive/inventory.tsv")
    assert after == before


def test_changed_threshold_redoes_only_what_depends_on_it(work: Work) -> None:
    (work.folder / "my.yaml").write_text("defects: {fdr: 0.2}\n")
    found = work.would_run("--configfile", str(work.folder / "my.yaml"))
    assert found == dict.fromkeys(("find_defects", "measure_images", "write_pages"), 2) | dict.fromkeys(AT_THE_END, 1)


def test_changed_settle_time_redoes_no_analysis(work: Work) -> None:
    done = work.snakemake("--dry-run", "--config", "archive=archive", "settle_s=7")
    assert done.returncode == 0
    assert not re.search(
        r"^(read_images|cut_tiles|infer_differences|find_defects|write_pages) ", done.stdout, re.MULTILINE
    )


def test_changed_model_redoes_everything_after_the_images(work: Work) -> None:
    folder = work.folder / "models" / MODEL
    kept = {path: (path.read_bytes(), path.stat()) for path in folder.iterdir()}
    weights = (folder / "weights.safetensors").read_bytes() + b"\0"
    description = yaml.safe_load((folder / "model.yaml").read_text())
    description["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.yaml").write_text(yaml.safe_dump(description))
    found = work.would_run()
    for path, (content, stat) in kept.items():
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    each = PER_SHARD - {"read_images"}  # the tile stage too: it chooses between models
    assert found == dict.fromkeys(each, 2) | dict.fromkeys(AT_THE_END, 1)
    assert work.would_run() == {}


def test_changed_crystal_redoes_everything_after_the_images(work: Work) -> None:
    crystal = work.folder / "models" / MODEL / "crystal.yaml"
    before, stat = crystal.read_bytes(), crystal.stat()
    crystal.write_bytes(before + b"# a comment\n")
    found = work.would_run()
    crystal.write_bytes(before)
    os.utime(crystal, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found.keys() == (PER_SHARD - {"read_images"}) | AT_THE_END


def test_edited_module_redoes_what_imports_it(work: Work) -> None:
    module = work.installation / "workflow/scripts/oddlattice/defects/kernels.py"
    before, stat = module.read_bytes(), module.stat()
    module.write_bytes(before + b"\n# an edit\n")
    found = work.would_run()
    module.write_bytes(before)
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found.keys() == {"find_defects", "measure_images", "write_pages"} | AT_THE_END


def test_results_of_a_version_stay_where_the_config_says_so(work: Work) -> None:
    module = work.installation / "workflow/scripts/oddlattice/defects/kernels.py"
    before, stat = module.read_bytes(), module.stat()
    module.write_bytes(before + b"\n# a release\n")
    keep = work.folder / "keep.yaml"
    keep.write_text(f'keep_results_of: "{__version__}"\ndefects: {{fdr: 0.2}}\n')
    found = work.would_run("--configfile", str(keep))
    keep.write_text('keep_results_of: "0.0.1"\n')
    other = work.would_run("--configfile", str(keep))
    module.write_bytes(before)
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found.keys() <= AT_THE_END
    assert other.keys() == {"find_defects", "measure_images", "write_pages"} | AT_THE_END


def test_touched_but_unchanged_module_redoes_nothing(work: Work) -> None:
    os.utime(work.installation / "workflow/scripts/oddlattice/defects/kernels.py")
    assert work.would_run() == {}


def test_while_a_run_is_going_on_the_archive_is_not_looked_at(work: Work) -> None:
    (work.archive / "bad/late.dm4").write_bytes(b"")
    locks = work.folder / ".snakemake/locks"
    (locks / "0.output.lock").write_text("results/1_images/other.zarr\n")
    before = contents(work.results / "0_archive")
    work.run("--dry-run")
    (locks / "0.output.lock").unlink()
    (work.archive / "bad/late.dm4").unlink()
    assert contents(work.results / "0_archive") == before


# ---- what is wrong is one sentence, before any work


def test_vanished_archive_is_an_error_and_touches_nothing(work: Work) -> None:
    before = contents(work.results)
    work.archive.rename(work.folder / "elsewhere")
    sentence = work.refused("--config", "archive=archive")
    (work.folder / "elsewhere").rename(work.archive)
    assert sentence == f"--config: archive: found no folder {work.archive}; needed the folder of microscope files"
    assert contents(work.results) == before


def test_wrong_weights_are_refused(work: Work) -> None:
    weights = work.folder / "models" / MODEL / "weights.safetensors"
    before, stat = weights.read_bytes(), weights.stat()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    sentence = work.refused("--config", "archive=archive")
    weights.write_bytes(before)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert re.fullmatch(
        r"\S+config.yaml: models: found \S+weights.safetensors with sha256 \w{64}; needed \w{64}, .*", sentence
    )


@pytest.fixture
def fresh(finished: tuple[Work, str, object], tmp_path: Path) -> Work:
    """A working folder in which nothing has been done yet, with an archive of one file."""
    work = Work(finished[0].installation, tmp_path / "work")
    (work.folder / "archive").mkdir(parents=True)
    (work.folder / "archive/a.dm4").write_bytes(b"")
    shutil.copytree(finished[0].folder / "models", work.folder / "models")
    return work


@pytest.mark.parametrize(
    ("mine", "sentence"),
    [
        ("defects: {fdr: abc}", '{my}: defects.fdr: found "abc"; needed a number between 0 and 1'),
        ("archiv: x", "{my}: archiv: unknown key; known here are archive, .*"),
        ("models: [nope]", '{my}: models: found "nope", but no .*; needed one of: srtio3_001.*'),
        ("archive: nope", "{my}: archive: found no folder .*/work/nope; needed the folder of microscope files"),
    ],
)
def test_a_bad_config_is_one_sentence_before_any_work(fresh: Work, mine: str, sentence: str) -> None:
    (fresh.folder / "my.yaml").write_text(mine + "\n")
    found = fresh.refused("--configfile", str(fresh.folder / "my.yaml"))
    assert re.fullmatch(sentence.replace("{my}", "my.yaml"), found), found
    assert not fresh.results.exists()


def test_unwritable_results_are_one_sentence(fresh: Work) -> None:
    fresh.results.write_text("a file where a folder is needed")
    sentence = fresh.refused("--config", "archive=archive", "settle_s=0")
    assert re.fullmatch(r"results\S*: found .*; needed a place for results that can be written to", sentence), sentence


def test_a_young_file_waits_and_it_is_said_why(fresh: Work) -> None:
    done = fresh.snakemake("--dry-run", "--config", "archive=archive", "settle_s=3600")
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert f"{fresh.archive}: 1 file: 1 waiting" in said
    assert f"{fresh.archive}: 1 file waits: may still be being written; taken once unchanged for 3600 s" in said


def test_a_folder_that_cannot_be_written_to_is_one_sentence(fresh: Work) -> None:
    with small_disk(fresh.folder / "work", 100) as disk:
        disk.change(100, "ro")
        found = fresh.refused("--directory", str(disk.folder), "--config", "archive=archive")
    assert found == (
        f"{disk.folder}: found a folder that cannot be written to; needed one for results: --directory WORK"
    )


def test_missing_packages_are_one_sentence_unless_rules_bring_their_own(fresh: Work, tmp_path: Path) -> None:
    install(tmp_path / "installation")
    project = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "installation/pyproject.toml").write_text(project.replace('"click==', '"nosuchpackage>=1", "click=='))
    other = Work(tmp_path / "installation", fresh.folder)
    found = other.refused("--config", "archive=archive", "--dry-run")
    assert found.startswith(f"{sys.executable}: found no package nosuchpackage; needed the environment of ")
    done = other.snakemake("--dry-run", "--sdm", "conda", "--config", "archive=archive", "settle_s=0")
    assert "found no package" not in done.stderr


# ---- the rules


def test_an_ordinary_run_never_trains(fresh: Work) -> None:
    assert not {"train", "train_model", "simulate_library"} & fresh.would_run().keys()


def test_train_needs_no_archive(fresh: Work) -> None:
    shutil.rmtree(fresh.archive)
    done = fresh.snakemake("train", "--dry-run", "--forcerun", "train_model")
    assert done.returncode == 0, done.stderr
    assert "train_model" in done.stdout + done.stderr


def test_lint_finds_nothing() -> None:
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    titles = re.findall(r"^    \* (.+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    assert not titles, done.stderr


# ---- what leaves something to be done again, last of all


def test_new_files_are_picked_up_and_finished_work_stays(work: Work) -> None:
    new = work.archive / "bad/new.dm4"
    new.write_bytes(b"")
    os.utime(new, ns=(10**18, 10**18))
    assert work.would_run() == dict.fromkeys(PER_SHARD | AT_THE_END, 1)
    new.unlink()
    for path in (work.results / "0_archive").glob("bad-*.tsv"):
        if "new.dm4" in path.read_text():
            path.unlink()
    assert work.would_run().keys() <= AT_THE_INDEX  # discovered.tsv has been rewritten


def test_changed_content_is_analysed_again_as_a_new_version(work: Work) -> None:
    path = work.archive / "bad/text.dm3"
    before, stat = path.read_text(), path.stat()
    path.write_text("still no image")
    assert work.would_run().keys() <= AT_THE_INDEX  # it has changed between looks: it waits
    assert work.would_run() == dict.fromkeys(PER_SHARD | AT_THE_END, 1)
    path.write_text(before)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for shard in (work.results / "0_archive").glob("bad-*.tsv"):
        if "\t14\t" in shard.read_text():
            shard.unlink()


def test_a_review_redoes_the_tables_the_index_and_the_pages_of_its_shard(work: Work) -> None:
    (image,) = pl.read_parquet(work.results / "4_defects/images.parquet").filter(pl.col("state") != "rejected")[
        "image_id"
    ]
    said = {"reviewer": "A. Meier", "image_id": image, "unusable": {"is": True, "at": "2026-11-22T10:00:00Z"}}
    folder = work.archive / "review"
    folder.mkdir()
    (folder / "cut off.json").write_text('{"format": ')
    assert work.would_run() == dict.fromkeys(AT_THE_END, 1)  # a bad file is listed, and that is all
    text = json.dumps({"format": "oddlattice-review-1", "reviews": [said]})
    (work.results / "5_report/review-a.json").write_text(text)
    expected = dict.fromkeys(AT_THE_END | {"write_pages"}, 1)
    assert work.would_run() == expected
    said = work.run()
    assert "review cut off.json: found no JSON" in said
    assert work.would_run() == {}
    images = pl.read_parquet(work.results / "4_defects/images.parquet")
    assert images.filter(pl.col("image_id") == image)["unusable"].to_list() == [True]
    assert "cut off.json" in (work.results / "5_report/index.html").read_text()
    (work.results / "5_report/review-a.json").unlink()
    shutil.rmtree(folder)
    assert work.would_run() == expected
