"""Blank borders and lines are found, and the cells they lie in masked."""

import numpy as np
import pytest

from oddlattice.lattice.spoilt import blank_pixels, spoilt_cells

RNG = np.random.default_rng(1)
PERIOD_PX = 16.0


def scan(shape: tuple[int, int] = (320, 300)) -> np.ndarray:
    return RNG.poisson(300, shape).astype(np.float32)


def nodes(shape: tuple[int, int] = (320, 300)) -> np.ndarray:
    lines = [np.arange(0.0, n - PERIOD_PX / 2, PERIOD_PX) for n in shape]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


def test_counting_noise_is_not_blank() -> None:
    assert not blank_pixels(scan()).any()
    assert not blank_pixels(RNG.poisson(3, (256, 300)).astype(np.float32)).any()
    assert not spoilt_cells(scan(), nodes(), PERIOD_PX).any()


@pytest.mark.parametrize("value", [0.0, 517.25, np.nan])
def test_a_black_line_masks_its_cells_alone(value: float) -> None:
    image = scan()
    image[100] = value
    found = spoilt_cells(image, nodes(), PERIOD_PX)
    assert found[6].all() and found.sum() == found.shape[1]  # 100 px lie in the seventh row of cells


def test_a_border_is_masked_with_a_margin() -> None:
    image = scan()
    image[:12] = 0
    found = spoilt_cells(image, nodes(), PERIOD_PX)
    assert found[:4].all() and not found[6:].any()
