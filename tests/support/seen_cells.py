"""What images show of crystals: of known ones, through noise, distortion and headers that lie, and of random ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import Z_OF
from oddlattice.lattice.projection import Columns, nearest, primitive
from oddlattice.lattice.seen_cell import Observed

LIBRARY = Path(__file__).parents[2] / "crystals/library.json"
SEEDS = {"development": 20261201, "known": 20261127, "random": 20261128}  # fixed before the matching was written
Array = npt.NDArray[Any]
Atoms = dict[str, float]


def entries() -> list[dict[str, Any]]:
    """The entries of the shipped library, as they stand in the file."""
    return list(json.loads(LIBRARY.read_text())["entries"])


def column_brightness(rng: np.random.Generator, atoms: list[Atoms]) -> Array:
    """Brightness as a detector might see it: not the library's law, but one that saturates, with a power of its own."""
    power = rng.uniform(1.5, 1.9)
    raw = np.array([sum(n * Z_OF[symbol] ** power for symbol, n in one.items()) for one in atoms])
    raw /= raw.max()
    thickness = rng.uniform(0.05, 1.2)
    seen = -np.expm1(-thickness * raw) / -np.expm1(-thickness)
    kinds = {json.dumps(one): rng.lognormal(0, 0.06) for one in atoms}
    return np.array([seen[k] * kinds[json.dumps(one)] for k, one in enumerate(atoms)])


def distorted(rng: np.random.Generator, vectors: Array) -> Array:
    """Vectors turned, perhaps mirrored, with up to 3 % of aspect and 2 degrees of shear."""
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mirror = np.diag([1.0, rng.choice([-1.0, 1.0])])
    aspect = float(np.clip(rng.normal(0, 0.012), -0.03, 0.03))
    shear = np.deg2rad(np.clip(rng.normal(0, 0.9), -2, 2))
    scan = np.array([[1 + aspect / 2, shear], [0.0, 1 - aspect / 2]])
    return np.asarray(vectors @ mirror @ rotation @ scan)


def header_of(rng: np.random.Generator, pixel_nm: float) -> float | None:
    """No pixel size for half of the images; else one good to a per cent, or off by 2, 10 or 16 %."""
    if rng.random() < 0.5:
        return None
    lie = rng.choice([0.0, 0.02, 0.10, 0.16], p=[0.7, 0.1, 0.1, 0.1]) * rng.choice([-1, 1])
    return float(pixel_nm * (1 + lie) * np.exp(rng.normal(0, 0.008)))


def seen(rng: np.random.Generator, columns: Columns) -> Observed:
    """An image of a crystal: only columns above a floor, on a cell of its own choice, with errors."""
    floor = rng.uniform(0.05, 0.2)
    bright = columns.brightness / columns.brightness.max()
    visible = primitive(columns.kept(bright > floor * rng.lognormal(0, 0.1, bright.shape)))
    if rng.random() < 0.5:
        basis = np.array([[1, 0], [0, 1]])
    else:
        basis = np.array([[1, 0], [rng.integers(-1, 2), 1]])[:: rng.choice([-1, 1])]
    pixel_nm = rng.uniform(0.006, 0.025)
    vectors = distorted(rng, basis @ visible.vectors_nm) / pixel_nm * np.exp(rng.normal(0, 3e-4, (2, 2)))
    place_sigma, bright_sigma = rng.uniform(0.05, 0.2), rng.uniform(0.01, 0.04)
    n = len(visible.places)
    off_px = rng.normal(0, place_sigma, (n, 2)) + rng.normal(0, 0.003 / pixel_nm, (n, 2))
    places = visible.places @ np.linalg.inv(basis) + off_px @ np.linalg.inv(vectors) + rng.random(2)
    brightness = visible.brightness * (1 + rng.normal(0, bright_sigma, n)) * rng.uniform(10, 1000)
    order = rng.permutation(n)
    return Observed(
        vectors,
        places[order] % 1.0,
        brightness[order],
        place_sigma,
        bright_sigma,
        header_of(rng, pixel_nm),
        floor,
    )


def known_cell(rng: np.random.Generator, entry: dict[str, Any]) -> Observed:
    """An image of one entry of the library."""
    gamma = np.deg2rad(entry["gamma_deg"])
    vectors = np.array([[entry["a_nm"], 0], [entry["b_nm"] * np.cos(gamma), entry["b_nm"] * np.sin(gamma)]])
    atoms = [dict(column["atoms"]) for column in entry["columns"]]
    places = np.array([[column["u"], column["v"]] for column in entry["columns"]])
    return seen(rng, Columns(vectors, places, column_brightness(rng, atoms), tuple(atoms), entry["repeat_nm"]))


def random_vectors(rng: np.random.Generator, n: int) -> Array:
    """A lattice of any kind, its area about that of n columns 0.15 to 0.35 nm apart [nm]."""
    kind = rng.choice(["oblique", "right", "rhombic", "square", "hexagonal"], p=[0.4, 0.2, 0.1, 0.15, 0.15])
    if n == 1 and kind in ("square", "hexagonal"):  # what every element shows: no random cell
        kind = "oblique"
    ratio, gamma = rng.uniform(1, 2.5), rng.uniform(55, 90)
    ratio = ratio if kind in ("oblique", "right") else 1.0
    gamma = {"right": 90.0, "square": 90.0, "hexagonal": 60.0}.get(kind, gamma)
    shape = np.array([[1, 0], [ratio * np.cos(np.deg2rad(gamma)), ratio * np.sin(np.deg2rad(gamma))]])
    return np.asarray(shape * rng.uniform(0.15, 0.35) * np.sqrt(n / np.linalg.det(shape)))


def random_cell(rng: np.random.Generator) -> Observed:
    """An image of a crystal that there is not: a random lattice with one to eight columns at random places.

    A third of them have a centre of inversion. Columns are at least 0.1 nm apart.
    """
    while True:
        n = int(rng.integers(1, 9))
        vectors = random_vectors(rng, n)
        places = rng.random((n, 2))
        elements = rng.choice(list(Z_OF)[4:], size=n)
        if n > 1 and rng.random() < 0.33:
            half = n // 2
            places[half : 2 * half] = -places[:half]
            elements[half : 2 * half] = elements[:half]
            places[2 * half :] = 0.0
        apart = np.linalg.norm(nearest(places[:, None] - places[None]) @ vectors, axis=2)
        if n == 1 or apart[np.triu_indices(n, 1)].min() > 0.1:
            break
    atoms = [{str(symbol): 1.0} for symbol in elements]
    return seen(rng, Columns(vectors, places % 1.0, column_brightness(rng, atoms), tuple(atoms), 0.3))
