"""An image of which no model is, from its file to its tables: the crystal that it shows itself."""

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from support.own_crystals import CRYSTALS, make_field
from support.stages import through_the_stages

PIXEL_NM = 0.0125


def test_an_unknown_crystal_is_analysed_with_and_without_a_pixel_size(tmp_path: Path) -> None:
    bright = make_field(CRYSTALS["MoS2"], side_px=448, dose=150, rotation_deg=21, changed_part=0.02, seed=11)
    dark = make_field(CRYSTALS["oblique"], side_px=512, dose=400, rotation_deg=50, dark=True, changed_part=0.02, seed=3)
    scans = [(bright.counts, PIXEL_NM), (bright.counts, None), (dark.counts, None)]
    found = through_the_stages(scans, tmp_path)
    images = found["images"].sort("number")
    assert images["state"].to_list() == ["analysed"] * 3
    assert images["model"].to_list() == ["own"] * 3
    assert images["columns_tested"].min() > 100

    # the columns emptied in the field are listed, whatever is known of its scale, and hardly anything else is
    for number, field in ((0, bright), (1, bright), (2, dark)):
        listed = found["defects"].filter(
            (found["defects"]["number"] == number) & (found["defects"]["kind"] != "extended")
        )
        places = listed.select("row_px", "col_px").to_numpy()
        odd = field.places_px[field.changed]
        away, _ = cKDTree(odd).query(places)
        assert (away >= 4).sum() <= 1
        inner = field.changed & (field.index == 0) & (np.abs(field.places_px - 220) < 140).all(1)
        if inner.any():
            away, _ = cKDTree(places).query(field.places_px[inner])
            assert (away < 4).mean() > 0.8

    # an empty dark column lets more through: it is still a vacancy in the columns' own terms
    kinds = found["defects"].filter(found["defects"]["number"] == 2)["kind"].to_list()
    assert {"vacancy-like", "heavier"} & set(kinds)

    # lengths are told where the file tells the scale, and nowhere else
    with_scale, without, _ = images.rows(named=True)
    assert abs(with_scale["pixel_nm"] / PIXEL_NM - 1) < 0.01 and with_scale["density_per_nm2"] > 0
    for key in ("pixel_nm", "area_nm2", "density_per_nm2", "density_ci_low", "a_nm"):
        assert without[key] is None
    assert without["a_px"] and "without a pixel size" in without["reason"]
    lengths = found["defects"].filter(found["defects"]["number"] == 1)
    assert lengths["row_nm"].null_count() == lengths["shift_row_pm"].null_count() == len(lengths) > 0
    assert found["columns"].filter(found["columns"]["number"] == 1)["shift_sigma_pm"].null_count() > 0
