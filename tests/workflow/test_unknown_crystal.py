"""An image of which no model is, from its file to its tables: the crystal that it shows itself."""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from oddlattice.defects.kinds import NO_POINTS
from support.own_crystals import CRYSTALS, make_field
from support.stages import through_the_stages

PIXEL_NM = 0.0125


def test_an_unknown_crystal_is_analysed_with_and_without_a_pixel_size(tmp_path: Path) -> None:
    bright = make_field(CRYSTALS["MoS2"], side_px=448, dose=150, rotation_deg=21, changed_part=0.02, seed=11)
    dark = make_field(CRYSTALS["oblique"], side_px=512, dose=400, rotation_deg=50, dark=True, changed_part=0.02, seed=3)
    smooth = gaussian_filter(bright.counts, 1.0)
    scans = [(bright.counts, PIXEL_NM), (bright.counts, None), (dark.counts, None), (smooth, PIXEL_NM)]
    found = through_the_stages(scans, tmp_path)
    images = found["images"].sort("number")
    assert images["state"].to_list() == ["analysed"] * 4
    assert images["model"].to_list() == ["own"] * 4
    assert images["columns_tested"].min() > 100

    # the columns emptied in the field are listed, whatever is known of its scale, and hardly anything else is
    for number, field in ((0, bright), (1, bright), (2, dark)):
        listed = found["defects"].filter(
            (found["defects"]["number"] == number) & ~found["defects"]["kind"].is_in(NO_POINTS)
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
    with_scale, without, _, filtered = images.rows(named=True)
    assert abs(with_scale["pixel_nm"] / PIXEL_NM - 1) < 0.01 and with_scale["density_per_nm2"] > 0
    for key in ("pixel_nm", "area_nm2", "density_per_nm2", "density_ci_low", "a_nm"):
        assert without[key] is None
    assert without["a_px"] and "without a pixel size" in without["reason"]
    lengths = found["defects"].filter(found["defects"]["number"] == 1)
    assert lengths["row_nm"].null_count() == lengths["shift_row_pm"].null_count() == len(lengths) > 0
    assert found["columns"].filter(found["columns"]["number"] == 1)["shift_sigma_pm"].null_count() > 0

    # what the image is worth: columns of 38 pm rms, lines that jitter by 5 pm
    assert 85 < with_scale["column_fwhm_pm"] < 100 and with_scale["column_elongation"] < 1.1
    assert 4 < with_scale["jitter_pm"] < 6.5 and with_scale["distortion_pm"] < 10
    assert 14 < with_scale["signal_to_noise"] < 22  # 150 electrons over the noise of 65, the mean
    assert (
        without["column_fwhm_pm"] is None and abs(without["column_fwhm_px"] / with_scale["column_fwhm_px"] - 1) < 0.02
    )

    # smoothed: listed as before, but nothing is said of chances
    assert "denoised, filtered or enlarged" in filtered["reason"]
    smoothed = found["defects"].filter(found["defects"]["number"] == 3)
    assert len(smoothed) > 0.8 * (found["defects"]["number"] == 0).sum() and smoothed["z"].null_count() == 0
    tested = found["columns"].filter(found["columns"]["number"] == 3)
    for some in (smoothed, tested):
        assert some["p_value"].null_count() == some["q_value"].null_count() == len(some)
    for key in ("density_per_nm2", "density_corrected_per_nm2", "expected_false", "fdr"):
        assert filtered[key] is None and with_scale[key] is not None
