"""One false-discovery rate over all images: what is listed, and what the tables of images say then."""

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from oddlattice.defects.fdr import decide, q_values
from oddlattice.numerics.intervals import poisson_interval
from oddlattice.statistics.over_run import listed_over_run
from oddlattice.storage.products import COLUMNS, DEFECTS, IMAGES, table

FDR = 0.05


def made_up(seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Defects listed image by image, images and columns: one crowded image and thirty sparse ones."""
    rng = np.random.default_rng(seed)
    images, columns, defects = [], [], []
    for k in range(31):
        n, name = 400, f"i{k:02d}"
        z = rng.standard_normal(n)
        z[: 60 if k == 0 else 1] += 4.2
        p = 2 * ndtr(-np.abs(z))
        q = decide(p, np.empty(0), 200, FDR).q
        images.append(
            {"image_id": name, "path": f"a/{name}.dm4", "signal": "", "frame": 0, "state": "analysed", "fdr": FDR,
             "columns_tested": n, "cells_analysed": 200, "area_nm2": 50.0, "pixel_nm": 0.02, "false_dispersion": 1.0,
             "defects": int((q <= FDR).sum()), "density_corrected_per_nm2": 1.0}
        )  # fmt: skip
        for i in range(n):
            row = {"image_id": name, "grain": 1, "cell_u": i // 20, "cell_v": i % 20, "column": 0, "site": "Sr"}
            row |= {"row_px": 20.0 * (i // 20), "col_px": 20.0 * (i % 20), "z": z[i], "p_value": p[i], "q_value": q[i]}
            row |= {"intensity_change": 0.05 * z[i], "intensity_change_sigma": 0.05, "shift_row_pm": 0.0}
            row |= {"shift_col_pm": 0.0, "shift_sigma_pm": 5.0, "probability_real": 0.9, "in_region": False}
            columns.append(row)
            if q[i] <= FDR:
                of_defect = {key: value for key, value in row.items() if key in DEFECTS}
                about = {"path": f"a/{name}.dm4", "signal": "", "frame": 0, "kind": "heavier", "kind_probability": 0.99}
                defects.append(of_defect | about)
    defects.append({"image_id": "i00", "kind": "extended", "area_nm2": 1.0, "row_px": 1.0, "col_px": 1.0, "grain": 1})
    listed = table(defects, DEFECTS).sort("image_id", "p_value", "row_px", "col_px", nulls_last=True)
    return listed, table(images, IMAGES), table(columns, COLUMNS)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_list_is_that_of_one_benjamini_hochberg(seed: int) -> None:
    defects, images, columns = made_up(seed)
    found, about = listed_over_run(defects, images, columns.filter(pl.col("p_value") <= FDR), FDR)
    p = columns["p_value"].to_numpy()
    tests = len(p) + 31 * 200
    weight = 0.9 * tests / len(p)
    expected = columns.with_columns(q=pl.Series(q_values(p / weight, tests))).filter(pl.col("q") <= FDR)
    points = found.filter(pl.col("kind") != "extended")
    key = ["image_id", "cell_u", "cell_v"]
    assert points.sort(key).select(key).equals(expected.sort(key).select(key))
    assert points.sort(key)["q_value"].to_numpy() == pytest.approx(expected.sort(key)["q"].to_numpy())
    assert found.height == points.height + 1, "a region is no column: it stays"
    # some were listed by their image alone, some are by the run alone
    before = defects.filter(pl.col("kind") != "extended")
    assert before.join(points, on=key, how="anti").height > 0
    alone = points.join(before, on=key, how="anti")
    assert alone.height > 0 and alone["path"].is_not_null().all() and set(alone["kind"]) <= {"heavier", "lighter"}
    assert alone["row_nm"].to_numpy() == pytest.approx(0.02 * alone["row_px"].to_numpy())
    for row in about.iter_rows(named=True):
        number = points.filter(pl.col("image_id") == row["image_id"]).height
        assert row["defects"] == number and row["density_per_nm2"] == pytest.approx(number / 50)
        assert row["density_ci_high"] == pytest.approx(poisson_interval(number)[1] / 50)
        assert row["expected_false"] == pytest.approx(0.1 * number)
        assert row["density_corrected_per_nm2"] is None, "completeness was measured at the image's own threshold"


def test_a_column_in_a_region_is_listed_and_not_counted() -> None:
    defects, images, columns = made_up(3)
    columns = columns.with_columns(in_region=pl.col("image_id") == "i05")
    found, about = listed_over_run(defects.head(0), images, columns.filter(pl.col("p_value") <= FDR), FDR)
    of_image = found.filter(pl.col("image_id") == "i05")
    assert of_image["in_region"].all()
    assert about.filter(pl.col("image_id") == "i05")["defects"].item() == 0
