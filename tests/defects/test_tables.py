"""Rows of the products: where what was found is seen in the raw image."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from oddlattice.defects.analyse import _warnings, untested
from oddlattice.defects.fdr import q_values
from oddlattice.defects.kernels import Kernel
from oddlattice.defects.listing import Judged, decide_together
from oddlattice.defects.noise import Noise
from oddlattice.defects.null import Null, SiteColumns, View
from oddlattice.defects.tables import Tally, column_rows, numbered
from oddlattice.lattice.columns import ColumnShape, column_cells
from oddlattice.lattice.coordinates import Coordinates
from oddlattice.lattice.register import fit_registration
from oddlattice.simulate.columnwise import Conditions, simulate_scan
from oddlattice.storage.products import COLUMN_KEY, COLUMNS, table
from support.lattice_samples import SRTIO3, true_row_shift_px


def scored(shape: ColumnShape, mask: np.ndarray, rng: np.random.Generator | None = None) -> SiteColumns:
    """All columns of a kind, none of them changed; with `rng`, as noise has them read."""
    cells = column_cells(mask, shape)
    null, nothing, ones = Null(0.0, 1.0, np.zeros(2), np.eye(2), 4000), np.zeros((len(cells), 3)), np.ones(len(cells))
    nothing = nothing if rng is None else rng.standard_normal(nothing.shape)
    view = View(np.ones((16, 16), dtype=bool), Kernel(np.zeros((3, 256)), np.eye(3), np.eye(3)), np.ones(2))
    verdict, doubt = null.judge(nothing, ones), np.ones((len(cells), 2))
    which = np.zeros(len(cells), dtype=np.intp)
    return SiteColumns(
        shape,
        cells,
        (view,),
        which,
        nothing,
        ones,
        doubt,
        null,
        verdict,
        0 * ones,
        ones > 0,
        (1.0, 1.0),
        np.empty((0, 2)),
    )


def judged_of(sites: list[SiteColumns], fdr: float | None) -> Judged:
    """The columns of all kinds, of which none is listed; without a rate it is not decided yet."""
    noise = Noise(np.ones((20, 20)), np.ones((1, 1)), np.zeros((31, 31)))
    n = sum(len(site.cells) for site in sites)
    judged = Judged(sites, {}, noise, np.eye(2), [], 0, np.ones(n, dtype=bool))
    if fdr is not None:
        decide_together([judged], fdr)
    return judged


@pytest.mark.parametrize("transposed", [False, True])
def test_columns_are_listed_where_they_are_seen(transposed: bool) -> None:
    """The lines of the scan jitter by 0.6 px: a marker must lie on its column as the map does."""
    scan = simulate_scan(
        SRTIO3, Conditions(pixel_nm=0.0125, rotation_deg=17, dose_e_px=800, jitter_pm=8), (300, 900), seed=4
    )
    counts = np.ascontiguousarray(scan.counts.T) if transposed else scan.counts
    found = fit_registration(counts, [SRTIO3], (0.0125, 0.0125))
    shapes = [ColumnShape(c.site, c.u, c.v, 2.0, (90.0, 0.0, 90.0)) for c in SRTIO3.tested]
    judged = judged_of([scored(shape, found.mask.astype(np.uint8)) for shape in shapes], 0.1)
    rows = column_rows("f", 1, judged, Coordinates(found.nodes_px, found.row_shift_px, found.transposed))
    listed = rows.select("row_px", "col_px").to_numpy()[:, :: -1 if transposed else 1]
    shift = true_row_shift_px(Conditions(pixel_nm=0.0125, jitter_pm=8), 300, 4)
    seen = scan.places_px.copy()
    seen[:, 1] -= np.interp(seen[:, 0], np.arange(300), shift)
    away = np.sqrt(((listed[:, None] - seen[None]) ** 2).sum(-1).min(1))
    assert len(listed) > 300
    assert float(np.sqrt((away**2).mean())) < 0.15


def test_the_parts_of_an_image_share_one_rate_and_q_stands_beside_its_p() -> None:
    mask, rng = np.ones((12, 12), np.uint8), np.random.default_rng(3)
    nodes = 20.0 * np.stack(np.meshgrid(np.arange(13), np.arange(13), indexing="ij"))
    shape = ColumnShape("A", 0.5, 0.5, 2.0, (90.0, 0.0, 90.0))
    parts = [judged_of([scored(shape, mask, rng)], None) for _ in range(3)]
    decide_together(parts, 0.1)
    rows = pl.concat([column_rows("f", 1, part, Coordinates(nodes, np.zeros(240))) for part in parts])
    together = q_values(rows["p_value"].to_numpy())
    np.testing.assert_allclose(rows["q_value"], together)
    assert np.abs(np.concatenate([q_values(part.p) for part in parts]) - together).max() > 0.1  # the test could fail


def test_a_site_that_occurs_twice_is_two_columns() -> None:
    """Their rows have one site and two keys."""
    mask = np.ones((8, 8), np.uint8)
    pair = [ColumnShape("O", u, 0.5, 2.0, (90.0, 0.0, 90.0), column=k) for k, u in enumerate((0.25, 0.75))]
    nodes = 20.0 * np.stack(np.meshgrid(np.arange(9), np.arange(9), indexing="ij"))
    rows = column_rows("f", 1, judged_of([scored(s, mask) for s in pair], 0.1), Coordinates(nodes, np.zeros(160)))
    assert set(rows["site"]) == {"O"} and set(rows["column"]) == {0, 1} and set(rows["grain"]) == {1}
    assert rows.select(COLUMN_KEY).is_unique().all()
    assert not rows.select("image_id", "cell_u", "cell_v", "site").is_unique().all()


def test_what_is_no_column_has_a_number_within_its_kind() -> None:
    places = [(30, 5, "extra", None), (2, 9, "lighter", 1), (4, 9, "extended", None), (4, 1, "extra", None)]
    keys = ("row_px", "col_px", "kind", "column")
    rows = [dict(zip(keys, place, strict=True)) for place in [*places, (4, 8, "extra", None)]]
    assert [row["number"] for row in numbered(rows)] == [3, None, 1, 1, 2]
    assert numbered([]) == []


def test_the_area_tested_is_that_of_the_columns_outside_regions() -> None:
    """Cells at the rim of what is analysed, whose columns are read and not tested, are no area tested."""
    columns = pl.DataFrame({"cell_u": [0, 0, 1, 1, 0, 1], "cell_v": [0, 1, 0, 1, 0, 1], "column": [0, 0, 0, 0, 1, 1]})
    rows = [dict.fromkeys(COLUMNS) | row for row in columns.iter_rows(named=True)]
    tally = Tally([], columns=[table(rows, COLUMNS)], taken=np.zeros((3, 3), dtype=bool))
    assert tally.area_nm2(0.15) == pytest.approx(3 * 0.15)
    tally.taken[1, 1] = True
    assert tally.area_nm2(0.15) == pytest.approx(2 * 0.15)
    assert Tally([]).area_nm2(0.15) == 0.0


def test_a_warning_of_all_grains_is_said_once() -> None:
    def grain(*warnings: str) -> SimpleNamespace:
        return SimpleNamespace(lattice={"warnings": list(warnings)})

    whole = SimpleNamespace(columns=[[1]], reasons=["the whole."])
    two = {1: grain("no size", "strained"), 3: grain("no size")}
    assert _warnings(two, whole, 3) == ["no size", "grain 1: strained", "the whole."]
    assert _warnings({1: grain("strained")}, whole, 1) == ["strained", "the whole."]


def test_a_site_of_which_nothing_is_tested_is_named() -> None:
    shapes = [SimpleNamespace(site=site, column=k) for k, site in enumerate(("Sr", "Ti", "O1", "O1"))]
    image, rows = SimpleNamespace(shapes=shapes), [pl.DataFrame({"column": [1, 1]}), pl.DataFrame({"column": [2]})]
    lines = untested(image, SimpleNamespace(columns=rows))
    assert [line.split(":")[0] for line in lines] == ["Sr", "O1"] and "fewer than 30 columns" in lines[0]
    assert untested(image, SimpleNamespace(columns=[])) == []
