"""Cells that the rim of the image cuts: taken in where they are long, their columns tested as far out as others."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.own_crystal import register_on_own
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.resample import inside_cells
from oddlattice.lattice.rim import beside_px, up_to_rim
from support.own_crystals import CRYSTALS, Field, make_field
from support.stages import through_the_stages

PIXEL_NM, SIDE_PX = 0.0112, 480


@cache
def field() -> Field:
    return make_field(CRYSTALS["YBCO [100]"], side_px=SIDE_PX, pixel_nm=PIXEL_NM, rotation_deg=20.0, dose=150, seed=3)


@cache
def registered() -> Registration:
    return register_on_own(field().counts)[0]


def test_long_cells_are_taken_in_where_a_column_of_theirs_can_be_tested() -> None:
    found, whole = up_to_rim(registered()), registered()
    added = found.mask & ~whole.mask
    assert added.sum() >= 8 and (found.mask >= whole.mask).all()
    assert not inside_cells(whole.nodes_px, whole.frame.shape, 0.0)[added].any()  # the rim cuts each of them
    missing = np.isnan(found.foreign).reshape(added.shape[0], found.px_per_cell[0], added.shape[1], -1).any(axis=(1, 3))
    assert (missing <= added).all() and missing.sum() > 0.6 * added.sum()


def test_depth_runs_straight_to_the_rim_in_shortest_vectors() -> None:
    found = up_to_rim(registered())
    assert found.crystal is not None
    vectors, places = found.frame.vectors_px, np.array([(c.u, c.v) for c in found.crystal.tested])
    nodes = np.moveaxis(found.nodes_px, 0, -1)
    from_rim = np.minimum(nodes + 0.5, SIDE_PX - 0.5 - nodes).min(-1)
    at = np.isfinite(from_rim) & (np.abs(from_rim) < 60)
    scale = np.hypot(*vectors.T).min() / beside_px(vectors, places)
    np.testing.assert_allclose(found.depth_px[at], scale * from_rim[at], atol=1e-6)


def test_cells_are_not_taken_in_beside_what_is_blank() -> None:
    whole = registered()
    blank = replace(whole, depth_px=np.minimum(whole.depth_px, 10.0))
    assert up_to_rim(blank) is blank


@pytest.mark.parametrize("name", ["BaTiO3", "graphene"])
def test_short_cells_stay_as_they_are(name: str) -> None:
    found, _ = register_on_own(make_field(CRYSTALS[name], side_px=256, rotation_deg=20.0, dose=150, seed=3).counts)
    assert up_to_rim(found) is found


def test_columns_of_cut_cells_are_tested_and_found_where_they_are_empty(tmp_path: Path) -> None:
    made, whole = field(), registered()
    where = Coordinates(whole.nodes_px, whole.row_shift_px)
    cell = np.floor(where.uv_of_straight(made.places_px)).astype(int)
    cut = ~whole.inside[tuple(np.clip(cell, 0, np.array(whole.mask.shape) - 1).T)]
    from_rim = np.minimum(made.places_px, SIDE_PX - 1 - made.places_px).min(1)
    near = np.flatnonzero(cut & (from_rim > 0.55 / PIXEL_NM) & (made.index < 3))[::2]  # barium and yttrium
    rows, cols = np.indices(made.counts.shape)
    counts = made.counts.astype(np.float64)
    for place in made.places_px[near]:
        away2 = (rows - place[0]) ** 2 + (cols - place[1]) ** 2
        counts -= 127 * np.exp(-away2 / (2 * (CRYSTALS["YBCO [100]"].sigma_nm / PIXEL_NM) ** 2))
    tables = through_the_stages([(np.clip(counts, 0, None), PIXEL_NM)], tmp_path)
    tested, listed = (tables[key].select("row_px", "col_px").to_numpy() for key in ("columns", "defects"))
    far = from_rim > 0.49 / PIXEL_NM
    assert (cKDTree(tested).query(made.places_px[far])[0] < 5).mean() > 0.95
    assert len(near) >= 4 and (cKDTree(listed).query(made.places_px[near])[0] < 5).all()
    assert (cKDTree(made.places_px[near]).query(listed)[0] > 5).sum() <= 2
