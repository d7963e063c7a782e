"""The quick benchmark, every method in it, with tolerances as wide as its few fields ask for: ten minutes."""

from pathlib import Path

import polars as pl
import pytest
import yaml

import run_benchmark
import train_published
from oddlattice.run.stage_settings import BenchmarkSettings
from support.settings import default

SEED, VERSIONS = 7, {"versions": {"oddlattice": "0"}}
ROOT = Path(__file__).parents[2]
CARD, MODEL = ROOT / "models/libraries/srtio3_001.yaml", ROOT / "models/srtio3_001"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    out = tmp_path_factory.mktemp("benchmark")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    settings = default(BenchmarkSettings, size="quick", methods=["vae", "template", "pca", "published"])
    stages = {name: config[name] for name in ("read", "tile", "infer", "defects")}
    weights = str(tmp_path_factory.mktemp("published") / "published.safetensors")
    train_published.main(str(CARD), str(MODEL / "crystal.yaml"), weights, settings.size, SEED)
    run_benchmark.main(str(CARD), str(MODEL), weights, str(out), settings, stages, SEED, VERSIONS, 2)
    return {path.stem: pl.read_csv(path) for path in out.glob("*.csv")}


def test_efficiency_of_every_method(tables: dict[str, pl.DataFrame]) -> None:
    found = tables["efficiency"].filter(pl.col("dose_e_px").is_in([400.0, 1250.0]))
    mean = dict(found.group_by("method").agg(pl.col("efficiency_mean").mean()).iter_rows())
    assert mean["vae"] > 0.92 and mean["template"] > 0.92 and mean["pca"] > 0.88
    assert mean["vae"] > mean["pca"] and mean["vae"] > mean["template"] - 0.005
    assert mean["published"] < 0.3
    assert found.filter(pl.col("method") == "vae")["efficiency_lowest"].min() > 0.7


def test_whole_columns_are_found(tables: dict[str, pl.DataFrame]) -> None:
    table_1 = tables["table_1"].filter((pl.col("method") == "vae") & (pl.col("kind") != "bulk"))
    assert (table_1["flagged"] == 1).all() and (table_1["n"] > 30).all()
    clear = tables["detection"].filter((pl.col("method") == "vae") & (pl.col("dprime_ideal") > 7))
    assert clear["recall_at_1pct"].min() > 0.9


def test_p_and_q_mean_what_they_say(tables: dict[str, pl.DataFrame]) -> None:
    (bulk,) = tables["calibration"].filter((pl.col("method") == "vae") & (pl.col("group") == "all")).to_dicts()
    assert 0.8 < bulk["ratio_1pct"] < 1.25 and 0.6 < bulk["ratio_0p1pct"] < 1.7
    rate = tables["discovery"].filter(pl.col("method") == "vae")["false_discovery_rate"]
    assert rate.mean() < 0.08


def test_kinds_are_right_and_errors_hold(tables: dict[str, pl.DataFrame]) -> None:
    listed = tables["intervals"].filter((pl.col("method") == "vae") & (pl.col("of") == "listed defects"))
    covered = (listed["covered_by_68pct"] * listed["n"]).sum() / listed["n"].sum()
    assert 0.55 < covered < 0.8
    files = tables["files"]
    assert (files["state"] == "analysed").all() and files["precision"].mean() > 0.85
    assert files["clear_found"].sum() > 0.85 * files["clear_placed"].sum()
