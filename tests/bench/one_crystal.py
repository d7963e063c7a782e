"""Images of one crystal that a search for grains may split: dislocations, strain, steps, contamination.

`python -m bench.one_crystal --first SEED --count N` prints how many grains are found in each.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bench.grains import NAMES
from oddlattice.lattice.fourier import NoLatticeError
from oddlattice.lattice.grains import find_grains, takes_all
from oddlattice.lattice.register import fit_registration
from oddlattice.numerics.arrays import Array
from support.grain_fields import SAMPLES, GrainField, column_distance_nm, make_grains

POISSON = 0.3  # ratio of the crystal's contraction across to its strain along
FAULTS = ("dislocation", "strain", "bend", "step", "contamination")
LARGEST_STRAIN, LARGEST_BEND_DEG = 0.02, 2.0  # of the middle of the image against its rim
STEPS = (1.3, 2.5)  # factors on the intensity beyond a step


@dataclass(frozen=True)
class Spoilt:
    """An image of one crystal, and what is the matter with it."""

    field: GrainField
    faults: tuple[str, ...]


def spoilt(seed: int) -> Spoilt:
    """Image number `seed` of the trial: one or two faults of FAULTS in one crystal of 300 to 420 px."""
    rng = np.random.default_rng((21, seed))
    name = str(rng.choice(NAMES))
    faults = tuple(str(f) for f in rng.choice(FAULTS, int(rng.integers(1, 3)), replace=False))
    side = int(rng.integers(300, 421))
    pixel_nm = max(column_distance_nm(SAMPLES[name]) / rng.uniform(8, 13), 0.008)
    side = max(side, int(8 * np.sqrt(SAMPLES[name].area_nm2) / pixel_nm))
    turn = float(rng.uniform(0, 180))
    moves = [_move(fault, name, turn, pixel_nm, side, rng) for fault in faults if fault in FAULTS[:3]]
    layers = [_layer(fault, side, pixel_nm, rng) for fault in faults if fault in FAULTS[3:]]

    def moved(at: Array) -> Array:
        return at + sum(move(at) for move in moves)

    def over(image: Array) -> Array:
        for factor, ground in layers:
            image = factor * image + ground
        return image

    dose = float(np.exp(rng.uniform(np.log(150), np.log(1200))))
    made = make_grains(
        (name,),
        (turn,),
        side_px=side,
        pixel_nm=float(pixel_nm),
        dose=dose,
        jitter_pm=float(rng.uniform(2, 6)),
        changed=3,
        moved=moved if moves else None,
        over=over,
        seed=seed,
    )
    return Spoilt(made, faults)


def _move(fault: str, name: str, turn_deg: float, pixel_nm: float, side: int, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Displacement (n, 2) [px] of places (n, 2) [px]."""
    middle = side * rng.uniform(0.3, 0.7, 2)
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    burgers = (SAMPLES[name].vectors_nm @ turn / pixel_nm)[int(rng.integers(2))]
    if fault == "dislocation":
        return lambda at: edge_dislocation(at - middle, burgers)
    strain, bend = rng.uniform(0.3, 1, 2) * (LARGEST_STRAIN, np.deg2rad(LARGEST_BEND_DEG))
    along = rng.uniform(0, np.pi)
    axis = np.array([np.cos(along), np.sin(along)])
    across = np.array([-axis[1], axis[0]])
    if fault == "strain":  # grows along the axis
        return lambda at: (strain * ((at - side / 2) @ axis) ** 2 / side)[:, None] * axis
    return lambda at: (bend * ((at - side / 2) @ axis) ** 2 / side)[:, None] * across


def edge_dislocation(away: Array, burgers: Array) -> Array:
    """Displacement of places (n, 2) from an edge dislocation, isotropic elasticity; it slips along its Burgers vector.

    Source: Hull and Bacon, Introduction to Dislocations, 5th ed., section 4.4.
    """
    size = float(np.hypot(*burgers))
    x, y = away @ burgers / size, away @ np.array([-burgers[1], burgers[0]]) / size
    square = x**2 + y**2 + (0.3 * size) ** 2
    angle = np.arctan2(y, x)
    along = angle + x * y / (2 * (1 - POISSON) * square)
    across = -((1 - 2 * POISSON) / (4 * (1 - POISSON)) * np.log(square / size**2))
    across -= (x**2 - y**2) / (4 * (1 - POISSON) * square)
    part = np.stack([along, across], -1) * size / (2 * np.pi)
    return np.asarray(part @ np.array([burgers, [-burgers[1], burgers[0]]]) / size)


def _layer(fault: str, side: int, pixel_nm: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Factor on an image and what is added to it, both (side, side)."""
    at = np.stack(np.indices((side, side)), -1) - side * rng.uniform(0.3, 0.7, 2)
    along = rng.uniform(0, np.pi)
    if fault == "step":
        beyond = at @ np.array([np.cos(along), np.sin(along)]) > 0
        smooth = ndimage.gaussian_filter(beyond.astype(float), 0.2 / pixel_nm)
        return 1 + (rng.uniform(*STEPS) - 1) * smooth, np.zeros((side, side))
    radius = side * rng.uniform(0.1, 0.25)
    patch = np.exp(-((at**2).sum(-1) / (2 * radius**2)))
    speckle = ndimage.gaussian_filter(rng.standard_normal((side, side)), 0.06 / pixel_nm)
    return 1 - 0.3 * patch, patch * rng.uniform(0.5, 1.5) * (1 + 0.3 * speckle / speckle.std()).clip(0)


def grains_of(counts: Array) -> int:
    """Grains of an image as the tile stage counts them: nothing is looked for where one lattice takes all of it."""
    try:
        if takes_all(fit_registration(counts, [])):
            return 1
    except NoLatticeError:
        pass
    return find_grains(counts).count


def main() -> None:
    """Print what is found in some images."""
    parser = argparse.ArgumentParser(prog="bench.one_crystal", description=__doc__)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--count", type=int, default=50)
    given = parser.parse_args()
    split, start = 0, time.process_time()
    for seed in range(given.first, given.first + given.count):
        made = spoilt(seed)
        count = grains_of(made.field.counts)
        split += count > 1
        if count != 1:
            print(seed, made.field.names[0], *made.faults, f"{count} grains", flush=True)
    print(f"{split} of {given.count} split, {time.process_time() - start:.0f} s")


if __name__ == "__main__":
    main()
