"""Fields of fourteen made-up crystals of Gaussian columns with tails, for the search of an image's own cell."""

from dataclasses import dataclass

import numpy as np

from oddlattice.numerics.arrays import Array, Float

TAIL_WEIGHT, TAIL_WIDTH = 0.15, 2.5
MARGIN_NM = 0.8


@dataclass(frozen=True)
class Sample:
    """A crystal in projection: vectors as rows (row, col) [nm]; columns (u, v, intensity); primitive as listed."""

    vectors_nm: Array
    columns: tuple[tuple[float, float, float], ...]
    sigma_nm: float = 0.038

    @property
    def area_nm2(self) -> float:
        return float(abs(np.linalg.det(self.vectors_nm)))


def _cell(a: float, b: float, gamma: float) -> Array:
    angle = np.deg2rad(gamma)
    return np.array([[a, 0.0], [b * np.cos(angle), b * np.sin(angle)]])


def _centred(a: float, b: float) -> Array:
    """Primitive vectors of a centred rectangle a x b."""
    return np.array([[a / 2, -b / 2], [a / 2, b / 2]])


_SI = 0.0679 / 0.5431  # half of a dumbbell's length along the long side of its rectangle
CRYSTALS = {
    "graphene": Sample(_cell(0.246, 0.246, 120), ((0, 0, 1.0), (1 / 3, 2 / 3, 1.0)), 0.035),
    "MoS2": Sample(_cell(0.316, 0.316, 120), ((0, 0, 1.0), (1 / 3, 2 / 3, 0.38))),
    "WSe2": Sample(_cell(0.329, 0.329, 120), ((0, 0, 1.0), (1 / 3, 2 / 3, 0.55))),
    "Si [110]": Sample(_centred(0.5431, 0.384), ((-_SI, -_SI, 1.0), (_SI, _SI, 1.0)), 0.032),
    "CdTe": Sample(_centred(0.6482, 0.4583), ((-0.125, -0.125, 1.0), (0.125, 0.125, 1.13))),
    "Au [110]": Sample(_centred(0.4078, 0.2884), ((0, 0, 1.0),)),
    "bcc Fe": Sample(_centred(0.2866, 0.2866), ((0, 0, 1.0),), 0.033),
    "CeO2": Sample(_centred(0.5411, 0.3826), ((0, 0, 1.0), (0.25, 0.25, 0.06), (0.75, 0.75, 0.06))),
    "SrTiO3 [110]": Sample(_cell(0.2761, 0.3905, 90), ((0, 0, 1.0), (0, 0.5, 0.45))),
    "BaTiO3": Sample(_cell(0.3994, 0.4038, 90), ((0, 0, 1.0), (0.5, 0.52, 0.4))),
    "YBCO [100]": Sample(
        _cell(0.3885, 1.168, 90),
        ((0, 0.5, 0.85), (0.0, 0.184, 1.0), (0, 0.816, 1.0), (0.5, 0, 0.5), (0.5, 0.355, 0.5), (0.5, 0.645, 0.5)),
    ),
    "Sr2TiO4": Sample(
        np.array([[0.1943, -0.63], [0.1943, 0.63]]), ((0, 0, 0.45), (-0.354, 0.354, 1.0), (0.354, -0.354, 1.0))
    ),
    "GaN": Sample(_centred(0.3189, 0.5185), ((0, 0, 1.0), (-0.377, 0.377, 0.18))),
    "oblique": Sample(_cell(0.55, 0.42, 78), ((0, 0, 1.0), (0.4, 0.55, 0.6), (0.7, 0.2, 0.35))),
}


@dataclass(frozen=True)
class Field:
    """A made-up scan and its truth: counts, places (n, 2) [px] and index of each column, which were changed."""

    counts: Float
    vectors_px: Array
    places_px: Array
    index: np.ndarray
    changed: np.ndarray


def make_field(
    sample: Sample,
    *,
    side_px: int = 512,
    pixel_nm: float = 0.0125,
    rotation_deg: float = 0.0,
    dose: float = 100.0,
    jitter_pm: float = 5.0,
    hum_pm: float = 0.0,
    hum_lines: float = 7.3,
    changed_part: float = 0.0,
    background: float = 0.15,
    dark: bool = False,
    seed: int = 0,
) -> Field:
    """A scan with Poisson noise: `dose` electrons in a pixel at the top of the brightest column.

    `changed_part` of the columns are empty, half or half more than they should be. `dark`: the columns take away from
    a bright ground. `hum_pm` is the amplitude of a shift of the lines with a period of `hum_lines`.
    """
    rng = np.random.default_rng(seed)
    vectors = sample.vectors_nm @ turn(rotation_deg) / pixel_nm
    lines = np.arange(side_px)
    shift = rng.normal(0, jitter_pm / 1000 / pixel_nm, side_px)
    shift += hum_pm / 1000 / pixel_nm * np.sin(2 * np.pi * lines / hum_lines + rng.uniform(0, 2 * np.pi))
    origin = side_px / 2 + rng.random(2) @ vectors
    margin = MARGIN_NM / pixel_nm
    places, index = columns_over(sample, vectors, side_px, origin, margin)
    weight = np.array([c[2] for c in sample.columns])[index]
    changed = rng.random(len(weight)) < changed_part
    weight = weight * np.where(changed, rng.choice([0.0, 0.5, 1.5], len(weight)), 1.0)
    image = np.zeros((side_px, side_px))
    sigma = sample.sigma_nm / pixel_nm
    stamp_columns(image, places, weight, sigma, shift)
    level = 1.6 - image if dark else image + background
    counts = rng.poisson(dose * np.clip(level, 0, None)).astype(np.float32)
    inside = ((places > 0) & (places < side_px - 1)).all(1)
    return Field(counts, vectors, places[inside], index[inside], changed[inside])


def turn(degrees: float) -> Array:
    """Matrix (2, 2) that turns vectors (row, col), as rows."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def columns_over(
    sample: Sample, vectors_px: Array, side_px: int, origin_px: Array, margin_px: float
) -> tuple[Array, np.ndarray]:
    """Places (n, 2) [px] of the columns over a square field and a margin about it, and their index in the cell."""
    reach = int(np.ceil((side_px + 2 * margin_px) / np.linalg.svd(vectors_px)[1].min())) + 1
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    at = cells @ vectors_px + origin_px
    cells = cells[((at > -margin_px - 60) & (at < side_px + margin_px + 60)).all(1)]
    uv = np.array([c[:2] for c in sample.columns])
    index = np.tile(np.arange(len(uv)), len(cells))
    return (np.repeat(cells, len(uv), 0) + uv[index]) @ vectors_px + origin_px, index


def stamp(image: Array, places: Array, height: Array, sigma: float, shift: Array) -> None:
    """Add Gaussian peaks; line r is seen shifted by -shift[r] [px]."""
    rows, cols = image.shape
    reach = int(np.ceil(4 * sigma + np.abs(shift).max()))
    offset = np.arange(-reach, reach + 1)
    for start in range(0, len(places), 1024):
        some, top = places[start : start + 1024], height[start : start + 1024]
        middle = np.rint(some).astype(int)
        r, c = middle[:, :1] + offset, middle[:, 1:] + offset
        moved = shift[np.clip(r, 0, rows - 1)]
        down = np.exp(-((r - some[:, :1]) ** 2) / (2 * sigma**2)) * top[:, None]
        away = c[:, None, :] + moved[:, :, None] - some[:, 1][:, None, None]
        value = down[:, :, None] * np.exp(-(away**2) / (2 * sigma**2))
        inside = ((r >= 0) & (r < rows))[:, :, None] & ((c >= 0) & (c < cols))[:, None, :]
        where = np.broadcast_to(r[:, :, None], value.shape)[inside], np.broadcast_to(c[:, None, :], value.shape)[inside]
        np.add.at(image, where, value[inside])


def stamp_columns(image: Array, places: Array, height: Array, sigma: float, shift: Array) -> None:
    """Add columns: each a Gaussian and a wider one, its tail."""
    for part, width in ((1 - TAIL_WEIGHT, sigma), (TAIL_WEIGHT, TAIL_WIDTH * sigma)):
        stamp(image, places, height * part * (sigma / width) ** 2, width, shift)
