"""What a scheduled run tidies away: stages that nothing waits for, and old logs; and the disk that is used."""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from oddlattice.storage.packed_stores import ENDING, pack_store

#: Stages that may be dropped; Snakemake makes them again by itself where something asks for them.
STAGES = {"tiles": "2_tiles", "differences": "3_differences", "maps": "4_defects"}
PAGES = "5_report"
#: Of these a record is kept: the arrays so named are left out of it, for they are made again with what else is there.
RECORDS = {"tiles": ("2_records", "tiles")}
_DROPPED = ".dropped"


def drop_stages(results: Path, names: Iterable[str], newer_than_ns: int = 0) -> list[Path]:
    """Drop the intermediate stores of shards whose pages are there: pages are the last that is made of them.

    A store is renamed before it is deleted, so that what a kill leaves of it is never taken for a whole one. Snakemake
    does not miss it, and still notices a changed config, model or program. Of tiles the record of the registration is
    kept (`RECORDS`), from which they can be cut again whatever the program of that day.

    Parameters
    ----------
    results : Path
    names : iterable of str
        Of `STAGES`.
    newer_than_ns : int
        Pages must be newer than this [ns since 1970]; during a run its start, because older pages may be about to be
        made again.

    Returns
    -------
    list of Path
        The stores that are gone.
    """
    gone = []
    for name in names:
        folder = results / STAGES[name]
        for left in folder.glob(f".*{_DROPPED}"):
            shutil.rmtree(left, ignore_errors=True)
        for store in sorted(folder.glob("*.zarr")):
            with suppress(FileNotFoundError):
                pages_ns = (results / PAGES / store.stem).stat().st_mtime_ns
                if pages_ns > max(newer_than_ns, store.stat().st_mtime_ns):
                    if name in RECORDS:
                        place, without = RECORDS[name]
                        pack_store(store, results / place / f"{store.stem}{ENDING}", without)
                    _remove(store)
                    gone.append(store)
    return gone


def _remove(store: Path) -> None:
    hidden = store.with_name(f".{store.name}{_DROPPED}")
    shutil.rmtree(hidden, ignore_errors=True)
    store.rename(hidden)
    shutil.rmtree(hidden)


def keep_newest(files: Iterable[Path], number: int) -> list[Path]:
    """Delete all but the newest files; those deleted are returned."""

    def age_ns(file: Path) -> int:
        try:
            return -file.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    old = sorted(files, key=age_ns)[number:]
    for file in old:
        file.unlink(missing_ok=True)
    return old


def disk_used(results: Path, known: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Measure what lies in `results`, two levels deep; what has not changed since `known` is not walked again.

    Parameters
    ----------
    known : mapping
        What an earlier call returned.

    Returns
    -------
    dict of str to (int, int)
        By path below `results`: modification time [ns since 1970] and size [bytes].
    """
    found: dict[str, tuple[int, int]] = {}
    for stage in sorted(results.iterdir()) if results.is_dir() else []:
        entries = sorted(stage.iterdir()) if stage.is_dir() else [stage]
        for entry in entries:
            with suppress(FileNotFoundError):
                name, when_ns = str(entry.relative_to(results)), entry.stat().st_mtime_ns
                before = known.get(name)
                whole = entry.suffix == ".zarr" or stage.name == PAGES  # these appear whole and do not change inside
                same = entry.is_dir() and whole and before is not None and before[0] == when_ns
                found[name] = (when_ns, before[1] if same and before else size_of(entry))
    return found


def size_of(path: Path) -> int:
    """Bytes that a file or a folder takes on disk."""
    if not path.is_dir():
        return path.lstat().st_blocks * 512
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def by_stage_mb(sizes: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Sum `disk_used` over each stage [MB]."""
    found: dict[str, int] = {}
    for name, (_, size) in sizes.items():
        stage = name.split("/", 1)[0]
        found[stage] = found.get(stage, 0) + size
    return {stage: round(size / 1e6, 3) for stage, size in sorted(found.items())}
