"""Ten million images on two hundred nodes, played through with measured constants: `python -m bench.scale`.

Every job of every shard waits for the one before it, for a place in the queue of its archive's head, and for a core;
nodes fail at random moments and their jobs are tried again. What the model holds, and where its constants come from:
docs/scale.md.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

#: Process time of a job's stages for one image of 2,048 x 2,048 px [s]; docs/speed.md.
STAGES_S = (0.3, 1.5, 0.7, 2.0, 0.6, 0.8)


@dataclass(frozen=True)
class Plan:
    """What is run, and on what."""

    images: int = 10_000_000
    shard_images: int = 32
    archives: int = 100  # working folders, each with a Snakemake of its own
    nodes: int = 200
    cores: int = 16
    grouped: bool = False  # the stages of a shard as one job of the cluster
    jobs: int = 100  # in the queue of one archive at a time: profiles/slurm
    start_s: float = 6.0  # of a job on the cluster, before it does anything: measured 5 to 8
    imports_s: float = 2.0  # of Python, once for each stage
    job_ms: float = 1.1  # of a head, for each job it knows
    job_kb: float = 13.0
    failing: float = 0.01  # of the nodes
    seed: int = 1

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_images)

    @property
    def durations_s(self) -> tuple[float, ...]:
        """Of the jobs of one shard, one after another."""
        stages = [self.imports_s + seconds * self.shard_images for seconds in STAGES_S]
        return (self.start_s + sum(stages),) if self.grouped else tuple(self.start_s + seconds for seconds in stages)


@dataclass(frozen=True)
class Outcome:
    """How long it took, and what it asked of the cluster."""

    hours: float
    submissions: int
    lost_core_h: float
    busy: float  # part of the cores' time
    head_s: float  # until the head of one archive knows its jobs
    head_mb: float


def play(plan: Plan) -> Outcome:
    """Play a plan through, event by event.

    Heads are alike, so one archive after another has the free core: each has at most `jobs` at once.
    """
    rng = np.random.default_rng(plan.seed)
    durations = plan.durations_s
    steps, free = len(durations), plan.nodes * plan.cores
    waiting: list[deque[int]] = [deque() for _ in range(plan.archives)]  # stages that are due, by archive
    left = [plan.shards // plan.archives] * plan.archives
    running = [0] * plan.archives
    ends: list[tuple[float, int, int]] = []
    usual_s = plan.shards * sum(durations) / free
    losses = sorted(float(t) for t in rng.uniform(0, usual_s, round(plan.failing * plan.nodes)))
    now = lost = busy = 0.0
    submissions = doomed = 0

    def due(archive: int) -> int | None:
        """The next stage that an archive's head submits; None where nothing is due, or its queue is full."""
        if running[archive] >= plan.jobs:
            return None
        if waiting[archive]:
            return waiting[archive].popleft()
        if not left[archive]:
            return None
        left[archive] -= 1
        return 0

    turn = idle = 0
    while True:
        while free and idle < plan.archives:
            archive = turn % plan.archives
            turn += 1
            stage = due(archive)
            if stage is None:
                idle += 1
                continue
            idle = 0
            free -= 1
            running[archive] += 1
            submissions += 1
            heapq.heappush(ends, (now + durations[stage], archive, stage))
        if not ends:
            break
        now, archive, stage = heapq.heappop(ends)
        while losses and losses[0] <= now:
            losses.pop(0)
            doomed += plan.cores  # the next jobs to end are those of the node that is lost: as good as any
        free += 1
        running[archive] -= 1
        busy += durations[stage]
        if doomed:
            doomed -= 1
            lost += durations[stage] / 2  # on average half done
            waiting[archive].appendleft(stage)
        elif stage + 1 < steps:
            waiting[archive].append(stage + 1)
        idle = 0
    jobs = plan.shards / plan.archives * len(STAGES_S)
    hours = now / 3600
    part = busy / (now * plan.nodes * plan.cores)
    return Outcome(hours, submissions, lost / 3600, part, jobs * plan.job_ms / 1e3, jobs * plan.job_kb / 1e3)


def told() -> Iterator[str]:
    """A line for each plan that is compared."""
    plan = Plan()
    plans = {
        "one archive": replace(plan, archives=1, jobs=plan.nodes * plan.cores),
        "100 archives": plan,
        "100 archives, a shard is one job": replace(plan, grouped=True),
    }
    yield "plan: hours, jobs submitted, core hours lost, busy, seconds and MB of a head before its first job"
    for name, one in plans.items():
        found = play(one)
        numbers = f"{found.hours:.1f}, {found.submissions:,}, {found.lost_core_h:.1f}, {found.busy:.0%}"
        yield f"{name}: {numbers}, {found.head_s:.0f}, {found.head_mb:.0f}"


if __name__ == "__main__":
    for line in told():
        print(line, flush=True)
