"""The blur, against scipy's in double precision."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from oddlattice.numerics.filters import gaussian_blur


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("shape", [(150, 260), (3, 40), (40, 2), (1, 1)])
@pytest.mark.parametrize("sigma_px", [0.6, 2.3])
def test_as_scipy(shape: tuple[int, int], sigma_px: float, mirrored: bool) -> None:
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    told = gaussian_filter(image.astype(np.float64), sigma_px, mode="reflect" if mirrored else "constant")
    np.testing.assert_allclose(gaussian_blur(image, sigma_px, mirrored=mirrored), told, atol=1e-6)
