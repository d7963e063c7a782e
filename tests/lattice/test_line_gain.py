"""Steps of the current are found to the line, and nothing else is taken for one."""

from functools import cache

import numpy as np
import pytest

from oddlattice.lattice.fit_frame import fit_frame
from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.fourier import find_lattice
from oddlattice.lattice.line_gain import line_gain
from oddlattice.lattice.mean_cell import measure_mean_cell
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.tile_image import steps_and_blanks
from oddlattice.numerics.arrays import Array
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from support.lattice_samples import SRTIO3

PIXEL_NM = 0.0125


@cache
def scan(rotation_deg: float, seed: int) -> np.ndarray:
    conditions = Conditions(rotation_deg=rotation_deg, dose_e_px=6000, jitter_pm=3)
    return simulate_scan(SRTIO3, conditions, (340, 340), seed=seed).counts


def steps_of(image: np.ndarray) -> tuple[list[int], Array]:
    """First lines after the steps, and the steps, as parts; on the lattice that the image shows."""
    lattice = find_lattice(image)
    flattener = fit_flattener(image, float(np.sqrt(abs(np.linalg.det(lattice.vectors_px)))))
    frame = fit_frame(image, lattice, flattener)
    (mean,) = measure_mean_cell(image, flattener, frame, [np.eye(2, dtype=np.int64)])
    gain = line_gain(image, flattener, frame, mean)
    at = np.flatnonzero(np.diff(gain)) + 1
    return [int(row) for row in at], gain[at] / gain[at - 1] - 1


@pytest.mark.parametrize("rotation_deg", [0.0, 31.0])
def test_a_step_is_found_to_the_line(rotation_deg: float) -> None:
    rng = np.random.default_rng(3)
    image = scan(rotation_deg, 5).astype(np.float64)
    image[90:] *= 1.06
    image[237:] *= 0.9
    image = rng.poisson(image).astype(np.float32)
    rows, steps = steps_of(image)
    assert rows == [90, 237]
    assert steps == pytest.approx([0.06, -0.1], abs=0.006)


def test_what_else_begins_at_a_line_is_no_step() -> None:
    image = scan(0.0, 5)
    assert steps_of(image)[0] == []
    half = round(0.5 * SRTIO3.a_nm / PIXEL_NM)
    boundary = np.vstack([image[:160, :-half], image[160 + half :, half:]])  # an antiphase boundary along the lines
    assert steps_of(boundary)[0] == []
    ground = image + np.where(np.arange(340) < 170, 0.0, 40.0)[:, None].astype(np.float32)  # contamination
    assert steps_of(ground)[0] == []
    part = image * np.where((np.arange(340)[:, None] > 170) & (np.arange(340) > 190), 1.1, 1.0).astype(np.float32)
    assert steps_of(part)[0] == []


@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_across_a_step_are_those_without_it(transposed: bool) -> None:
    image = scan(17.0, 5)
    stepped = image.copy()
    stepped[150:] *= np.float32(1.08)
    turn = np.transpose if transposed else np.asarray
    first, found = (fit_registration(turn(x), [SRTIO3], (PIXEL_NM, PIXEL_NM)) for x in (image, stepped))
    assert found.transposed == first.transposed == transposed and (first.line_gain == 1).all()
    assert found.line_gain[-1] / found.line_gain[0] == pytest.approx(1.08, abs=0.006)
    (told,) = steps_and_blanks(found)
    assert told.startswith("the current changes by +8.") and f"at {'column' if transposed else 'row'} 150" in told
    assert steps_and_blanks(first) == []
    cells = slice(0, found.mask.shape[0]), slice(0, found.mask.shape[1])
    tiles = [one.record.cut(turn(x), cells) for one, x in ((first, image), (found, stepped))]
    both = (tiles[0] > 0) & (tiles[1] > 0)
    assert both.mean() > 0.6 and tiles[1][both] == pytest.approx(tiles[0][both], abs=0.03)
