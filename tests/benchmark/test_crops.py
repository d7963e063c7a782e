"""Crops of any phase: reading them, their lattice, odd columns in them, and the table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from scipy.ndimage import gaussian_filter

from benchmark_crops import main
from build_crops import main as build_crops
from oddlattice.benchmark.crops import sheet
from oddlattice.benchmark.crops.cell import Cell, Fit, predict, turned
from oddlattice.benchmark.crops.columns import SIDE_PX as WINDOW_PX
from oddlattice.benchmark.crops.columns import autocorrelation, cell_sigma, find_columns, find_sites, lay_out, windows
from oddlattice.benchmark.crops.fit import fit_crops
from oddlattice.benchmark.crops.learning import learn_cell, row_jitter_px2, scanned_down
from oddlattice.benchmark.crops.methods import find_scale, learn_off_lattice, limit_at, no_network, off_lattice
from oddlattice.benchmark.crops.sets import CropsError, read_set, read_sets
from oddlattice.benchmark.crops.sheet import CONTRAST, Sheet, beyond_cell, bulk_patches
from oddlattice.benchmark.crops.vectors import find_vectors
from oddlattice.crystal import CELL_PX, load_crystal
from oddlattice.lattice.fourier import NoLatticeError, describe
from oddlattice.model.patches import image_batches
from oddlattice.predict.methods import METHODS
from support.real_columns import RealScan, change_at, sample

Float = npt.NDArray[np.float32]
SIDE = 64
DOSE = 300.0
GROUND = 0.15


def vectors(period_px: float, turn_deg: float = 7.0, second: float = 1.0) -> npt.NDArray[np.float64]:
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return period_px * np.diag([1.0, second]) @ turn


def crystal_crops(
    n: int,
    lattice: npt.NDArray[np.float64],
    rng: np.random.Generator,
    change: float = 0.0,
    shift_px: float = 0.0,
    dose: float = DOSE,
    jitter_px: float = 0.0,
) -> Float:
    """Crops of two columns a cell (1 and 0.6 high) at any phase; the brighter one nearest the middle is changed."""
    row, col = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    width = np.sqrt(abs(np.linalg.det(lattice))) / 8
    out = np.empty((n, SIDE, SIDE))
    index = np.stack(np.meshgrid(np.arange(-9, 10), np.arange(-9, 10), indexing="ij"), -1).reshape(-1, 2)
    for k in range(n):
        image = np.full((SIDE, SIDE), GROUND)
        phase = rng.random(2)
        seen = col + rng.normal(0, jitter_px, (SIDE, 1)) if jitter_px else col
        for place, height in ((np.zeros(2), 1.0), (np.full(2, 0.5), 0.6)):
            at = (index + place + phase) @ lattice
            odd = np.hypot(*at.T).argmin() if height == 1.0 else -1
            for number, (r, c) in enumerate(at):
                if max(abs(r), abs(c)) < SIDE / 2 + 4 * width:
                    factor = 1 + change if number == odd else 1.0
                    aside = shift_px if number == odd else 0.0
                    image += factor * height * np.exp(-((row - r) ** 2 + (seen - c - aside) ** 2) / (2 * width**2))
        out[k] = image
    return rng.poisson(out * dose).astype(np.float32)


def write_sets(folder: Path, **sets: Float) -> Path:
    folder.mkdir(exist_ok=True)
    for name, images in sets.items():
        np.save(folder / f"{name}.npy", images)
    return folder


# ---- sets


def crops_of_noise(n: int = 25, side: int = SIDE) -> Float:
    return np.random.default_rng(1).random((n, side, side), dtype=np.float32)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (crops_of_noise(25, 32), r"found shape \(25, 32, 32\); needed .*\(N, 64, 64\)"),
        (crops_of_noise(25)[0], r"found shape \(64, 64\)"),
        (crops_of_noise(3), r"found shape \(3, 64, 64\)"),
        (crops_of_noise() + 1j, r"found dtype complex"),
        (crops_of_noise() > 0.5, r"found dtype bool"),
        (
            np.where(np.arange(25)[:, None, None] == 7, np.nan, crops_of_noise()),
            r"not finite in 1 crops, first in crop 7",
        ),
        (np.where(np.arange(25)[:, None, None] == 3, 5.0, crops_of_noise()), r"1 crops of one value, first crop 3"),
        (np.array([{"a": 1}], dtype=object), r"Python objects"),
    ],
)
def test_a_bad_set_is_refused_in_one_sentence(tmp_path: Path, array: npt.NDArray[np.generic], found: str) -> None:
    path = tmp_path / "bulk_train.npy"
    np.save(path, array)
    with pytest.raises(CropsError, match=rf"^{path}: .*{found}") as caught:
        read_set(path)
    assert "\n" not in str(caught.value) and "needed" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(CropsError, match=r"x\.npy: found .*; needed"):
        read_set(tmp_path / "x.npy")


def test_whole_numbers_of_any_kind_are_read(tmp_path: Path) -> None:
    counts = (100 * crops_of_noise()).astype(">u2")
    np.save(tmp_path / "x.npy", counts)
    assert np.array_equal(read_set(tmp_path / "x.npy"), counts)


def test_a_folder_needs_both_bulk_sets_and_a_defect(tmp_path: Path) -> None:
    with pytest.raises(CropsError, match="found no folder"):
        read_sets(tmp_path / "none")
    write_sets(tmp_path, bulk_train=crops_of_noise(), odd=crops_of_noise())
    with pytest.raises(CropsError, match=r"found bulk_train.npy, odd.npy; needed .*bulk_test.npy"):
        read_sets(tmp_path)
    write_sets(tmp_path, bulk_test=crops_of_noise(), another=crops_of_noise())
    assert list(read_sets(tmp_path)) == ["bulk_train", "bulk_test", "another", "odd"]


# ---- lattice


@pytest.mark.parametrize(("period", "turn", "second"), [(23.8, 7, 1.0), (13.0, 31, 1.0), (34.0, 3, 1.2)])
def test_the_lattice_of_crops_is_found(period: float, turn: float, second: float) -> None:
    lattice = vectors(period, turn, second)
    found = describe(find_vectors(crystal_crops(30, lattice, np.random.default_rng(2))))
    expected = sorted((period, period * second))
    assert found[:2] == pytest.approx(expected, rel=0.01)
    assert found[2] == pytest.approx(90, abs=1)


def test_no_lattice_is_said() -> None:
    with pytest.raises(NoLatticeError):
        find_vectors(crops_of_noise(60))


LATTICE = vectors(23.8)


@pytest.fixture(scope="module")
def learned() -> tuple[Float, Cell, Fit]:
    train = crystal_crops(60, LATTICE, np.random.default_rng(3))
    return train, *learn_cell(train, rounds=3)


def test_the_cell_explains_bulk_down_to_the_noise(learned: tuple[Float, Cell, Fit]) -> None:
    _, cell, _ = learned
    places = find_columns(cell)
    assert len(places) == 2
    assert (places[1] - places[0]) % 1.0 == pytest.approx([0.5, 0.5], abs=0.03)
    fresh = crystal_crops(30, LATTICE, np.random.default_rng(4))
    fit, _, _ = fit_crops(cell, fresh)
    rest = fresh - predict(cell, fit)
    assert (rest**2).mean() == pytest.approx(fresh.mean(), rel=0.06)  # Poisson: variance is the mean


def test_the_border_of_crops_blurred_one_by_one_is_left_out(learned: tuple[Float, Cell, Fit]) -> None:
    train, cell, _ = learned
    assert cell.rim_px == 0
    blurred = gaussian_filter(train, (0, 2, 2))
    own, fit = learn_cell(blurred / blurred.max(axis=(1, 2), keepdims=True), rounds=2)
    assert 2 <= own.rim_px <= 6
    assert describe(own.vectors_px)[:2] == pytest.approx((23.8, 23.8), rel=0.003)
    seen = lay_out(own, fit, blurred).seen.mean() / lay_out(cell, fit, blurred).seen.mean()
    assert seen == pytest.approx((1 - 2 * own.rim_px / SIDE) ** 2, abs=0.02)


def test_columns_stand_at_the_same_place_in_every_canvas(learned: tuple[Float, Cell, Fit]) -> None:
    train, cell, bulk_fit = learned
    site = find_sites(cell)[0]
    centre = WINDOW_PX**2 // 2

    def lowest(images: Float, fit: Fit) -> npt.NDArray[np.float64]:
        canvas = lay_out(cell, fit, images - predict(cell, fit))
        values, masks, of = windows(canvas, site)
        assert masks.shape[1] == WINDOW_PX**2
        found = np.full(len(images), np.inf)
        np.minimum.at(found, of, values[:, centre - 1 : centre + 2].mean(1))
        return found

    odd = crystal_crops(30, LATTICE, np.random.default_rng(5), change=-1.0)
    assert (lowest(odd, fit_crops(cell, odd)[0]) < lowest(train, bulk_fit).min()).mean() > 0.9


def test_noise_of_single_pixels_is_hardly_correlated(learned: tuple[Float, Cell, Fit]) -> None:
    train, cell, fit = learned
    canvas = lay_out(cell, fit, train - predict(cell, fit))
    correlation = autocorrelation(canvas, cell_sigma(canvas))
    assert correlation[WINDOW_PX - 1, WINDOW_PX - 1] == correlation.max() == pytest.approx(1.0)
    assert np.abs(correlation[:8]).max() < 0.1


def test_crops_lie_on_a_sheet_each_by_itself_and_what_they_do_not_show_is_the_cell(
    learned: tuple[Float, Cell, Fit],
) -> None:
    train, cell, fit = learned
    whole = Sheet.of(cell, fit, train - predict(cell, fit))
    assert whole.crops == len(train) and whole.tiles.shape == tuple(20 * n for n in whole.mask.shape)
    bulk = np.tile(whole.pattern, whole.mask.shape)
    assert np.allclose(whole.tiles[~whole.seen], bulk[~whole.seen], atol=1e-6)
    assert whole.seen.mean() == pytest.approx(64**2 / (23.8 * whole.mask.shape[1]) ** 2, rel=0.05)
    assert not (whole.tiles == bulk)[whole.seen].any()
    assert whole.pattern.std() == pytest.approx(CONTRAST, rel=0.05)
    few = whole.part(slice(3, 5))
    assert few.crops == 2 and few.below(whole).crops == len(train) + 2
    assert np.array_equal(few.below(whole).tiles[-len(few.tiles) :], few.tiles)


def test_changes_are_pasted_inside_the_crop_only(learned: tuple[Float, Cell, Fit]) -> None:
    train, cell, fit = learned
    patches = bulk_patches(Sheet.of(cell, fit, train - predict(cell, fit)), cell)
    assert len(patches.shapes) == 2 and np.isinf(patches.variance).any(axis=(1, 2)).mean() > 0.5
    batch = next(image_batches(patches, 200, 6))
    changed = batch.patch != batch.target
    assert 0.3 < changed.any(axis=(1, 2)).mean() < 1.0
    assert not changed[np.isinf(batch.variance)].any()


def test_a_method_takes_its_bulk_from_bulk_where_every_crop_of_a_set_is_odd(learned: tuple[Float, Cell, Fit]) -> None:
    train, cell, fit = learned
    sheet_of = [Sheet.of(cell, fit, train - predict(cell, fit) + added) for added in (0, 0.5 * train.mean())]
    drawn = beyond_cell("template", sheet_of[1].part(slice(0, 20)), no_network, sheet_of[0])
    assert drawn.shape[0] == 20 and np.abs(drawn).max() < 0.1


def test_the_direction_and_the_size_of_the_jitter_are_found(learned: tuple[Float, Cell, Fit]) -> None:
    _, cell, _ = learned
    assert cell.prior[12] < 0.03  # there is none
    crops = crystal_crops(40, LATTICE, np.random.default_rng(9), jitter_px=0.6)
    loose = replace(cell, prior=np.append(cell.prior[:12], 0.1))
    fit, _, row_variance = fit_crops(loose, crops)
    assert row_jitter_px2(loose, fit, row_variance) == pytest.approx(0.36, rel=0.3)
    assert not scanned_down(cell, crops)
    assert scanned_down(turned(cell), crops.transpose(0, 2, 1))


def test_changes_of_one_sort_share_their_probability(learned: tuple[Float, Cell, Fit]) -> None:
    for site in find_sites(learned[1]):
        assert len(site.prior) == len(site.changes) == 27
        assert site.prior[:3] == pytest.approx(0.25) and site.prior[3:].sum() == pytest.approx(0.25)


# ---- the makers of sets


def test_an_emptied_column_falls_to_what_lies_between(tmp_path: Path) -> None:
    crystal = load_crystal(Path(__file__).parents[2] / "models/srtio3_001/crystal.yaml")
    line = (np.arange(CELL_PX) + 0.5) / CELL_PX
    wave = np.cos(2 * np.pi * line)
    cell = 2 + 0.5 * (wave[:, None] + wave) * 0.5 + np.outer(wave, wave)  # Sr at (0, 0), Ti at (0.5, 0.5)
    ground = float(sample(cell, np.array([[0.5, 0.0], [0.0, 0.5]])).mean())
    side = 30.0
    row, col = np.mgrid[:120, :120]
    counts = 100 * sample(cell, np.stack([row, col], -1) / side)
    places = {"Sr": np.array([[60.0, 60.0]]), "Ti": np.array([[45.0, 45.0]])}
    bright = {"Sr": np.array([100.0]), "Ti": np.array([100.0])}
    scan = RealScan(counts, 0.013, side * np.eye(2), places, bright, cell, ground)
    part, added = change_at(scan, crystal, "Sr", 0, to=0.0)
    image = counts.copy()
    image[part] += added
    assert image[60, 60] == pytest.approx(100 * ground, rel=1e-6)
    assert np.array_equal(image[:40], counts[:40]) and image[45, 45] == counts[45, 45]
    part, added = change_at(scan, crystal, "Sr", 0, to="Ti")
    assert (counts[part] + added)[60 - part[0].start, 60 - part[1].start] == pytest.approx(counts[45, 45], rel=1e-6)
    _, weak = change_at(scan, crystal, "Sr", 0, to=0.7)
    _, whole = change_at(scan, crystal, "Sr", 0, to=0.0)
    np.testing.assert_allclose(weak, 0.3 * whole, atol=1e-9)


def test_sets_are_built_from_the_library(tmp_path: Path) -> None:
    build_crops(["simulated", str(tmp_path), "--n", "20", "--contrast", "0.3"])
    sets = read_sets(tmp_path)
    kinds = {"sr_empty", "ti_empty", "ti_on_sr", "sr_on_ti", "sr_moved", "ti_moved"}
    assert set(sets) == {"bulk_train", "bulk_test"} | kinds
    assert {len(crops) for crops in sets.values()} == {20}
    assert 5 < sets["bulk_train"].mean() < 9  # counts of 400 e/px


# ---- the whole


def test_limit_lets_the_stated_part_of_bulk_through() -> None:
    scores = np.random.default_rng(6).permutation(1000).astype(float)
    assert (scores > limit_at(scores, 0.01)).sum() == 10
    assert (scores > limit_at(scores, 0.001)).sum() == 1
    assert (scores[:50] > limit_at(scores[:50], 0.01)).sum() == 0


def test_whole_columns_are_found_by_every_method_on_the_lattice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "STEPS", 150)
    rng = np.random.default_rng(7)
    lattice = vectors(23.8)
    folder = write_sets(
        tmp_path / "sets",
        bulk_train=crystal_crops(100, lattice, rng),
        bulk_test=crystal_crops(100, lattice, rng),
        empty=crystal_crops(20, lattice, rng, change=-1.0),
        weak=crystal_crops(50, lattice, rng, change=-0.12),
        moved=crystal_crops(20, lattice, rng, shift_px=6.0),
    )
    said: list[str] = []
    monkeypatch.setitem(METHODS, "mine", METHODS["template"])  # a baseline more is a line in METHODS, and no other
    compared = ["mine", "pca", "published", "vae"]
    main(folder, tmp_path / "crops.csv", compared, band_width=1.5, seed=1, threads=1, say=said.append, epochs=1)
    table = pl.read_csv(tmp_path / "crops.csv")
    assert table.columns[:7] == [
        "method", "set", "n", "auroc", "tpr_at_1pct_fpr", "tpr_at_0p1pct_fpr", "detected_published_rule",
    ]  # fmt: skip
    assert set(table["method"]) == set(compared)
    assert set(table["set"]) == {"bulk_test", "empty", "weak", "moved"}
    rows = {(row["method"], row["set"]): row for row in table.iter_rows(named=True)}
    assert rows["vae", "bulk_test"]["auroc"] is None
    assert rows["vae", "bulk_test"]["tpr_at_1pct_fpr"] == 0.01
    for kind in ("empty", "moved"):
        assert rows["vae", kind]["tpr_at_1pct_fpr"] == rows["pca", kind]["tpr_at_1pct_fpr"] == 1.0
    assert rows["vae", "weak"]["auroc"] >= max(rows["pca", "weak"]["auroc"], 0.8)
    assert any(line.startswith("lattice: 23.8") for line in said)


@pytest.mark.parametrize("method", off_lattice())
def test_without_a_lattice_a_large_change_is_still_found(method: str) -> None:
    rng = np.random.default_rng(8)
    row, col = np.mgrid[:SIDE, :SIDE] - SIDE / 2

    def blobs(n: int, extra: float = 0.0) -> Float:
        image = 1 + rng.normal(0, 0.2, (n, 1, 1)) * np.exp(-(row**2 + col**2) / 800)
        image = image + extra * np.exp(-((row - 10) ** 2 + (col + 6) ** 2) / 18)
        return rng.poisson(100 * image).astype(np.float32)

    train = blobs(80)
    evaluate = learn_off_lattice(method, train, find_scale(train))
    bulk, odd = evaluate(blobs(60)).score, evaluate(blobs(30, 0.8)).score
    assert odd.min() > np.median(bulk)
    assert (odd > limit_at(bulk, 0.02)).mean() > 0.95
