"""What an image is worth, beside its defects: signal to noise, sharpness, astigmatism, jitter and distortion."""

from dataclasses import dataclass

import numpy as np
import zarr

from oddlattice.defects.noise_spectrum import NoiseSpectrum, noise_spectrum
from oddlattice.lattice.columns import ColumnShape
from oddlattice.numerics.arrays import Array, Mask
from oddlattice.storage.groups import attributes_of, values_of
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import Windows

FWHM = float(np.sqrt(8 * np.log(2)))  # of a Gaussian, over its standard deviation


@dataclass(frozen=True)
class Width:
    """Width of a column in the image: full widths at half maximum along its long and short side [px], and direction.

    `direction_deg` is that of the long side, from +row towards +col, in [0, 180).
    """

    long_px: float
    short_px: float
    direction_deg: float

    @property
    def mean_px(self) -> float:
        """Geometric mean of both."""
        return float(np.sqrt(self.long_px * self.short_px))


def width_of(shape: ColumnShape, vectors_px: Array) -> Width:
    """Width of a column's core, its wide tail left out; lattice vectors are rows (row, col) [px]."""
    p_uu, p_uv, p_vv = shape.precision
    inverse = np.linalg.inv(np.array([[p_uu, p_uv], [p_uv, p_vv]]))  # covariance in (u, v)
    values, directions = np.linalg.eigh(vectors_px.T @ inverse @ vectors_px)
    short, long = FWHM * np.sqrt(np.maximum(values, 0))
    row, col = directions[:, 1]
    return Width(float(long), float(short), float(np.degrees(np.arctan2(col, row)) % 180))


def distortion_px(nodes_px: Array, mask: Mask) -> float:
    """Rms distance of the corners of analysed cells from a regular lattice [px]: drift, slow scan errors, strain.

    Parameters
    ----------
    nodes_px : ndarray of shape (2, U + 1, V + 1)
    mask : ndarray of shape (U, V)
    """
    cells = np.argwhere(mask)
    design = np.column_stack([np.ones(len(cells)), cells]).astype(np.float64)
    places = nodes_px[:, cells[:, 0], cells[:, 1]].T
    left = places - design @ np.linalg.lstsq(design, places, rcond=None)[0]
    return float(np.sqrt((left**2).sum(1).mean()))


def quality_of(image: zarr.Array, tiles: zarr.Group, shapes: list[ColumnShape]) -> tuple[Row, NoiseSpectrum]:  # type: ignore[type-arg]
    """Columns of products.IMAGES that tell the quality of an image, and the spectrum of its noise.

    Parameters
    ----------
    image : Array of shape (rows, cols)
        Counts.
    tiles : Group
        Of the grain that stands for the image.
    shapes : list of ColumnShape
        Of its columns.
    """
    lattice, spectrum = attributes_of(tiles), noise_spectrum(Windows(image))
    mask, mean = values_of(tiles, "mask"), values_of(tiles, "local_mean")
    row: Row = {
        "jitter_px": float(lattice["row_jitter_px_rms"]),
        "distortion_px": distortion_px(values_of(tiles, "nodes_px"), mask),
    }
    if shapes:
        brightest = max(shapes, key=lambda shape: shape.amplitude)
        width = width_of(brightest, np.array([lattice["a_px"], lattice["b_px"]]))
        height = brightest.amplitude * float(np.median(mean[mask > 0]))
        row |= {
            "signal_to_noise": height / np.sqrt(spectrum.variance) if spectrum.variance > 0 else None,
            "column_fwhm_px": width.mean_px,
            "column_elongation": width.long_px / max(width.short_px, 1e-9),
            "elongation_deg": width.direction_deg,
        }
    pixel_nm = lattice["pixel_nm"]
    for name in ("column_fwhm", "jitter", "distortion"):
        known = pixel_nm is not None and f"{name}_px" in row
        row[f"{name}_pm"] = 1000 * pixel_nm * row[f"{name}_px"] if known else None
    return row, spectrum
