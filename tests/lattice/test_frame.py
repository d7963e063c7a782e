"""The lattice frame, counted against simulated scans whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from oddlattice.crystal import CELL_PX, PX_PER_CELL, Crystal
from oddlattice.lattice import resample
from oddlattice.lattice.columns import as_cells
from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.fourier import NoLatticeError, find_lattice
from oddlattice.lattice.grid import Grid, Lifted
from oddlattice.lattice.mean_cell import peaks_of_mean_cell
from oddlattice.lattice.measure import scanned_down
from oddlattice.lattice.register import fit_registration, register
from oddlattice.lattice.registration import Registration, render
from oddlattice.lattice.resample import area_averaged, straightened
from oddlattice.lattice.which_crystal import NoModelError, rotation_deg
from oddlattice.numerics.local_plane import block_mean, local_plane, running_median, slow_mean
from oddlattice.simulate.columnwise import Conditions, Defect, simulate_scan
from support.lattice_samples import (
    MOS2_60,
    MOS2_120,
    OBLIQUE,
    SRTIO3,
    draw_conditions,
    frame_error_pm,
    true_row_shift_px,
)

PIXEL_NM = 0.0125


def fitted(conditions: Conditions, *defects: Defect, size: int = 340, seed: int = 0) -> Registration:
    pixel = (conditions.pixel_nm, conditions.pixel_nm)
    scan = simulate_scan(SRTIO3, conditions, (size, size), defects, seed, origin_px=(size / 2, size / 2))
    return fit_registration(scan.counts, [SRTIO3], pixel)


GRID = [
    (SRTIO3, 0.0125, 0.0, (0.0, 0.0, 0.0, 0.0)),
    (SRTIO3, 0.0125, 17.0, (0.05, 0.05, -0.05, 0.0)),
    (SRTIO3, 0.0125, 45.0, (0.0, 0.10, 0.0, 0.0)),
    (SRTIO3, 0.040, 62.0, (0.03, 0.0, 0.0, -0.03)),
    (SRTIO3, 0.0065, 80.0, (0.0, 0.0, 0.05, 0.0)),
    (MOS2_120, 0.0125, 11.0, (0.02, 0.0, 0.0, -0.02)),
    (MOS2_60, 0.020, 50.0, (0.0, 0.03, 0.0, 0.0)),
    (OBLIQUE, 0.020, 33.0, (0.0, 0.0, 0.04, 0.0)),
]


@pytest.mark.parametrize(("sample", "pixel_nm", "rotation", "strain"), GRID)
def test_columns_lie_where_the_frame_says(
    sample: Crystal, pixel_nm: float, rotation: float, strain: tuple[float, float, float, float]
) -> None:
    conditions = Conditions(
        pixel_nm=pixel_nm, rotation_deg=rotation, strain=strain, drift_nm=(0.1, -0.15), dose_e_px=400
    )
    side = int(max(9 * np.sqrt(sample.area_nm2) / pixel_nm, 320))
    scan = simulate_scan(sample, conditions, (side, side + 30), seed=2)
    found = fit_registration(scan.counts, [sample], (pixel_nm * 1.04, pixel_nm * 1.04))
    assert frame_error_pm(scan, found, sample, pixel_nm) < 5
    corners = found.nodes_px.reshape(2, -1).T
    uv = found.frame.uv_at(corners)
    assert np.abs(uv - np.rint(uv)).max() < 1e-3  # nodes are whole lattice coordinates
    assert np.linalg.det(found.frame.vectors_px) > 0
    assert found.mask.sum() == found.inside.sum() > 15


def test_the_cell_is_anchored_right_in_twenty_random_draws() -> None:
    rng = np.random.default_rng(7)
    errors = []
    for seed in range(20):
        conditions = draw_conditions(rng)
        side = int(8.5 * SRTIO3.a_nm / conditions.pixel_nm)
        scan = simulate_scan(SRTIO3, conditions, (side, side + 60), seed=seed)
        header = conditions.pixel_nm * float(rng.uniform(0.96, 1.04))
        found = fit_registration(scan.counts, [SRTIO3], (header, header) if seed % 2 else None)
        assert found.origin_fit is not None
        assert found.origin_fit.explained - found.origin_fit.second > 0.2
        errors.append(frame_error_pm(scan, found, SRTIO3, conditions.pixel_nm))
    assert max(errors) < 20, errors  # a wrong origin would be 195 pm or more
    assert np.median(errors) < 3


@pytest.mark.parametrize("sample", [MOS2_120, OBLIQUE])
def test_orientation_is_right_where_it_matters(sample: Crystal) -> None:
    for angle in (-80.0, 40.0, 160.0):
        conditions = Conditions(pixel_nm=0.02, rotation_deg=angle, dose_e_px=400)
        scan = simulate_scan(sample, conditions, (256, 256), seed=1)
        found = fit_registration(scan.counts, [sample], (0.02, 0.02))
        apart = rotation_deg(found.frame.vectors_px, sample) - angle
        turn = 120 if sample is MOS2_120 else 360
        assert abs((apart + turn / 2) % turn - turn / 2) < 1


def test_row_shifts_are_recovered() -> None:
    conditions = Conditions(rotation_deg=17, dose_e_px=400, jitter_pm=5)
    scan = simulate_scan(SRTIO3, conditions, (256, 1024), seed=4)
    found = fit_registration(scan.counts, [SRTIO3], (PIXEL_NM, PIXEL_NM))
    error = found.row_shift_px - true_row_shift_px(conditions, 256, 4)
    assert float(np.sqrt((error**2).mean())) < 0.12
    assert found.row_sigma_px == pytest.approx(0.09, abs=0.02)


def test_without_jitter_and_with_few_electrons_rows_are_left_alone() -> None:
    found = fitted(Conditions(rotation_deg=17, dose_e_px=60, jitter_pm=0), size=320)
    assert float(found.row_shift_px.std()) < 0.15  # the shifts' own errors are 0.4 px


def test_a_scan_stored_with_rows_and_columns_exchanged_is_straightened_along_its_lines() -> None:
    conditions = Conditions(rotation_deg=17, dose_e_px=400, jitter_pm=5)
    scan = simulate_scan(SRTIO3, conditions, (500, 600), seed=4)
    upright = fit_registration(scan.counts, [SRTIO3], (PIXEL_NM, PIXEL_NM))
    turned = fit_registration(np.ascontiguousarray(scan.counts.T), [SRTIO3], (PIXEL_NM, PIXEL_NM))
    assert (upright.transposed, turned.transposed) == (False, True)
    assert turned.row_shift_px.shape == (500,)
    shifts = turned.row_shift_px
    np.testing.assert_allclose(shifts, upright.row_shift_px, atol=0.03)
    assert np.linalg.det(turned.frame.vectors_px) > 0  # right-handed, as in every image
    # lattice points are where they were, rows and columns exchanged
    corners = upright.nodes_px.reshape(2, -1).T[:, ::-1]
    uv = turned.frame.uv_at(corners[((corners > 20) & (corners < [580, 480])).all(axis=1)])
    assert np.abs(uv - np.rint(uv)).max() < 0.02

    def scatter(image: np.ndarray, found: Registration) -> float:
        whole = render(image, found, (slice(0, found.mask.shape[0]), slice(0, found.mask.shape[1])))
        cells = as_cells(whole, PX_PER_CELL)[found.mask]
        return float((cells - cells.mean(axis=0)).var())

    straight, jittered = (
        scatter(scan.counts.T, turned),
        scatter(scan.counts.T, replace(turned, row_shift_px=0 * shifts)),
    )
    assert straight == pytest.approx(scatter(scan.counts, upright), rel=0.02)
    assert straight < 0.95 * jittered


@pytest.mark.parametrize("jitter_pm", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("dose_e_px", [30.0, 5000.0])
def test_a_scan_along_rows_is_not_taken_for_one_along_columns(jitter_pm: float, dose_e_px: float) -> None:
    for seed in range(3):
        conditions = Conditions(rotation_deg=30 * seed, dose_e_px=dose_e_px, jitter_pm=jitter_pm)
        counts = simulate_scan(SRTIO3, conditions, (300, 300), seed=seed).counts
        assert not scanned_down(counts, find_lattice(counts))


@pytest.mark.parametrize("shift_pm", [(40.0, 0.0), (0.0, 40.0)])
def test_a_displaced_column_keeps_its_shift(shift_pm: tuple[float, float]) -> None:
    conditions = Conditions(rotation_deg=17, jitter_pm=3, dose_e_px=4000)
    size = 600
    defect = Defect((0, 0), 0, "displaced", shift_pm=shift_pm)
    without, with_it = fitted(conditions, size=size), fitted(conditions, defect, size=size)
    place = np.array([[size / 2, size / 2]])
    away = without.frame.uv_at(place) - with_it.frame.uv_at(place)
    taken = (away - np.rint(away))[0] @ with_it.frame.vectors_px * PIXEL_NM * 1000
    rows = slice(size // 2 - 6, size // 2 + 7)
    taken[1] += float(np.abs(with_it.row_shift_px - without.row_shift_px)[rows].mean()) * PIXEL_NM * 1000
    assert np.abs(taken).max() < 4  # at least 90 % of the 40 pm stay


@pytest.mark.parametrize("column", [0, 1])
def test_a_vacancy_does_not_bend_the_frame_and_is_not_masked(column: int) -> None:
    conditions = Conditions(rotation_deg=30, jitter_pm=0, dose_e_px=0)
    without = fitted(conditions)
    for factor in (0.0, 4.0):
        found = fitted(conditions, Defect((0, 0), column, "vacancy-like", factor=factor))
        near = 170 + np.stack(np.meshgrid(np.arange(-60, 61, 20), np.arange(-60, 61, 20)), -1).reshape(-1, 2)
        away = found.frame.uv_at(near) - without.frame.uv_at(near)
        bent = (away - np.rint(away)) @ found.frame.vectors_px * PIXEL_NM * 1000
        assert np.abs(bent).max() < 2
        assert found.mask.sum() == found.inside.sum()


def test_vacuum_is_masked_and_the_crystal_beside_it_is_not() -> None:
    conditions = Conditions(rotation_deg=10, dose_e_px=800)
    scan = simulate_scan(SRTIO3, conditions, (400, 480), seed=3)
    image = scan.counts.copy()
    image[:, 300:] = np.random.default_rng(0).poisson(3.0, (400, 180))
    tiles = register(image, SRTIO3, (PIXEL_NM, PIXEL_NM))
    found = tiles.registration
    centre_col = (found.nodes_px[1, :-1, :-1] + found.nodes_px[1, 1:, 1:]) / 2
    assert not found.mask[centre_col > 320].any()
    deep = found.inside & (centre_col < 300 - 2.5 * found.frame.period_px)
    assert found.mask[deep].mean() > 0.97
    assert frame_error_pm(scan, found, SRTIO3, PIXEL_NM) < 5


def test_another_grain_is_masked() -> None:
    first = simulate_scan(SRTIO3, Conditions(rotation_deg=10), (480, 400), seed=1)
    second = simulate_scan(SRTIO3, Conditions(rotation_deg=35), (480, 400), seed=2)
    image = first.counts.copy()
    image[330:] = second.counts[330:]
    found = fit_registration(image, [SRTIO3], (PIXEL_NM, PIXEL_NM))
    centre_row = (found.nodes_px[0, :-1, :-1] + found.nodes_px[0, 1:, 1:]) / 2
    assert not found.mask[centre_row > 360].any()
    assert found.mask[found.inside & (centre_row < 330 - 2.5 * found.frame.period_px)].mean() > 0.97


@pytest.mark.parametrize("pixel_nm", [0.04, 0.0195, 0.0095])
def test_tiles_keep_the_scale_and_the_columns_sit_on_corners_and_centres(pixel_nm: float) -> None:
    conditions = Conditions(
        pixel_nm=pixel_nm, rotation_deg=25, thickness_gradient=(0.6, -0.3), dose_e_px=3000, jitter_pm=4
    )
    size = int(12 * 0.3905 / pixel_nm)
    scan = simulate_scan(SRTIO3, conditions, (size, size), seed=6)
    tiles = register(scan.counts, SRTIO3, (pixel_nm, pixel_nm))
    u, v = tiles.mask.shape
    cells = tiles.tiles.reshape(u, CELL_PX, v, CELL_PX).transpose(0, 2, 1, 3)[tiles.mask > 0]
    assert cells.mean((1, 2)).mean() == pytest.approx(1, abs=0.01)
    assert cells.mean((1, 2)).std() < 0.03
    columns = peaks_of_mean_cell(np.median(cells, axis=0))
    assert len(columns) == 2
    assert [round(2 * u) % 2 for u, _, _ in columns] == [0, 1]  # Sr at the corner, Ti in the middle
    for (u_found, v_found, _), expected in zip(columns, (0.0, 0.5), strict=True):
        for value in (u_found, v_found):
            assert abs((value - expected + 0.5) % 1 - 0.5) < 0.02
    assert 0.3 < columns[1][2] < 0.7


def test_without_a_crystal_the_primitive_lattice_is_registered_on_its_brightest_column() -> None:
    scan = simulate_scan(MOS2_120, Conditions(pixel_nm=0.016, rotation_deg=12), (320, 320), seed=0)
    found = register(scan.counts, None).registration
    assert found.crystal is None
    assert found.frame.period_px == pytest.approx(np.sqrt(MOS2_120.area_nm2) / 0.016, rel=0.01)
    assert peaks_of_mean_cell(np.roll(found.mean_cell.cell(), (10, 10), (0, 1)))[0][:2] == pytest.approx(
        (0.5, 0.5), abs=0.03
    )


def test_another_crystal_is_refused_with_its_vectors() -> None:
    scan = simulate_scan(MOS2_120, Conditions(pixel_nm=0.0125, rotation_deg=12), (320, 320), seed=0)
    with pytest.raises(NoModelError, match=r"no model for this lattice: a = .* by the header") as caught:
        fit_registration(scan.counts, [SRTIO3], (0.0125, 0.0125))
    assert caught.value.frame is not None
    with pytest.raises(NoModelError, match="no pixel size"):
        fit_registration(scan.counts, [SRTIO3])


def test_of_two_crystals_the_content_decides() -> None:
    scan = simulate_scan(MOS2_60, Conditions(pixel_nm=0.0125, rotation_deg=12), (320, 320), seed=0)
    found = fit_registration(scan.counts, [SRTIO3, MOS2_60, OBLIQUE], (0.0125, 0.0125))
    assert found.crystal is MOS2_60


def test_crystal_too_small_to_analyse_is_refused() -> None:
    scan = simulate_scan(SRTIO3, Conditions(pixel_nm=0.004, dose_e_px=400), (300, 300), seed=0)
    with pytest.raises(NoLatticeError):
        fit_registration(scan.counts, [SRTIO3], (0.004, 0.004))


def test_an_image_around_zero_gets_a_pedestal_and_numbers_missing_do_no_harm() -> None:
    scan = simulate_scan(SRTIO3, Conditions(rotation_deg=10), (320, 320), seed=0)
    image = scan.counts - scan.counts.mean()
    image[40, 50] = np.nan
    tiles = register(image, SRTIO3, (PIXEL_NM, PIXEL_NM))
    assert tiles.registration.pedestal > 0
    assert np.isfinite(tiles.tiles).all()
    assert frame_error_pm(scan, tiles.registration, SRTIO3, PIXEL_NM) < 5


def test_a_signed_image_is_divided_by_about_one_number_and_one_that_gets_thicker_by_its_mean() -> None:
    """Integrated phase contrast on a slow background, and a thickness wedge of which a background was subtracted."""
    rng, place = np.random.default_rng(0), np.indices((256, 256))
    columns = np.cos(0.4 * place[0]) + np.cos(0.4 * place[1])
    slow = gaussian_filter(rng.normal(size=(256, 256)), 40)
    signed = columns + rng.normal(size=columns.shape) * 0.3 + slow / slow.std()
    thicker = (columns + 1.9) * (0.5 + place[0] / 256)
    of_signed, of_wedge = (fit_flattener(image.astype(np.float32), 15.7) for image in (signed, thicker))
    assert of_signed.pedestal > 0 and of_signed.mean.max() < 1.6 * of_signed.mean.min()
    assert of_wedge.mean.max() > 2.0 * of_wedge.mean.min()


def test_rows_are_shifted_back_by_their_shift() -> None:
    col = np.arange(64)
    shift = np.array([0.0, 0.4, -1.3, 2.0])
    seen = np.stack([np.exp(-0.5 * ((col - (30 - s)) / 2.5) ** 2) for s in shift]).astype(np.float32)
    straight = straightened(seen, shift)
    assert np.abs(straight - seen[0]).max() < 2e-3


@pytest.mark.parametrize("shape", [(1, 7), (2, 2), (9, 40), (70, 33)])
def test_splines_are_those_of_scipy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=shape).astype(np.float32)
    coefficients = image.copy()
    resample._rows_to_spline(coefficients)
    resample._cols_to_spline(coefficients)
    assert np.abs(coefficients - ndimage.spline_filter(image, mode="mirror")).max() < 1e-5
    places = rng.uniform([[-0.5], [-0.5]], [[shape[0] - 0.5], [shape[1] - 0.5]], (2, 200)).astype(np.float32)
    values = [resample._spline_at(coefficients, *place) for place in places.T]
    assert values == pytest.approx(ndimage.map_coordinates(image, places, mode="mirror"), abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (1, 17), (5, 3)])
def test_the_running_median_is_that_of_scipy(height: int, width: int) -> None:
    image = np.random.default_rng(2).poisson(3, (40, 23)).astype(np.float32) ** 3  # with values that repeat themselves
    wanted = ndimage.median_filter(image, size=(height, width), mode="nearest")
    assert (running_median(image[:, ::-1], height, width)[:, ::-1] == wanted).all()


def test_blocks_and_slopes_reach_to_the_edge() -> None:
    rows, cols = np.mgrid[:10, :7].astype(np.float32)
    image = 3 * rows + cols
    assert block_mean(image, 4)[2, 1] == image[8:, 4:].mean()
    grid = Grid(np.array([1.0, 4.0, 7.0]), np.array([1.0, 4.0]))
    lifted = Lifted(image[None, 1:8:3, 1:5:3].astype(float), grid, image.shape)
    assert (lifted.strip(slice(0, 10))[0] == image).all()
    assert (lifted.strip(slice(6, 9))[0] == image[6:9]).all()


@pytest.mark.parametrize("width", [1.0, 1.56, 3.0, 5.2])
def test_area_average_keeps_mean_and_removes_noise(width: float) -> None:
    noise = np.random.default_rng(0).normal(10, 1, (256, 256)).astype(np.float32)
    smooth = area_averaged(noise, width)
    assert smooth.mean() == pytest.approx(10, abs=0.02)
    assert smooth.std() < 1.15 / width


def test_local_planes_follow_a_slope_to_the_edge() -> None:
    x, y = np.meshgrid(np.arange(30.0), np.arange(40.0), indexing="ij")
    weights = np.ones((30, 40))
    weights[:, 25:] = 0
    smooth, _ = local_plane((2 + 0.1 * x - 0.05 * y)[None], weights, 3.0)
    plain = 2 + 0.1 * x - 0.05 * y
    assert np.abs(smooth[0] - plain)[:, :25].max() < 0.06  # a weighted mean is off by 0.24 in the corner
    assert np.abs(smooth[0] - plain)[8:22, 8:18].max() < 0.01
    assert np.abs(slow_mean(np.full((50, 70), 3.0, dtype=np.float32), 9.0) - 3).max() < 1e-5


def test_the_same_image_gives_the_same_bytes() -> None:
    scan = simulate_scan(SRTIO3, Conditions(rotation_deg=10), (288, 288), seed=0)
    one, two = (register(scan.counts, SRTIO3, (PIXEL_NM, PIXEL_NM)) for _ in range(2))
    assert one.tiles.tobytes() == two.tiles.tobytes()
    assert one.registration.nodes_px.tobytes() == two.registration.nodes_px.tobytes()
