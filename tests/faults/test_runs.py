"""Whole runs in bad circumstances: two at once, a full or read-only disk, another order, another choice of files."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.fault_runs import ROOT, Run, differing, write_scan
from support.small_disk import small_disk

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]


def lay_out(run: Run, of_b: str = "day 1") -> None:
    """A scan and two files that are none; or two scans, in two folders, so two shards."""
    write_scan(run.archive / "day 1/a.emd", seed=1)
    (run.archive / "day 1/c.dm3").write_text("no image")
    if of_b == "day 1":
        (run.archive / "day 1/b.dm4").touch()
    else:
        write_scan(run.archive / of_b / "b.dm4", seed=2)


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[int], list[str]]:
    """Two runs started at once in one folder: their exit codes and words."""
    run = Run(tmp_path_factory.mktemp("heads"))
    lay_out(run)
    heads, words = [], []
    for _ in range(2):
        heads.append(run.start())
        words.append(run.said.rename(run.said.with_name(f"said {len(words)}.txt")))
    codes = [head.wait() for head in heads]
    return run, codes, [path.read_text() for path in words]


@pytest.fixture
def run(two_heads: tuple[Run, list[int], list[str]]) -> Run:
    return two_heads[0]


def test_of_two_runs_at_once_one_works_and_the_other_leaves_with_a_sentence(
    two_heads: tuple[Run, list[int], list[str]],
) -> None:
    run, codes, words = two_heads
    assert sorted(codes) == [0, 1], words
    sentence = words[codes.index(1)].strip().splitlines()[-1]
    assert re.fullmatch(
        r"results: found another run at work here \(process \d+ on \S+\); needed it to end first", sentence
    )
    assert "Traceback" not in "".join(words)
    assert run.leftovers() == []
    assert sorted(run.states().values()) == ["done", "rejected", "rejected"]


def test_a_dry_run_beside_another_is_let_in(run: Run) -> None:
    """It only looks; and it finds nothing to do after the two heads."""
    assert "Nothing to be done" in run.finish("--dry-run")


def test_what_a_killed_run_left_is_cleared_away(run: Run) -> None:
    expected = run.products()
    part = run.results / "1_images/.gone-00000000.zarr.part"
    part.mkdir()
    (part / "chunk").write_bytes(b"half")
    (run.results / "4_defects/.defects.csv.part").write_text("half")
    locks = run.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("results/1_images/gone-00000000.zarr\nresults/5_report/index.html\n")
    run.finish()
    assert run.leftovers() == []
    assert differing(run.products(), expected) == []


def test_locks_of_a_dead_run_are_dropped_and_those_of_others_stay(tmp_path: Path) -> None:
    """Its own are those of results; of a training beside, or of a run on another machine, nobody can know."""
    locks = tmp_path / "locks"
    locks.mkdir()
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
    code += "from oddlattice.run.lock import be_alone\n"
    code += "be_alone(Path(sys.argv[2]) / 'results', Path(sys.argv[2]))"

    def left(last: str) -> list[str]:
        (tmp_path / "oddlattice.run").write_text(f"process 1 on {last}\n")
        (locks / "0.output.lock").write_text("results/5_report/index.html\n")
        (locks / "1.output.lock").write_text("models/other/model.yaml\n")
        subprocess.run([sys.executable, "-c", code, str(ROOT / "workflow/scripts"), str(tmp_path)], check=True)
        return sorted(path.name for path in locks.iterdir())

    assert left("another-machine") == ["0.output.lock", "1.output.lock"]
    assert left(socket.gethostname()) == ["1.output.lock"]


def test_narrowed_patterns_and_vanished_files_keep_their_results(run: Run) -> None:
    expected = run.products()
    kept = run.folder / "a.emd"
    (run.archive / "day 1/a.emd").rename(kept)
    mine = run.folder / "my.yaml"
    mine.write_text(json.dumps({"archive": "archive", "settle_s": 0, "include": ["**/c.dm3"]}))
    said = run.finish("--dry-run", "--configfile", str(mine))
    later = run.products()
    kept.rename(run.archive / "day 1/a.emd")
    assert "of the files found earlier 1 are gone from the archive; their results stay" in said
    assert "of the files found earlier 1 are no longer asked for by include and exclude; their results stay" in said
    assert "3 files: 1 done, 2 rejected" in said
    assert not re.search(r"^(read_images|cut_tiles|infer|find|write_pages)", said, re.MULTILINE)
    assert differing(later, expected) == []


def test_results_on_a_read_only_disk_are_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "work", 1000) as disk:
        run = Run(disk.folder)
        run.archive.mkdir()
        (run.archive / "a.dm4").touch()
        (run.results / "0_archive").mkdir(parents=True)
        with small_disk(run.results, 100) as results:
            results.change(100, "ro")
            said = run.fail().strip().splitlines()
    assert re.fullmatch(r"results\S*: found Read-only file system; needed a place .* that can be written to", said[-1])
    assert not any("Traceback" in line for line in said)


@pytest.mark.slow
def test_one_core_and_another_order_of_shards_give_the_same_bytes(tmp_path: Path) -> None:
    run = Run(tmp_path / "work")
    lay_out(run, "day 2")
    run.finish()
    expected = run.products()
    shards = sorted(path.stem for path in (run.results / "1_images").glob("*.zarr"))
    run.wipe()
    for shard in shards[::-1]:
        run.finish(f"results/5_report/{shard}", cores=1)
    run.finish(cores=1)
    assert differing(run.products(), expected) == []


@pytest.mark.slow
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Everything, Snakemake's own files and the logs too, lies on the disk that fills; at three different moments."""
    with small_disk(tmp_path / "work", 200_000) as disk:
        run = Run(disk.folder)
        lay_out(run, "day 2")
        run.finish()
        expected = run.products()
        used_kb = sum(path.stat().st_blocks for path in disk.folder.rglob("*")) // 2
        run.wipe()
        free_kb = used_kb - sum(path.stat().st_blocks for path in disk.folder.rglob("*")) // 2
        for part in (0.1, 0.4, 0.8):
            disk.change(used_kb - int((1 - part) * free_kb))
            said = run.fail()
            print(said)
            assert "No space left on device" in said
        disk.change(200_000)
        run.finish()
        assert differing(run.products(), expected) == []
        assert run.leftovers() == []
