"""A disk that is full, at every stage, or read-only: one sentence, nothing half-written, and the next run goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import compare_images
import gather_defects
import read_images
import write_index
from faults.test_images import whole
from oddlattice.archive.inventory import scan_archive
from oddlattice.archive.verdicts import refresh_inventory
from oddlattice.process.logs import say_plainly
from oddlattice.run.stage_settings import ReadSettings, ReportSettings, StatisticsSettings
from support.fault_shard import CONFIG, Shard
from support.report_products import no_series, series_in
from support.small_disk import SmallDisk, small_disk

__all__ = ["whole"]
ENOUGH_KB = 200_000
SENTENCE = "The results cannot be written: No space left on device. Nothing half-written is kept; run again later.\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 16) as found:
        yield found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class OnDisk(Shard):
    """A shard whose finished stages lie where there is room, and the one at work on the small disk."""

    def __init__(self, done: Path, disk: Path) -> None:
        super().__init__(done)
        self.disk = disk
        self.outputs: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> str:
        return str((self.disk if name in self.outputs else self.folder) / name)

    def read(self) -> None:
        archive = self.folder / "archive"
        read_images.main(
            self.folder / "shard.tsv",
            archive,
            self.images,
            ReadSettings.of(CONFIG["read"]),
            log=self.folder / "log",
            threads=2,
        )

    def _gather_into(self, folder: Path) -> dict[str, str]:
        names = ("defects", "images", "completeness", "reviews", "grains", "boundaries")
        out = {f"{name}_{ending}": str(folder / f"{name}.{ending}") for name in names for ending in ("parquet", "csv")}
        out["precision_csv"] = str(folder / "precision.csv")
        (self.folder / "said.json").write_text('{"files": [], "statements": []}')
        tables = {name: [getattr(self, name)] for name in gather_defects.OF_IMAGES if name != "images"}
        tables["images"] = [self.table]
        gather_defects.main(tables, [self.maps], str(self.folder / "said.json"), out)
        return out

    def gather(self) -> None:
        self._gather_into(self.disk)

    def index(self) -> None:
        out = self._gather_into(self.folder)
        scan_archive(self.folder / "archive", self.folder / "results", ["**"], [], 0, 32, 1000, now_ns=4 * 10**18)
        given = [out[name] for name in ("images_parquet", "defects_parquet", "reviews_parquet", "precision_csv")]
        given += [str(self.folder / "said.json"), str(self.folder / "results/0_archive/discovered.tsv")]
        statistics, beside = (
            self.folder / "4.json",
            {name: self.folder / f"{name}.csv" for name in compare_images.CSV},
        )
        tables = (out["images_parquet"], out["defects_parquet"], out["grains_parquet"])
        settings = StatisticsSettings.of(CONFIG["statistics"])
        populations = self.folder / "populations.parquet"
        stacks = (no_series(), statistics, beside, populations, series_in(self.folder))
        compare_images.main(*tables, [], [], *stacks, settings, CONFIG["seed"])
        provenance = {"config": CONFIG, "versions": {"oddlattice": "0"}}
        write_index.main(
            *given,
            statistics,
            [self.pages],
            self.disk / "index.html",
            ReportSettings.of(CONFIG["report"]),
            provenance,
        )

    def scan(self) -> None:
        scan_archive(self.folder / "archive", self.disk, ["**"], [], 0, 1, 1, now_ns=4 * 10**18)
        refresh_inventory(self.disk)


STAGES = {
    "scan": (),
    "read": ("images",),
    "tile": ("tiles",),
    "infer": ("differences",),
    "find": ("defects", "table", "columns", "completeness", "maps"),
    "measure": ("statistics", "places"),
    "gather": (),
    "report": ("pages",),
    "index": (),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_fills_its_disk(
    whole: Shard, disk: SmallDisk, tmp_path: Path, stage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    shard = OnDisk(whole.folder, disk.folder)
    shard.outputs = STAGES[stage]
    work: Callable[[], None] = getattr(shard, stage)
    room = 12 if stage != "scan" else 8
    filler = disk.folder / "filler"
    filler.write_bytes(b"x" * (16 - room) * 1024)
    if stage in ("gather", "scan"):  # whose products are small
        filler.write_bytes(b"x" * (16 << 10))
    with pytest.raises(OSError, match="No space left|os error 28") as failure:
        work()
    capfd.readouterr()
    say_plainly(failure.type, failure.value, failure.tb)
    assert capfd.readouterr().out == SENTENCE, failure.value
    left = {p.relative_to(disk.folder) for p in disk.folder.rglob("*") if p.is_file() and p.name != ".lock"}
    assert not [p for p in left if ".part" in str(p)], "nothing half-written"
    filler.unlink()
    disk.change(ENOUGH_KB)
    work()
    for name in shard.outputs:
        made, expected = disk.folder / name, whole.folder / name
        if expected.is_file():
            assert made.read_bytes() == expected.read_bytes()
        else:
            assert files(made) == files(expected)
    assert shard.outputs or len(files(disk.folder)) >= 2
