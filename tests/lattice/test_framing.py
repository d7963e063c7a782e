"""An image that is laid on lattices one after the other is not fitted again to one that it has been fitted to."""

from dataclasses import replace

import numpy as np

from oddlattice.lattice import framing
from oddlattice.lattice.flattener import fit_flattener
from oddlattice.lattice.fourier import find_lattice
from support.own_crystals import CRYSTALS, make_field


def test_a_lattice_is_fitted_once_turned_or_not() -> None:
    image = make_field(CRYSTALS["MoS2"], side_px=200, rotation_deg=17, seed=3).counts
    lattice, shared = find_lattice(image), framing.Framing(image)
    flattener, frame = shared.on(lattice)
    assert shared.on(replace(lattice, vectors_px=lattice.vectors_px + 1e-12))[1] is frame
    same, turned = shared.on(replace(lattice, vectors_px=-lattice.vectors_px))
    assert same is flattener
    places = np.random.default_rng(0).uniform(0, 199, (50, 2))
    assert np.allclose(turned.uv_at(places), -frame.uv_at(places), atol=1e-9)
    anew = framing.Framing(image).on(replace(lattice, vectors_px=-lattice.vectors_px))[1]
    off = anew.uv_at(places) - turned.uv_at(places)
    assert np.allclose(off, np.rint(off[0]), atol=1e-9)
    doubled = replace(lattice, vectors_px=lattice.vectors_px * [[2.0], [1.0]])
    assert shared.on(doubled)[1] is not frame


def test_a_flattened_image_is_kept_and_given_away_as_a_copy() -> None:
    image = make_field(CRYSTALS["MoS2"], side_px=200, seed=3).counts
    flattener = fit_flattener(image, 20.0)
    first = flattener.flat(image, slice(10, 30))
    first[:] = 7
    again = flattener.flat(image, slice(0, 200))
    assert not (again == 7).any()
    assert not np.array_equal(flattener.flat(2 * image, slice(0, 200)), again)  # another image
