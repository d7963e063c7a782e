"""The products of one shard in a folder, and its stages one by one; as a program, one stage that dies at an image.

    python fault_shard.py FOLDER STAGE

goes on watched, as a job does, and has its process crash when the work on the image BAD is done.
"""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

import cut_tiles
import find_defects
import infer_differences
import measure_images
import write_pages
from oddlattice.predict import infer_image
from oddlattice.process.supervised import Watch, go_on_watched
from oddlattice.report import image_page
from oddlattice.run.settings import load_yaml
from oddlattice.run.stage_settings import DefectSettings, InferSettings, TileSettings
from oddlattice.storage.products import OF_SERIES
from support.fault_runs import CRYSTAL, ROOT
from support.settings import default

CONFIG = load_yaml(ROOT / "config.yaml")
SETTINGS = {name: CONFIG[name] | {"seed": CONFIG["seed"]} for name in ("infer",)}
GOOD, BAD = "f0000", "f0001"
STAGES = ("tile", "infer", "find", "measure", "report")


class Shard:
    """The products of one shard in a folder, and its stages one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name)

    def tile(self) -> None:
        cut_tiles.main(self.images, [CRYSTAL], self.tiles, default(TileSettings), threads=2)

    def infer(self, watch: Watch | None = None) -> None:
        given = (self.tiles, [str(CRYSTAL.parent)], self.differences, InferSettings.of(CONFIG["infer"]), 1)
        infer_differences.main(*given, watch)

    def find(self, watch: Watch | None = None) -> None:
        found = (self.images, self.tiles, self.differences)
        made = {"defects": self.defects, "images": self.table, "columns": self.columns}
        made |= {"completeness": self.completeness, "grains": self.grains, "boundaries": self.boundaries}
        find_defects.main(*found, made, self.maps, DefectSettings.of(CONFIG["defects"]), watch)

    def measure(self, watch: Watch | None = None) -> None:
        stores, tables = (self.images, self.tiles, self.differences), (self.defects, self.table, self.columns)
        out = {name: str(self.folder / f"{name}.parquet") for name in OF_SERIES}
        measure_images.main(*stores, [str(CRYSTAL)], *tables, self.statistics, self.places, out, 1, "series", watch)

    def report(self, watch: Watch | None = None) -> None:
        stores = (self.images, self.tiles, self.differences, self.maps)
        said = self.folder / "reviews.json"
        said.write_text('{"statements": []}')
        tables = (self.defects, self.table, self.columns, self.statistics, said)
        write_pages.main(*stores, *tables, self.pages, CONFIG, watch)

    def after(self, stage: str) -> None:
        """Run the stages that follow."""
        for name in STAGES[STAGES.index(stage) + 1 :]:
            getattr(self, name)()

    def states(self) -> dict[str, str]:
        return dict(pl.read_parquet(self.table).select("image_id", "state").iter_rows())

    def reason(self) -> str:
        return str(pl.read_parquet(self.table).filter(pl.col("image_id") == BAD)["reason"].item())


#: By stage, what works on one image, and how its arguments name it.
AT_WORK: dict[str, tuple[Any, str, Callable[..., str]]] = {
    "infer": (infer_image, "infer_image", lambda source, *others: source.name),
    "find": (find_defects, "analyse", lambda row, *others: row["image_id"]),
    "measure": (measure_images, "measure", lambda row, *others: row["image_id"]),
    "report": (image_page, "write_page", lambda image, *others: image.row["image_id"]),
}


def after_bad(stage: str, what: Callable[[], None]) -> tuple[Any, str, Callable[..., Any]]:
    """Module, name and function to put there: what works on one image, and on BAD does `what` when it is done."""
    module, name, name_of = AT_WORK[stage]
    function = getattr(module, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        found = function(*arguments, **keywords)
        if BAD in name_of(*arguments):
            what()
        return found

    return module, name, call


if __name__ == "__main__":
    shard, wanted = Shard(Path(sys.argv[1])), sys.argv[2]
    setattr(*after_bad(wanted, lambda: ctypes.string_at(8) and None))
    getattr(shard, wanted)(go_on_watched())
