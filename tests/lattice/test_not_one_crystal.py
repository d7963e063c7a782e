"""What repeats and is no crystal is refused by its name; crystals with odd columns, hum and text are not."""

import numpy as np
import pytest

from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.not_one_crystal import not_one_crystal, of_diffraction
from oddlattice.lattice.own_crystal import register_on_own
from oddlattice.numerics.arrays import Float
from support.own_crystals import CRYSTALS, Sample, make_field

SIDE = 300
PEROVSKITE = Sample(np.array([[0.39, 0.0], [0.0, 0.39]]), ((0, 0, 1.0), (0.5, 0.5, 0.55)))


def layers(first: Sample, second: Sample, turn_deg: float) -> Float:
    """Two crystals on the same place, one turned."""
    each = [
        make_field(sample, side_px=SIDE, rotation_deg=10 + k * turn_deg, dose=200, seed=k).counts
        for k, sample in enumerate((first, second))
    ]
    return each[0] + each[1]


def spots(fall: float, ground: float) -> Float:
    """A diffraction pattern of a square lattice, with its central spot; its spots `fall` off with their order."""
    rng, (row, col) = np.random.default_rng(1), np.mgrid[:SIDE, :SIDE] - SIDE / 2
    image = ground + 3e4 * np.exp(-(row**2 + col**2) / 12.5)
    for h, k in np.argwhere(np.ones((13, 13))) - 6:
        square = (row - 23 * h - 4 * k) ** 2 + (col + 4 * h - 23 * k) ** 2
        image += 900 * np.exp(-(h**2 + k**2) / fall - square / 5.1)
    return rng.poisson(image).astype(np.float32)


def even_spots(beam: float) -> Float:
    """Spots all alike, as a display that saturates shows them, and the central beam."""
    rng, (row, col) = np.random.default_rng(2), np.mgrid[:SIDE, :SIDE] - SIDE / 2
    image = 20 + beam * np.exp(-(row**2 + col**2) / 10)
    for h, k in np.argwhere(np.ones((19, 19))) - 9:
        image += 900 * np.exp(-((row - 22 * h - 4 * k) ** 2 + (col + 4 * h - 22 * k) ** 2) / 10)
    return rng.poisson(image).astype(np.float32)


def fringes(across: float) -> Float:
    """Fringes of 20 px with a weak second period along them."""
    rng, (row, col) = np.random.default_rng(3), np.mgrid[:SIDE, :SIDE]
    along, second = np.cos(0.314 * (0.9 * row + 0.4 * col)), np.cos(0.2 * (0.9 * col - 0.4 * row))
    return rng.poisson(200 * (1 + 0.4 * along + across * second)).astype(np.float32)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (layers(CRYSTALS["MoS2"], CRYSTALS["graphene"], 15), "moiré"),
        (layers(PEROVSKITE, PEROVSKITE, 8), "moiré"),
        (spots(15, 100), "heights of the peaks fall off"),
        (spots(9, 60), "diffraction pattern"),
        (spots(9, 2), "heights of the peaks fall off"),
        (even_spots(5e4), "one peak in the middle"),
        (fringes(0.03), "fringes; the waves across them have 8%"),
    ],
    ids=["two layers", "turned by 8 degrees", "spots", "few spots", "spots on nothing", "even spots", "fringes"],
)
def test_what_is_no_crystal_is_named(image: Float, says: str) -> None:
    try:
        said = not_one_crystal(image, register_on_own(image)[0])
    except NoLatticeError as error:
        said = of_diffraction(image) or str(error)
    assert said.startswith("no lattice") and says in said


@pytest.mark.parametrize("name", ["MoS2", "CdTe"])
def test_odd_columns_and_hum_are_no_second_lattice(name: str) -> None:
    field = make_field(
        CRYSTALS[name], side_px=SIDE, rotation_deg=30, dose=60, jitter_pm=8, hum_pm=15, changed_part=0.15
    )
    assert not_one_crystal(field.counts, register_on_own(field.counts)[0]) == ""


def test_a_single_heavy_atom_is_no_beam() -> None:
    """As platinum on graphene: forty times as bright as the columns."""
    counts = make_field(CRYSTALS["graphene"], side_px=SIDE, rotation_deg=30, dose=60, seed=4).counts
    rows, cols = np.indices(counts.shape)
    counts += (40 * 60 * np.exp(-((rows - 150) ** 2 + (cols - 90) ** 2) / 16)).astype(np.float32)
    assert not_one_crystal(counts, register_on_own(counts)[0]) == ""
