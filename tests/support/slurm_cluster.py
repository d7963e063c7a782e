"""A real Slurm on one machine: a controller and two nodes, `big` with a pretended GPU and `small` without.

Everything lies in one folder and listens on free ports: an installed Slurm, and another test's, are left alone. No
systemd, no accounting database, no cgroups: a job that uses more memory than it asked for is killed by Slurm's own
watch on it.
Needs the programs of Debian's `slurm-wlm` and `munge`; tests/setup_system.sh installs them.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
NODES = ("big", "small")
TABLE = "JobID:8 ,Comment:64 ,State:14 ,NodeList:8 ,NumCPUs:6 ,MinMemory:8 ,tres-per-job:14 ,TimeUsed:8 ,Reason:20"


def programs_missing() -> list[str]:
    """What a cluster needs and this machine lacks; munged and the daemons may lie where only root looks."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def configuration(folder: Path, user: str, cpus: int, memory_mb: int) -> str:
    """What slurm.conf says; accounting is left out because it needs a database server."""
    host = socket.gethostname().partition(".")[0]
    control, *node_ports = free_ports(1 + len(NODES))
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": control,
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge.socket",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool-%n",
        "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/slurmd-%n.pid",
        "SlurmctldLogFile": f"{folder}/slurmctld.log",
        "SlurmdLogFile": f"{folder}/slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides",  # nodes may pretend to have more than this machine
        "SchedulerParameters": "sched_interval=1,batch_sched_delay=0",
        "ReturnToService": 2,
        "SlurmdTimeout": 10,
        "KillWait": 2,
        "MinJobAge": 3600,
        "AccountingStorageType": "accounting_storage/none",
        "MailProg": "/bin/true",
        "GresTypes": "gpu",
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    for name, port in zip(NODES, node_ports, strict=True):
        gpu = " Gres=gpu:1" if name == "big" else ""
        size = f"CPUs={cpus} RealMemory={memory_mb}{gpu}"
        lines.append(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {size}")
    lines.append(f"PartitionName=all Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"


@dataclass
class Cluster:
    """A running cluster; `environment` is what its commands need."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        return "".join(f"\n== {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.folder.glob("*.log")))

    def table(self) -> str:
        """Every job of the cluster's life, finished ones too."""
        return self.call("squeue", "--states=all", "--sort=i", "--Format", TABLE)

    def jobs(self) -> list[dict[str, str]]:
        """The same as rows: id, comment, state, node, memory_mb."""
        text = self.call("squeue", "--states=all", "--sort=i", "--noheader", "--format=%i|%k|%T|%N|%m|%b")
        keys = ("id", "comment", "state", "node", "memory", "gres")
        return [dict(zip(keys, line.split("|"), strict=True)) for line in text.splitlines()]

    def start_node(self, name: str) -> None:
        self.call("slurmd", "-N", name)

    def wait_for(self, states: dict[str, str], limit_s: float = 60) -> None:
        """Wait until nodes are in the wanted states."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            text = self.call("sinfo", "--noheader", "--Node", "--format=%N %t")
            found = dict(line.split() for line in text.splitlines())
            if all(found[name].rstrip("*") == state for name, state in states.items()):
                return
            time.sleep(0.3)
        raise AssertionError(f"needed {states}, found {found}{self.logs()}")

    def crash_node(self, name: str) -> None:
        """What a power cut does to a node: its daemon and all processes of its jobs are gone at once."""
        pid = int((self.folder / f"slurmd-{name}.pid").read_text())
        on_it = [job["id"] for job in self.jobs() if job["node"] == name and job["state"] == "RUNNING"]
        os.kill(pid, signal.SIGKILL)
        for process in processes_with({f"SLURM_JOB_ID={job}" for job in on_it}) + steps_of(on_it):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def stop(self) -> None:
        for file in [*self.folder.glob("*.pid")]:
            with suppress(ProcessLookupError, ValueError, FileNotFoundError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def processes_with(variables: set[str]) -> list[int]:
    """Processes whose environment holds one of the given NAME=value."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if variables & set((folder / "environ").read_bytes().decode(errors="replace").split("\0")):
                    found.append(int(folder.name))
    return found


def steps_of(jobs: list[str]) -> list[int]:
    """The daemons that watch over the steps of jobs; they name themselves `slurmstepd: [job.step]`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                name = (folder / "cmdline").read_bytes().decode(errors="replace")
                if any(name.startswith(f"slurmstepd: [{job}.") for job in jobs):
                    found.append(int(folder.name))
    return found


@contextmanager
def cluster(folder: Path, cpus: int = 8, memory_mb: int = 16000) -> Iterator[Cluster]:
    """Start a cluster in a folder; stopped at the end, with every job it still runs."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)  # munged refuses a socket below folders that others may write to
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "slurm.conf").write_text(configuration(folder, user, cpus, memory_mb))
    (folder / "gres.conf").write_text("NodeName=big Name=gpu File=/dev/null\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    (folder / "bin").mkdir()
    srun = folder / "bin/srun"  # Snakemake's plugin takes every SLURM_ variable from it, where the configuration is too
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    path = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
    environment |= {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    found = Cluster(folder, environment)
    try:
        found.call(
            "munged",
            "--force",
            f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed",
        )
        found.call("slurmctld")
        for node in NODES:
            found.start_node(node)
        found.wait_for(dict.fromkeys(NODES, "idle"))
        yield found
    finally:
        with suppress(AssertionError, subprocess.TimeoutExpired):
            running = [job["id"] for job in found.jobs()]
            found.call("scancel", "--full", "--state=RUNNING", *running)
            found.call("scancel", "--state=PENDING", *running)
            time.sleep(1)
        found.stop()
