"""Smoothing that does not bend at edges: Gaussian-weighted local fits of a plane on a grid."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float64]


def local_plane(values: Array, weights: Array, sigma: float) -> tuple[Array, Array]:
    """Value at each grid point of a plane fitted with Gaussian weights around it.

    Unlike a weighted mean it has no bias where weights stop (image border, edge of the crystal) and the values slope.

    Parameters
    ----------
    values : ndarray of shape (k, n, m)
        Layers to be smoothed; ignored where the weight is 0.
    weights : ndarray of shape (n, m)
        Non-negative weights.
    sigma : float
        rms width of the Gaussian [grid points].

    Returns
    -------
    smooth : ndarray of shape (k, n, m)
        0 where no weight is within reach.
    support : ndarray of shape (n, m)
        Gaussian mean of the weights.
    """

    def blur(layer: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(layer, sigma, mode="constant", truncate=4.0))

    n, m = weights.shape
    x = np.broadcast_to(((np.arange(n) - n / 2) / sigma)[:, None], (n, m))
    y = np.broadcast_to(((np.arange(m) - m / 2) / sigma)[None, :], (n, m))
    w = blur(weights)
    support = np.maximum(w, 0.0)
    safe = np.maximum(w, 1e-12 * max(float(w.max()), 1e-300))
    mx, my = blur(weights * x) / safe, blur(weights * y) / safe
    ridge = 0.05  # slopes are believed only where the weights spread over a good part of the Gaussian
    sxx = blur(weights * x * x) / safe - mx * mx + ridge
    syy = blur(weights * y * y) / safe - my * my + ridge
    sxy = blur(weights * x * y) / safe - mx * my
    determinant = np.maximum(sxx * syy - sxy * sxy, ridge * ridge)
    smooth = np.zeros_like(values)
    for k, layer in enumerate(values):
        kept = np.where(weights > 0, layer, 0.0)
        mean = blur(weights * kept) / safe
        sxv = blur(weights * x * kept) / safe - mx * mean
        syv = blur(weights * y * kept) / safe - my * mean
        slope_x = (syy * sxv - sxy * syv) / determinant
        slope_y = (sxx * syv - sxy * sxv) / determinant
        smooth[k] = np.where(w > 1e-9 * max(float(w.max()), 1e-300), mean + slope_x * (x - mx) + slope_y * (y - my), 0.0)
    return smooth, support


def global_polynomial(values: Array, weights: Array, order: int) -> Array:
    """Weighted least-squares polynomial through each layer, evaluated on the whole grid; shapes as `local_plane`."""
    n, m = weights.shape
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, m), indexing="ij")
    terms = np.stack([x**i * y**j for i in range(order + 1) for j in range(order + 1 - i)], -1).reshape(n * m, -1)
    root = np.sqrt(weights).reshape(-1, 1)
    flat = np.where(weights > 0, values, 0.0).reshape(len(values), -1).T
    coefficients = np.linalg.lstsq(terms * root, flat * root, rcond=1e-8)[0]
    return np.asarray((terms @ coefficients).T.reshape(values.shape))
