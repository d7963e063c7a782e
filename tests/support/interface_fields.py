"""Made-up scans of two crystals that meet coherently: one lattice, another content on either side, a strained film.

Also of one crystal whose thickness or content changes, which must not be taken for two.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from oddlattice.numerics.arrays import Array
from support.grain_fields import BACKGROUND, GrainField, drawn, ideals
from support.own_crystals import MARGIN_NM, Sample, columns_over, stamp_columns, turn

_CUBE = np.diag([0.3905, 0.3905])
_SIDE_ON = np.diag([0.2761, 0.3905])
_AB, _AB_SIDE_ON = ((0.0, 0.0), (0.5, 0.5)), ((0.0, 0.0), (0.0, 0.5))


def _of(vectors_nm: Array, places: tuple[tuple[float, float], ...], heights: tuple[float, ...]) -> Sample:
    return Sample(vectors_nm, tuple((*place, height) for place, height in zip(places, heights, strict=True)))


# heights of the columns: SrTiO3 1 and 0.45; others by about Z^1.7
PAIRS = {
    "BaTiO3 on SrTiO3": (_of(_CUBE, _AB, (1.0, 0.45)), (1.8, 0.47), 0.025),
    "LSMO on SrTiO3": (_of(_CUBE, _AB, (1.0, 0.45)), (1.6, 0.55), -0.01),
    "LaAlO3 on SrTiO3": (_of(_CUBE, _AB, (1.0, 0.45)), (1.65, 0.22), -0.03),
    "PbTiO3 on SrTiO3": (_of(_CUBE, _AB, (1.0, 0.45)), (2.6, 0.47), 0.03),
    "LSMO on SrTiO3, side on": (_of(_SIDE_ON, _AB_SIDE_ON, (1.0, 0.45)), (1.6, 0.55), -0.01),
    "BaTiO3 on SrTiO3, side on": (_of(_SIDE_ON, _AB_SIDE_ON, (1.0, 0.45)), (1.8, 0.47), 0.025),
}


@dataclass(frozen=True)
class Change:
    """How content goes over from one side of a line to the other.

    Attributes
    ----------
    sample : Sample
        The crystal on the near side.
    heights : tuple of float
        Of the columns beyond the line.
    misfit : float
        Strain beyond the line along its normal: the lattice is coherent.
    width_nm : float
        Over which content goes over.
    """

    sample: Sample
    heights: tuple[float, ...]
    misfit: float
    width_nm: float


def make_interface(
    change: Change,
    *,
    side_px: int = 400,
    pixel_nm: float = 0.018,
    rotation_deg: float = 10.0,
    along: tuple[int, int] = (0, 1),
    part: float = 0.5,
    dose: float = 300.0,
    jitter_pm: float = 4.0,
    changed: int = 6,
    wedge: float = 0.0,
    seed: int = 0,
) -> GrainField:
    """A scan with Poisson noise; the line runs along a lattice direction `along`, at `part` of the image.

    `changed` columns of each side are changed; by `wedge` the image gets brighter from one edge to the other.
    """
    rng = np.random.default_rng(seed)
    sample = change.sample
    vectors = sample.vectors_nm @ turn(rotation_deg) / pixel_nm
    at, index = columns_over(sample, vectors, side_px, side_px / 2 + rng.random(2) @ vectors, 3 * MARGIN_NM / pixel_nm)
    line = np.array(along) @ vectors / np.hypot(*(np.array(along) @ vectors))
    normal = np.array([-line[1], line[0]])
    # a quarter of their distance beyond a row of the first column
    rows = (at[index == 0] - side_px / 2) @ normal
    apart = float(abs(np.linalg.det(vectors)) / np.hypot(*(np.array(along) @ vectors)))
    row = rows[np.abs(rows - (part - 0.5) * side_px).argmin()] + apart / 4
    beyond = (at - side_px / 2) @ normal - row
    at = at + (change.misfit * np.maximum(beyond, 0.0))[:, None] * normal
    over = (beyond > 0).astype(float) if change.width_nm == 0 else 0.5 + 0.5 * erf(beyond * pixel_nm / change.width_nm)
    near, far = (np.array(heights)[index] for heights in ([c[2] for c in sample.columns], change.heights))
    height = near + (far - near) * over
    odd = drawn(at, np.where(beyond > 0, 1, 2), np.abs(beyond), [vectors] * 2, side_px, (changed, 1.5), rng)
    factor = np.where(odd, rng.choice([0.0, 0.5, 1.5], len(at)), 1.0)
    sigma = sample.sigma_nm / pixel_nm
    image = np.full((side_px, side_px), BACKGROUND)
    shift = rng.normal(0, jitter_pm / 1000 / pixel_nm, side_px)
    stamp_columns(image, at, height * factor, sigma, shift)
    ideal = ideals(image, at, odd, height, factor, np.full(len(at), sigma), dose)
    image = image * (1 + wedge * np.linspace(-0.5, 0.5, side_px)[:, None])
    counts = rng.poisson(dose * image).astype(np.float32)
    pixels = np.stack(np.indices((side_px, side_px)), -1).astype(float) - side_px / 2
    labels = 1 + (pixels @ normal - row > 0).astype(int)
    grain = 1 + (beyond > 0).astype(int)
    film = vectors @ (np.eye(2) + change.misfit * np.outer(normal, normal))
    seen = ((at > 0) & (at < side_px - 1)).all(1)
    truth = (a[seen] for a in (at, grain, index, odd, ideal))
    return GrainField(
        counts, pixel_nm, ("SrTiO3", "SrTiO3"), (rotation_deg, rotation_deg), [vectors, film], labels, *truth
    )
