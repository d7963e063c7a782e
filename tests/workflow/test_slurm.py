"""The workflow on a real Slurm: the results of one machine, jobs killed for their memory, nodes and heads that die.

Skipped where Slurm is not installed (tests/setup_system.sh installs it where it may).
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_demo_archive import build
from support.fault_runs import ROOT, SHIPPED_MODEL, install
from support.slurm_cluster import Cluster, cluster, programs_missing
from workflow.test_workflow import lay_out_archive

PRODUCTS = ("1_images", "2_tiles", "3_differences", "4_defects", "5_report")
QUICK_STATUS = ["--slurm-init-seconds-before-status-checks", "2", "--slurm-status-command", "squeue"]

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        bool(programs_missing()), reason=f"=== no Slurm here: {', '.join(programs_missing())} missing ==="
    ),
]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "slurm") as found:
        yield found


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    return install(tmp_path / "installation", SHIPPED_MODEL)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    lay_out_archive(tmp_path / "archive")
    return tmp_path / "archive"


def command(installation: Path, work: Path, archive: Path, *arguments: str) -> list[str]:
    work.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "snakemake", "--snakefile", f"{installation}/Snakefile", "--directory", str(work)]
    return [*program, *arguments, "--config", f"archive={archive}", "settle_s=0"]


def run(wanted: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(wanted, env=environment, capture_output=True, text=True, check=False, timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def products(work: Path) -> dict[str, str]:
    """Hash of every file of the products."""
    found = {}
    for stage in PRODUCTS:
        for path in sorted((work / "results" / stage).rglob("*")):
            if path.is_file() and path.name != ".snakemake_timestamp":
                found[str(path.relative_to(work))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def wait_until(found: Callable[[], bool], what: str, limit_s: float = 300) -> None:
    end = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < end, f"waited {limit_s} s for {what}"
        time.sleep(0.2)


def states(slurm: Cluster, rule: str) -> list[str]:
    return [job["state"] for job in slurm.jobs() if job["comment"].startswith(f"rule_{rule}")]


def edited(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text, f"{path} does not hold {before!r}"
    path.write_text(text.replace(before, after, 1))


def test_a_job_killed_for_its_memory_is_tried_again_with_more(
    slurm: Cluster, installation: Path, archive: Path, tmp_path: Path
) -> None:
    edited(installation / "workflow/rules/2_tile.smk", "grown(4000)", "grown(1500)")
    edited(
        installation / "workflow/scripts/cut_tiles.py",
        "\nimport ",
        "\nimport time\nballast = bytearray(b'1') * 1_600_000_000\ntime.sleep(4)\ndel ballast\nimport ",
    )
    (archive / "bad/text.dm3").unlink()
    here, there = tmp_path / "here", tmp_path / "there"
    cut = ["--until", "cut_tiles"]
    run(command(ROOT, here, archive, "--cores", "2", *cut))
    said = run(
        command(installation, there, archive, "--workflow-profile", "slurm", *QUICK_STATUS, *cut), slurm.environment
    )
    print(slurm.table())
    killed, repeated = [job for job in slurm.jobs() if job["comment"].startswith("rule_cut_tiles")]
    assert (killed["memory"], repeated["memory"]) == ("1500M", "3000M")
    assert killed["state"] != "COMPLETED"
    assert repeated["state"] == "COMPLETED", slurm.logs()
    assert "Trying to restart" in said
    assert products(there) == products(here)
    assert any(name.startswith("results/2_tiles/") for name in products(here))


@pytest.mark.slow
def test_the_demo_archive_gives_the_same_bytes_as_on_one_machine(slurm: Cluster, tmp_path: Path) -> None:
    build(tmp_path / "demo_archive", None)
    here, there = tmp_path / "here", tmp_path / "there"
    said = run(
        command(ROOT, there, tmp_path / "demo_archive", "--workflow-profile", "slurm", *QUICK_STATUS), slurm.environment
    )
    print(slurm.table())
    assert "12 files: 9 done, 3 rejected" in said
    assert {job["state"] for job in slurm.jobs()} == {"COMPLETED"}
    assert {job["node"] for job in slurm.jobs()} == {"big", "small"}
    assert {job["node"] for job in slurm.jobs() if job["comment"].startswith("rule_infer")} == {"big"}  # its GPU
    run(command(ROOT, here, tmp_path / "demo_archive", "--cores", "2"))
    assert products(there) == products(here)


@pytest.mark.slow
def test_jobs_that_a_killed_head_left_are_cancelled_and_the_next_scheduled_run_finishes(
    slurm: Cluster, archive: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    (there / "my.yaml").write_text(f"archive: {archive}\nsettle_s: 0\n")
    wanted = [sys.executable, str(ROOT / "workflow/schedule_once.py"), "--directory", str(there), "--slurm"]
    wanted += ["--configfile", str(there / "my.yaml"), "--", *QUICK_STATUS]
    head = subprocess.Popen(wanted, env=slurm.environment)
    wait_until(lambda: "RUNNING" in states(slurm, "cut_tiles"), "a running job")
    [snakemake] = Path(f"/proc/{head.pid}/task/{head.pid}/children").read_text().split()
    for pid in (head.pid, int(snakemake)):
        os.kill(pid, signal.SIGKILL)
    head.wait()
    assert "RUNNING" in states(slurm, "cut_tiles")
    said = run(wanted, slurm.environment)
    print(slurm.table(), said)
    assert "was cut off" in said and "cluster jobs of an earlier run were cancelled" in said
    assert "CANCELLED" in states(slurm, "cut_tiles") and states(slurm, "write_index") == ["COMPLETED"]
    run(command(ROOT, here, archive, "--cores", "2"))
    assert products(there) == products(here)


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_of_a_job_is_survived(slurm: Cluster, archive: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    wanted = command(ROOT, there, archive, "--workflow-profile", "slurm", *QUICK_STATUS)
    with open(tmp_path / "head.log", "w") as log:
        head = subprocess.Popen(wanted, env=slurm.environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: "RUNNING" in states(slurm, "cut_tiles"), "a running job")
        node = next(job["node"] for job in slurm.jobs() if job["state"] == "RUNNING")
        time.sleep(1)
        slurm.crash_node(node)
        wait_until(lambda: "NODE_FAIL" in [job["state"] for job in slurm.jobs()], "Slurm to miss the node")
        slurm.start_node(node)
        assert head.wait(timeout=1200) == 0, (tmp_path / "head.log").read_text() + slurm.logs()
    finally:
        head.kill()
        head.wait()
    print(slurm.table())
    failed = [job for job in slurm.jobs() if job["state"] == "NODE_FAIL"]
    repeated = [job for job in slurm.jobs() if job["comment"] == failed[0]["comment"] and job["state"] == "COMPLETED"]
    assert len(repeated) == 1
    run(command(ROOT, here, archive, "--cores", "2"))
    assert products(there) == products(here)
    assert not list((there / "results").rglob("*.part"))
