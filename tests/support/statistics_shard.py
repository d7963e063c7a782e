"""A shard with statistics of four images, their comparison and its page, as tests of several rooms need it."""

from pathlib import Path

import pytest

import compare_images
import write_statistics
from oddlattice.run.settings import load_yaml
from oddlattice.run.stage_settings import StatisticsSettings
from support import report_products as made_up
from support.settings import default

ROOT = Path(__file__).parents[2]
CONFIG = load_yaml(ROOT / "config.yaml")
VERSIONS = {"oddlattice": "0.1.0", "hyperspy": "2.5.0", "numpy": "2.4", "scipy": "1.17"}
PROVENANCE = {"config": CONFIG, "versions": VERSIONS}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[made_up.Made, Path, Path]:
    """Three images of a session and one of another folder; compared, and their page."""
    folder = tmp_path_factory.mktemp("statistics")
    made = made_up.Shard(folder / "products")
    for k, path in enumerate(["day <1>/1.dm4", "day <1>/2.dm4", "day <1>/3.dm4", "day 2/4.dm4"]):
        scan = made_up.scan_of((300, 320), 12, seed=k)
        made.analysed(f"i{k}", path, scan, seed=k, file_id=path, acquired=f"2026-03-04T1{k}:12:09")
    paths = made.write()
    out = folder / "4_defects"
    tables = {name: out / f"{name}.csv" for name in compare_images.CSV}
    (folder / "5_report").mkdir()
    compare_images.main(
        paths.images, paths.defects, str(paths.grains), [str(paths.statistics)], [str(paths.images_zarr)],
        made_up.no_series(),
        out / "statistics.json", tables, out / "populations.parquet", made_up.series_in(out),
        default(StatisticsSettings), 1, [str(paths.columns)],
    )  # fmt: skip
    page = folder / "5_report" / "statistics.html"
    write_statistics.main(out / "statistics.json", paths.images, [], page, page.with_name("methods.md"), PROVENANCE)
    return paths, out, page
