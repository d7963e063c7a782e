"""Detection kernels on made-up difference maps whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

from oddlattice.crystal import CELL_PX
from oddlattice.defects.fdr import q_values
from oddlattice.defects.noise import _pairs_at_lags, estimate_noise, in_mean_cells, local_contrast
from oddlattice.defects.null import (
    Null,
    SiteColumns,
    change_error,
    either,
    judge_columns,
    robust_normal,
    robust_plane,
    shift_error_pm,
    skewness_of,
)
from oddlattice.defects.published_score import published_map
from oddlattice.lattice.columns import (
    SIDE_PX,
    ColumnShape,
    cut_windows,
    peak_at,
    signatures,
    window_offsets,
    window_start_px,
)

VECTORS_PM = np.array([[390.0, 0.0], [0.0, 390.0]])
SR = ColumnShape("Sr", 0.0, 0.0, 3.0, (90.0, 0.0, 90.0))
TI = ColumnShape("Ti", 0.5, 0.5, 1.5, (90.0, 0.0, 90.0))
CELLS = 40


def noise_map(seed: int, correlated: bool = False, slope: float = 0.0) -> np.ndarray:
    """Difference of bulk: noise stronger at the corners of the cells, and at the bottom of the image where `slope`."""
    rng = np.random.default_rng(seed)
    plane = rng.standard_normal((CELLS * CELL_PX, CELLS * CELL_PX))
    if correlated:
        plane = gaussian_filter(plane, 0.7)
        plane /= plane.std()
    line = (np.arange(CELLS * CELL_PX) + 0.5) / CELL_PX
    strength = 0.3 + 0.2 * np.cos(2 * np.pi * line[:, None]) * np.cos(2 * np.pi * line[None, :])
    return (plane * strength * (1 + slope * (line[:, None] / CELLS - 0.5))).astype(np.float32)


def put(tiles: np.ndarray, shape: ColumnShape, cell: tuple[int, int], added: np.ndarray) -> None:
    """Add a window to tiles at a column."""
    row, col = (CELL_PX * c + s for c, s in zip(cell, window_start_px(shape), strict=True))
    tiles[row : row + SIDE_PX, col : col + SIDE_PX] += added.astype(tiles.dtype)


def judged(difference: np.ndarray, shape: ColumnShape, response: tuple[float, float] = (1.0, 1.0)) -> SiteColumns:
    mask = np.ones((CELLS, CELLS), np.uint8)
    noise = estimate_noise(difference, mask)
    anm = published_map(difference, np.ones_like(difference), mask, 0.2)
    found = judge_columns(difference, mask, noise, shape, VECTORS_PM, response, anm)
    assert found is not None
    return found


@pytest.mark.parametrize("correlated", [False, True])
def test_p_values_of_bulk_are_what_they_say(correlated: bool) -> None:
    p = np.concatenate(
        [judged(noise_map(s, correlated, 0.6), shape).verdict.p_value for s in range(4) for shape in (SR, TI)]
    )
    n = len(p)
    for level in (0.05, 0.01):
        expected, spread = n * level, np.sqrt(n * level)
        assert abs((p < level).sum() - expected) < 3.5 * spread, (level, (p < level).sum(), expected)


def test_change_and_displacement_are_recovered_without_bias() -> None:
    change, moved = [], []
    for seed in range(4):
        tiles = noise_map(seed)
        shapes = signatures(SR, VECTORS_PM)
        cells = [(i, j) for i in range(4, 36, 8) for j in range(4, 36, 8)]
        for k, cell in enumerate(cells):
            put(tiles, SR, cell, -0.4 * shapes[0] if k % 2 else 12.0 * shapes[2])
        found = judged(tiles, SR)
        index = {tuple(c): i for i, c in enumerate(found.cells)}
        for k, cell in enumerate(cells):
            i = index[cell]
            if k % 2:
                change.append((found.verdict.change[i], found.verdict.change_sigma[i]))
            else:
                moved.append((*found.verdict.shift_pm[i], np.sqrt(found.verdict.shift_covariance_pm2[i, 1, 1])))
    values, sigmas = np.array(change).T
    assert abs(values.mean() + 0.4) < 4 * sigmas.mean() / np.sqrt(len(values))
    rows, cols, sigma = np.array(moved).T
    assert abs(cols.mean() - 12.0) < 4 * sigma.mean() / np.sqrt(len(cols))
    assert abs(rows.mean()) < 4 * sigma.mean() / np.sqrt(len(rows))
    # the standard errors are the real scatter
    assert 0.6 < values.std() / sigmas.mean() < 1.5
    assert 0.6 < cols.std() / sigma.mean() < 1.5


def test_response_of_the_prediction_is_given_back() -> None:
    tiles = noise_map(1)
    put(tiles, SR, (20, 20), -0.5 * 0.8 * signatures(SR, VECTORS_PM)[0])  # the prediction took a fifth of it
    found = judged(tiles, SR, response=(0.8, 0.8))
    i = int(np.flatnonzero((found.cells == (20, 20)).all(axis=1))[0])
    assert found.verdict.change[i] == pytest.approx(-0.5, abs=4 * found.verdict.change_sigma[i])


def test_kernels_are_better_than_a_plain_sum() -> None:
    """The generalised least-squares kernel has the smallest scatter; a box over the column has a larger one."""
    tiles = noise_map(3)
    found = judged(tiles, SR)
    du, dv = window_offsets(SR)
    box = (np.hypot(du, dv) < 0.3).ravel()
    peak = peak_at(SR, du, dv).ravel()
    windows = cut_windows(tiles, SR, found.cells).reshape(len(found.cells), -1)
    plain = windows[:, box].sum(axis=1) / peak[box].sum()
    assert found.verdict.change.std() < 0.9 * plain.std()


def test_too_few_columns_are_not_tested() -> None:
    mask = np.zeros((CELLS, CELLS), np.uint8)
    mask[:5, :5] = 1
    tiles = noise_map(0)
    noise = estimate_noise(tiles, mask)
    assert judge_columns(tiles, mask, noise, TI, VECTORS_PM, (1.0, 1.0), np.zeros_like(tiles)) is None


def test_noise_is_measured() -> None:
    noise = estimate_noise(noise_map(5, slope=0.8), np.ones((CELLS, CELLS), np.uint8))
    assert noise.sigma[0, 0] == pytest.approx(0.5, rel=0.06) and noise.sigma[10, 0] == pytest.approx(0.1, rel=0.1)
    assert noise.level[2].mean() < 0.8 < 1.2 < noise.level[-3].mean()
    assert abs(noise.correlation[SIDE_PX - 1, SIDE_PX]) < 0.02 and noise.correlation[SIDE_PX - 1, SIDE_PX - 1] == 1


def test_robust_estimates_ignore_outliers() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1.0, 2.0, 2000), np.full(60, 50.0)])
    centre, spread = robust_normal(values)
    assert centre == pytest.approx(1.0, abs=0.15) and spread == pytest.approx(2.0, rel=0.06)
    plane = rng.multivariate_normal([1, -1], [[4, 1], [1, 2]], 4000)
    middle, covariance = robust_plane(np.concatenate([plane, np.full((100, 2), 60.0)]))
    np.testing.assert_allclose(middle, [1, -1], atol=0.15)
    np.testing.assert_allclose(covariance, [[4, 1], [1, 2]], atol=0.35)


def test_benjamini_hochberg_by_hand() -> None:
    np.testing.assert_allclose(q_values(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert len(q_values(np.empty(0))) == 0
    p = np.random.default_rng(6).random(2000).round(3) ** 3
    np.testing.assert_allclose(q_values(p), stats.false_discovery_control(p, method="bh"), rtol=1e-14)


def test_published_score_has_the_sign_of_the_difference() -> None:
    tiles = np.zeros((CELLS * CELL_PX, CELLS * CELL_PX), np.float32)
    peak = signatures(SR, VECTORS_PM)[0]
    put(tiles, SR, (10, 10), -0.9 * peak)
    put(tiles, SR, (20, 10), 0.9 * peak)
    mask = np.ones((CELLS, CELLS), np.uint8)
    prediction = np.full_like(tiles, 3.0)
    anm = published_map(tiles, prediction, mask, 0.2)
    rng_tiles = tiles + noise_map(0) * 1e-3
    found = judge_columns(rng_tiles, mask, estimate_noise(rng_tiles, mask), SR, VECTORS_PM, (1.0, 1.0), anm)
    assert found is not None
    score = {tuple(c): a for c, a in zip(found.cells, found.anm, strict=True)}
    assert score[10, 10] < -0.1 and score[20, 10] == pytest.approx(-score[10, 10], rel=1e-5)
    assert sum(abs(s) > 0 for s in score.values()) == 2


def test_a_leaning_null_is_not_taken_for_heavier_columns() -> None:
    """Counting few electrons leans upwards: without it, far too many bulk columns would be called heavier."""
    rng = np.random.default_rng(12)
    z = stats.pearson3.rvs(0.15, size=200_000, random_state=rng)
    null = Null(0.0, 1.0, np.zeros(2), np.eye(2), 4000, *skewness_of(z[:4000]))
    plain = replace(null, skewness=0.0)
    quiet = np.stack([z, np.zeros_like(z), np.zeros_like(z)], axis=1)
    p, p_plain = (n.judge(quiet, np.ones(len(z))).p_value / 2 for n in (null, plain))  # Sidak: half of it each
    up = z > 0
    assert 0.6 < (p[up] < 2e-4).sum() / (len(z) * 1e-4) < 1.5 < (p_plain[up] < 2e-4).sum() / (len(z) * 1e-4)


@pytest.mark.parametrize("shift_share", [0.5, 0.2])
def test_false_alarms_are_shared_out_as_told(shift_share: float) -> None:
    """At any threshold: so many in all as p says, and of these the displacement's share."""
    p_change, p_shift = np.random.default_rng(21).random((2, 1_000_000))
    p, by_shift = either(p_change, p_shift, shift_share)
    for cut in (0.001, 0.01, 0.3, 0.9):
        assert (p < cut).mean() == pytest.approx(cut, rel=4 / np.sqrt(cut * len(p)))
    low = p < 0.01
    assert by_shift[low].mean() == pytest.approx(shift_share, abs=0.02)


def test_the_smallest_p_values_keep_their_digits() -> None:
    p, by_shift = either(np.array([1e-40, 1.0]), np.array([1.0, 1e-200]), 0.2)
    assert p == pytest.approx([1.25e-40, 5e-200], rel=1e-12)
    assert by_shift.tolist() == [False, True]


def on_ground(contrast: np.ndarray) -> np.ndarray:
    """A perfect crystal over its local mean, that stands so high over its ground at each place (40, 40)."""
    line = (np.arange(CELL_PX) + 0.5) / CELL_PX
    cell = np.cos(2 * np.pi * line[:, None]) + np.cos(2 * np.pi * line[None, :])
    return (1 + 0.3 * np.kron(contrast, cell)).astype(np.float32)


def test_contrast_on_a_ground_that_varies() -> None:
    line = np.arange(CELLS) / CELLS
    contrast = 1 + 0.3 * np.cos(np.pi * line[:, None]) * np.cos(np.pi * line[None, :])
    contrast /= contrast.mean()
    mask = np.ones((CELLS, CELLS), np.uint8)
    mask[:6, :6] = 0
    image = on_ground(contrast)
    put(image, SR, (20, 20), -4 * (image[410:430, 410:430].mean() - 0.5) * np.ones((SIDE_PX, SIDE_PX)))  # one odd cell
    noise = 0.5 * noise_map(41)
    found = local_contrast(image, noise, mask, 0.3)
    good = mask > 0
    assert (found[~good] == 1).all()
    assert found[good].mean() == pytest.approx(1.0, abs=0.03)
    assert found[good] == pytest.approx(contrast[good] / contrast[good].mean(), rel=0.04)
    assert contrast[good].std() > 0.1  # the test could fail
    assert local_contrast(on_ground(np.ones((CELLS, CELLS))), noise, mask, 0.3) == pytest.approx(1.0, abs=0.03)
    part = local_contrast(image, noise, mask, 0.2)  # of an image that is fainter than this part of it
    assert part[good] == pytest.approx(1.5 * found[good])


def test_a_change_is_that_of_the_column_wherever_it_is() -> None:
    """A column that lost 40 % on a high ground, and one on a low ground."""
    line = np.arange(CELLS) / CELLS
    contrast = np.broadcast_to(1 + 0.5 * (line - line.mean()), (CELLS, CELLS))
    image = on_ground(contrast)
    difference = 0.2 * noise_map(42)
    du, dv = window_offsets(SR)
    places = [(20, 4), (20, 20), (20, 35)]
    for u, v in places:
        put(difference, SR, (u, v), -0.4 * contrast[u, v] * peak_at(SR, du, dv))
    mask = np.ones((CELLS, CELLS), np.uint8)
    found = judged(in_mean_cells(difference, local_contrast(image, difference, mask, 0.3)), SR)
    plain = judged(difference, SR)
    for u, v in places:
        k = int(np.flatnonzero((found.cells == (u, v)).all(axis=1))[0])
        assert found.verdict.change[k] == pytest.approx(-0.4, abs=0.03)
        assert plain.verdict.change[k] == pytest.approx(-0.4 * contrast[u, v], abs=0.03)
        assert found.verdict.z[k] == pytest.approx(plain.verdict.z[k], rel=0.1)


def test_standard_errors_hold_the_error_of_the_shape() -> None:
    assert change_error(np.array([0.03, 0.0]), np.array([0.0, -1.0])) == pytest.approx([0.03, 0.04])
    assert shift_error_pm(3.0, np.array([60.0, 80.0])) == pytest.approx(5.0)
    assert shift_error_pm(np.zeros((2, 2)), np.array([[[30.0, 40.0]], [[0.0, 0.0]]])) == pytest.approx(
        np.array([[2.0, 2.0], [0.0, 0.0]])
    )


@pytest.mark.parametrize("px_per_cell", [(20, 20), (8, 60), (18, 10)])
@pytest.mark.parametrize("shape", [(3, 2), (3, 5), (7, 2)])
def test_pairs_of_pixels_are_counted(shape: tuple[int, int], px_per_cell: tuple[int, int]) -> None:
    cells = np.random.default_rng(0).random(shape) > 0.3
    pixels = np.repeat(np.repeat(cells, px_per_cell[0], 0), px_per_cell[1], 1)
    rows, cols = pixels.shape
    found = _pairs_at_lags(cells, px_per_cell)
    assert found.shape == (2 * SIDE_PX - 1, 2 * SIDE_PX - 1)
    for row, col in ((0, 0), (3, 0), (0, 15), (7, 11)):
        for sign in (1, -1):
            first = pixels[: rows - row, max(-sign * col, 0) : cols - max(sign * col, 0)]
            second = pixels[row:, max(sign * col, 0) : cols - max(-sign * col, 0)]
            assert found[SIDE_PX - 1 + row, SIDE_PX - 1 + sign * col] == (first & second).sum()
