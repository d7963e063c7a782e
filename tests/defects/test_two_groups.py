"""False discoveries counted right: mixtures whose false ones are known, sparse and crowded; and who is real."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ndtr

from oddlattice.defects.fdr import q_values
from oddlattice.defects.two_groups import (
    CANDIDATE,
    SIZES,
    Count,
    changed_below,
    changed_density,
    false_rows,
    two_groups,
)

Mixture = tuple[
    npt.NDArray[np.float64], npt.NDArray[np.str_], npt.NDArray[np.str_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]
]

SHARES = {"lighter": 0.4, "heavier": 0.4, "displaced": 0.2}


def mixture(
    seed: int, images: int, columns: int, changed: tuple[int, int], size: tuple[float, float], heavier: float = 0.15
) -> Mixture:
    """p-values, kinds, images, who is listed at a false-discovery rate of 5 % an image, and who changed."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((images, columns))
    real = np.zeros(z.shape, bool)
    for line, truth in zip(z, real, strict=True):
        which = rng.choice(columns, rng.integers(changed[0], changed[1] + 1), replace=False)
        sign = np.where(rng.random(len(which)) < heavier, 1, -1)
        line[which] += sign * rng.uniform(*size, len(which))
        truth[which] = True
    p = 2 * ndtr(-np.abs(z))
    kind = np.where(z < 0, "lighter", "heavier")
    kind[~real & (rng.random(z.shape) < 0.2)] = "displaced"
    listed = np.stack([q_values(line) <= 0.05 for line in p])
    image = np.repeat([f"image {k:03d}" for k in range(images)], columns)
    return p.ravel(), kind.ravel(), image, listed.ravel(), real.ravel()


def test_sizes_of_changes_are_distributions() -> None:
    grid = np.linspace(0, 80, 80_001)
    density = changed_density(grid)
    np.testing.assert_allclose(density.sum(axis=0) * (grid[1] - grid[0]), 1, atol=1e-3)
    below = density[grid < CANDIDATE].sum(axis=0) * (grid[1] - grid[0])
    np.testing.assert_allclose(below, changed_below(CANDIDATE), atol=1e-3)
    bulk = 2 * np.exp(-(grid**2) / 2)
    assert (np.diff(density[:30_000] / bulk[:30_000, None], axis=0) > 0).all(), "the odds do not grow with z"
    assert len(SIZES) == density.shape[1]


def test_few_defects_an_image_are_counted_right() -> None:
    """120 images of 0 to 5 defects: 0.05 x listed is far too few."""
    expected, truth, nominal, inside = 0.0, 0, 0.0, 0
    for seed in range(2):
        p, kind, image, listed, real = mixture(seed, 120, 1000, (0, 5), (3.0, 12.0))
        found = two_groups(p, kind, image, listed, seed)
        whole = found.expected_false(np.ones(len(p), bool))
        false = int((listed & ~real).sum())
        assert whole.low_95 <= whole.low_68 <= whole.expected <= whole.high_68 <= whole.high_95
        expected, truth, nominal = expected + whole.expected, truth + false, nominal + 0.05 * listed.sum()
        inside += whole.low_95 <= false <= whole.high_95
        for name in ("lighter", "heavier", "displaced"):
            of_kind = kind == name
            count = found.expected_false(of_kind)
            assert count.low_95 - 1 <= (listed & ~real & of_kind).sum() <= count.high_95 + 1, (seed, name, count)
    assert inside == 2
    assert truth > 1.3 * nominal
    assert expected == pytest.approx(truth, rel=0.2)


@pytest.mark.parametrize(
    ("changed", "size"),
    [((0, 60), (0.5, 5.0)), ((0, 60), (3.0, 3.5)), ((50, 150), (1.0, 9.0)), ((0, 30), (11.0, 13.0))],
)
def test_a_probability_is_what_it_says(changed: tuple[int, int], size: tuple[float, float]) -> None:
    p, kind, image, listed, real = mixture(3, 60, 1500, changed, size)
    found = two_groups(p, kind, image, listed)
    assert ((found.probability_real >= 0) & (found.probability_real <= 1)).all()
    tested = 0
    for low in np.arange(10) / 10:
        inside = (found.probability_real >= low) & (found.probability_real < low + 0.1 + (low == 0.9))
        if inside.sum() >= 200:
            tested += 1
            truth = float(real[inside].mean())
            counting = np.sqrt(truth * (1 - truth) / inside.sum())
            assert abs(found.probability_real[inside].mean() - truth) < 0.05 + 2 * counting, (low, truth)
    assert tested >= 2
    count = found.expected_false(np.ones(len(p), bool))
    assert count.low_95 <= (listed & ~real).sum() <= count.high_95


def test_one_image_alone_will_do() -> None:
    """Of 6 images with few defects each, one by one: the false ones in all, and none where nothing is listed."""
    expected, truth = 0.0, 0
    for seed in range(6):
        p, kind, image, listed, real = mixture(100 + seed, 1, 1000, (0, 4), (4.0, 12.0))
        count = two_groups(p, kind, image, listed).expected_false(np.ones(len(p), bool))
        false = int((listed & ~real).sum())
        assert count.low_95 <= false <= count.high_95
        expected, truth = expected + count.expected, truth + false
    assert abs(expected - truth) < 3 * np.sqrt(truth + 4)


def test_listed_columns_that_are_doubtful_are_real_as_often_as_told() -> None:
    """Images known by themselves alone, whose changes are of all sizes: few tell what the smallest are like."""
    told, truth = [], []
    for seed in range(30):
        p, kind, image, listed, real = mixture(200 + seed, 1, 1000, (30, 120), (0.5, 40.0), heavier=0.4)
        chance = two_groups(p, kind, image, listed, of_bulk=SHARES).probability_real
        doubtful = listed & (chance < 0.6)
        told.append(chance[doubtful])
        truth.append(real[doubtful])
    said, right = np.concatenate(told), np.concatenate(truth)
    assert len(said) > 80
    assert said.mean() == pytest.approx(right.mean(), abs=0.05 + 2 * np.sqrt(0.25 / len(said)))


def test_bulk_alone_is_bulk() -> None:
    p, kind, image, _, _ = mixture(5, 20, 1000, (0, 0), (3.0, 3.0))
    listed = p < 1e-3  # whoever lists by a plain threshold gets false ones only
    found = two_groups(p, kind, image, listed)
    assert found.probability_real.mean() < 0.002
    count = found.expected_false(np.ones(len(p), bool))
    assert count.expected > 0.8 * listed.sum() and count.high_95 == listed.sum()


def test_the_answer_is_the_same_twice_and_for_any_order() -> None:
    p, kind, image, listed, _ = mixture(6, 10, 800, (0, 8), (4.0, 9.0))
    one, two = (two_groups(p, kind, image, listed, seed=4) for _ in range(2))
    assert one.probability_real.tobytes() == two.probability_real.tobytes() and (one.false == two.false).all()
    turned = np.random.default_rng(0).permutation(len(p))
    other = two_groups(p[turned], kind[turned], image[turned], listed[turned], seed=4)
    assert (other.probability_real == one.probability_real[turned]).all()
    assert other.expected_false(kind[turned] == "heavier") == one.expected_false(kind == "heavier")


def test_rows_are_of_kinds_images_and_all() -> None:
    p, kind, image, listed, _ = mixture(7, 12, 800, (1, 6), (5.0, 9.0))
    rows = false_rows(two_groups(p, kind, image, listed), kind, image)
    assert rows[0]["image_id"] == rows[0]["kind"] == "" and rows[0]["listed"] == listed.sum()
    kinds, images = [r for r in rows if r["kind"]], [r for r in rows if r["image_id"]]
    for part in (kinds, images):
        assert sum(r["listed"] for r in part) == listed.sum()
        assert sum(r["expected_false"] for r in part) == pytest.approx(rows[0]["expected_false"])


def test_nothing_tested_and_nothing_listed() -> None:
    none = np.empty(0)
    count = two_groups(none, none.astype(str), none.astype(str), none.astype(bool)).expected_false(none.astype(bool))
    assert count == Count(0.0, 0.0, 0.0, 0.0, 0.0)
    p = np.random.default_rng(1).random(500)
    found = two_groups(p, np.full(500, "any"), np.full(500, "one"), np.zeros(500, bool))
    assert found.false.shape[1] == 0 and found.expected_false(np.ones(500, bool)).high_95 == 0
