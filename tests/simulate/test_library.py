"""The multislice library and the composer: against a direct multislice, and against counted properties."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter

import simulate_library
from oddlattice.crystal import Crystal, load_crystal
from oddlattice.simulate import configurations
from oddlattice.simulate import specimen as specimens
from oddlattice.simulate.columnwise import Conditions, Defect, Scan, simulate_scan
from oddlattice.simulate.compose import AtomDefect, blurred, compose_scan, difference_image, library_conditions, shifted
from oddlattice.simulate.library import (
    Library,
    changes_of,
    ideal_dprime,
    load_library,
    load_recipe,
    recipe_sha256,
    save_library,
)
from oddlattice.simulate.multislice import annular_image, plane_waves, send_through, transmissions

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "models/libraries/srtio3_001.recipe.yaml"
CARD = ROOT / "models/libraries/srtio3_001.yaml"
SR, TI = 0, 1


@pytest.fixture(scope="module")
def crystal() -> Crystal:
    return load_crystal(ROOT / "models/srtio3_001/crystal.yaml")


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library(CARD)


def small_recipe(**changes: Any) -> dict[str, Any]:
    """Two by two cells, two thicknesses: a few seconds. Tests that use it need the dependencies `library`."""
    pytest.importorskip("abtem")
    recipe = load_recipe(RECIPE)
    recipe["microscope"] = recipe["microscope"] | {"detector_mrad": [60.0, 90.0]}
    small = {"thickness_cells": [2, 4], "cells": [2, 2], "grid_px": [160, 160], "phonons": 1}
    return recipe | small | {"defects": [{"site": "Sr", "change": "empty"}]} | changes


def flat(library: Library, **changes: Any) -> Conditions:
    """A scan without source size, noise, jitter or background."""
    still = {"blur_nm": library.probe_rms_nm, "jitter_pm": 0.0, "background": 0.0, "dose_e_px": 0.0}
    return library_conditions(library, **(still | changes))


def direct_multislice(
    specimen: specimens.Specimen, displacements: npt.NDArray[Any], recipe: dict[str, Any], positions: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """What abTEM's own multislice of a focused probe gives at positions (n, 2) [Å]."""
    abtem = pytest.importorskip("abtem")
    ase = pytest.importorskip("ase")
    optics = configurations.optics_of(recipe, specimen)
    layer = np.floor(specimen.places[:, 2] * recipe["slices_per_cell"] + 1e-6) + 0.5
    across = specimen.places[:, :2] * specimen.box_angstrom[:2] + displacements
    places = np.column_stack([across, layer * optics.slice_angstrom])
    atoms = ase.Atoms(list(specimen.symbols), places, cell=specimen.box_angstrom * specimen.cells, pbc=True)
    potential = abtem.Potential(
        atoms,
        gpts=optics.grid_px,
        slice_thickness=optics.slice_angstrom,
        parametrization="lobato",
        projection="infinite",
    )
    probe = abtem.Probe(
        energy=optics.kv * 1e3,
        semiangle_cutoff=optics.convergence_mrad,
        soft=False,
        extent=optics.extent_angstrom,
        gpts=optics.grid_px,
    )
    detector = abtem.AnnularDetector(*optics.detector_mrad)
    scanned = probe.scan(potential, scan=abtem.CustomScan(positions), detectors=detector, lazy=False)
    return np.asarray(scanned.array)


def test_kernel_agrees_with_direct_multislice_for_bulk_and_defect() -> None:
    recipe = small_recipe()
    block = configurations.Block(recipe, ROOT, 0)
    steps = np.array([(0, 0), (3, 1), (10, 10), (5, 14), (10, 0)])  # pixels of 1/20 cell
    positions = (steps / 20 + 1) * block.specimen.box_angstrom[:2]
    (change,) = changes_of(recipe)
    emptied = block.bulk + block.difference(change, (0.0, 0.0))
    chosen = specimens.changed_atoms(block.specimen, change, (0.0, 0.0))
    changed = specimens.apply_change(block.specimen, block.displacements, change, chosen)
    for images, (specimen, displacements) in (
        (block.bulk, (block.specimen, block.displacements)),
        (emptied, changed),
    ):
        direct = direct_multislice(specimen, displacements, recipe, positions)
        ours = images[-1][tuple((steps + 20).T)]
        # abTEM's band limit has a soft edge, ours a sharp one; it shows beyond the detector only
        np.testing.assert_allclose(ours, direct, rtol=0.01, atol=0.002 * block.bulk.max())


def test_composed_perfect_crystal_equals_direct_multislice(crystal: Crystal) -> None:
    recipe = small_recipe(rms_nm={"Sr": 0.0, "Ti": 0.0, "O": 0.0}, defects=[{"site": "Sr", "change": "empty"}])
    library = configurations.simulate_library(recipe, ROOT)
    # 30 degrees, 33 pm pixels: every pixel falls between the library's
    conditions = flat(library, pixel_nm=0.033, rotation_deg=30.0, thickness_nm=4 * 0.3905)
    scan = compose_scan(library, crystal, conditions, (4, 6), origin_px=(1.3, 2.1))
    uv = (np.indices((4, 6)).reshape(2, -1).T - scan.origin_px) @ np.linalg.inv(scan.vectors_px)
    specimen = specimens.build_specimen(recipe, ROOT)
    still = np.zeros((len(specimen.symbols), 2))
    direct = direct_multislice(specimen, still, recipe, np.mod(uv, 2) * specimen.box_angstrom[:2])
    np.testing.assert_allclose(scan.expected.ravel(), direct, rtol=0.01, atol=0.004 * direct.max())


def test_intensity_without_specimen_is_nothing() -> None:
    recipe = small_recipe()
    optics = configurations.optics_of(recipe, specimens.build_specimen(recipe, ROOT))
    vacuum = transmissions(np.zeros((2, *optics.grid_px), dtype=np.float32), optics)
    exit_waves, _ = send_through(plane_waves(optics), vacuum, optics, 0, [2])
    assert annular_image(exit_waves[2], optics, (40, 40)).max() < 1e-9
    open_detector = replace(optics, detector_mrad=(0.0, 1e3))
    exit_waves, _ = send_through(plane_waves(open_detector), vacuum, open_detector, 0, [2])
    np.testing.assert_allclose(annular_image(exit_waves[2], open_detector, (40, 40)), 1.0, rtol=1e-4)


def test_same_phonons_give_the_same_images() -> None:
    recipe = small_recipe(thickness_cells=[1, 2], grid_px=[100, 100])
    first, second = (configurations.Block(recipe, ROOT, 3).bulk for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(configurations.Block(recipe, ROOT, 4).bulk - first).max() > 1e-5


def test_site_average_keeps_the_middle_and_has_the_symmetry() -> None:
    rng = np.random.default_rng(0)
    for size in (40, 41):
        image = rng.random((1, size, size))
        average = configurations.average_over_site(image, "4mm")
        middle = size // 2
        assert average[0, middle, middle] == pytest.approx(image[0, middle, middle])
        for row, col in ((3, 5), (5, 3), (-3, 5), (5, -3), (-3, -5)):
            assert average[0, middle + row, middle + col] == pytest.approx(average[0, middle + 3, middle + 5])


def test_changes_concern_the_atoms_they_name() -> None:
    pytest.importorskip("ase")
    recipe = load_recipe(RECIPE)
    specimen = specimens.build_specimen(recipe, ROOT)
    assert len(specimen.symbols) == 3 * 3 * 28 * 5
    for change in changes_of(recipe):
        place = (0.0, 0.0) if change.site == "Sr" else (0.5, 0.5)
        chosen = specimens.changed_atoms(specimen, change, place)
        whole = 28 if change.site == "Sr" or change.of else 56  # a Ti column holds oxygen too
        assert chosen.sum() == (change.atoms or whole), change.name
        layers = specimen.places[chosen, 2]
        assert layers.min() >= change.first_cell, change.name
        if change.atoms:
            assert layers.max() < change.first_cell + change.atoms, change.name


def test_atoms_that_are_not_there_cannot_be_changed() -> None:
    recipe = small_recipe(defects=[{"site": "Sr", "change": "vacancy", "of": "Sr", "atoms": 2, "first_cells": [3]}])
    specimen = specimens.build_specimen(recipe, ROOT)
    (change,) = changes_of(recipe)
    with pytest.raises(ValueError, match="Sr-vacancy-Sr-2-at3: 1 atoms of the column"):
        specimens.changed_atoms(specimen, change, (0.0, 0.0))


def test_other_zone_axes_are_turned_along_the_beam(tmp_path: Path) -> None:
    symbols, places, box = specimens.unit_cell(small_recipe(zone_axis=[1, 1, 0]), ROOT)
    np.testing.assert_allclose(sorted(box), sorted(3.905 * np.array([np.sqrt(2), 1, np.sqrt(0.5)])))
    titanium = places[symbols == "Ti"][0]
    np.testing.assert_allclose(titanium[:2], [0.5, 0.5])
    with pytest.raises(ValueError, match="need 90"):
        specimens.unit_cell(small_recipe(zone_axis=[1, 1, 1]), ROOT)


def test_structure_may_come_from_a_cif(tmp_path: Path) -> None:
    ase_io = pytest.importorskip("ase.io")
    ase = pytest.importorskip("ase")
    symbols, places, box = specimens.unit_cell(small_recipe(), ROOT)
    ase_io.write(tmp_path / "sto.cif", ase.Atoms(list(symbols), scaled_positions=places, cell=box, pbc=True))
    again = specimens.unit_cell(small_recipe(structure={"cif": "sto.cif"}), tmp_path)
    assert list(again[0]) == list(symbols)
    np.testing.assert_allclose(again[1], places, atol=1e-6)
    np.testing.assert_allclose(again[2], box)


def test_script_writes_a_library_that_loads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(grid_px=[96, 96], thickness_cells=[1, 2])
    (tmp_path / "tiny.recipe.yaml").write_text(yaml.safe_dump(recipe))
    threads = torch.get_num_threads()
    recipe_yaml, images, card = (str(tmp_path / f"{name}") for name in ("tiny.recipe.yaml", "t.safetensors", "t.yaml"))
    simulate_library.main(recipe_yaml, images, card, 1)
    torch.set_num_threads(threads)
    library = load_library(tmp_path / "t.yaml")
    assert library.recipe == recipe
    assert library.bulk.shape == (2, 20, 20)
    assert {name: images.shape for name, images in library.differences.items()} == {"Sr-empty": (2, 40, 40)}
    assert yaml.safe_load((tmp_path / "t.yaml").read_text())["recipe_sha256"] == recipe_sha256(recipe)
    assert "change 1 of 1: Sr-empty" in capfd.readouterr().err


def test_recipe_with_an_unknown_or_missing_key_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"colour": "green"}))
    with pytest.raises(ValueError, match=r"recipe.yaml: key 'colour' is not known"):
        load_recipe(path)
    path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if key != "seed"}))
    with pytest.raises(ValueError, match=r"recipe.yaml: key 'seed' is missing"):
        load_recipe(path)


def test_library_comes_back_as_stored_and_foreign_images_are_refused(tmp_path: Path, library: Library) -> None:
    card, images = tmp_path / "copy.yaml", tmp_path / "copy.safetensors"
    save_library(library, images, card, {"abtem": "1"})
    again = load_library(card)
    np.testing.assert_array_equal(again.bulk, library.bulk)
    assert set(again.differences) == set(library.differences)
    images.write_bytes(images.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"copy\.safetensors: sha256"):
        load_library(card)


def test_shipped_library_is_that_of_the_shipped_recipe(library: Library) -> None:
    recipe = load_recipe(RECIPE)
    assert recipe_sha256(library.recipe) == recipe_sha256(recipe)
    assert set(library.differences) == {change.name for change in changes_of(recipe)}
    assert (ROOT / "models/libraries/srtio3_001.safetensors").stat().st_size < 8e6
    assert all(np.isfinite(images).all() for images in library.differences.values())


# --- the shipped library's physics


def test_emptied_column_falls_to_the_background(library: Library, crystal: Crystal) -> None:
    for column, u in ((SR, 0.0), (TI, 0.5)):
        conditions = flat(library, blur_nm=0.04, pixel_nm=0.0125, thickness_nm=7.81)
        defect = Defect((0, 0), column, "vacancy-like", factor=0.0)
        bulk, emptied = (
            compose_scan(library, crystal, conditions, (101, 101), defects, origin_px=(50 - u * 31.24,) * 2).expected
            for defects in ((), (defect,))
        )
        background = bulk.min()
        # what the neighbours' tails leave there is of the order of the lowest intensity between columns
        assert emptied[50, 50] < 1.5 * background
        assert bulk[50, 50] > 6 * background


def test_emptied_column_takes_away_what_bulk_holds(library: Library) -> None:
    for column, place in (("Sr", 0), ("Ti", 10)):
        bulk = np.tile(library.bulk, (1, 3, 3))
        centred = np.roll(bulk, (30 - 20 - place,) * 2, axis=(1, 2))
        left = centred + library.differences[f"{column}-empty"]
        near = np.hypot(*(np.indices(left.shape[1:]) - 30)) < 4
        peaks = centred[:, 30, 30]
        assert (left[:, near].min(axis=1) > -0.05 * peaks).all()
        assert (left[:, near].max(axis=1) < 0.25 * peaks).all()


def test_defect_differences_stay_near_their_column(library: Library) -> None:
    for site in ("Sr", "Ti"):
        difference = -library.differences[f"{site}-empty"][-1].astype(float)
        assert np.unravel_index(difference.argmax(), difference.shape) == (30, 30)
        far = np.hypot(*(np.indices(difference.shape) - 30)) > 25
        assert np.abs(difference[far]).max() < 0.02 * difference.max()


def test_bulk_grows_with_thickness_and_strontium_is_brightest(library: Library) -> None:
    assert (np.diff(library.bulk.mean(axis=(1, 2))) > 0).all()
    assert (library.bulk[:, 0, 0] > 1.2 * library.bulk[:, 10, 10]).all()
    assert (library.bulk[:, 10, 10] > 2 * library.bulk[:, 10, 0]).all()


def test_more_atoms_missing_means_less_intensity(library: Library) -> None:
    for site in ("Sr", "Ti"):
        lost = [-library.differences[f"{site}-vacancy-{site}-{k}-at8"][-1].sum() for k in (1, 2, 4, 8)]
        lost.append(-library.differences[f"{site}-empty"][-1].sum())
        assert (np.diff(lost) > 0).all()


def test_thickness_is_interpolated_and_bounded(library: Library) -> None:
    middle = library.planes(library.bulk, 10.0)
    np.testing.assert_allclose(middle, (library.bulk[1] + library.bulk[2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(library.planes(library.bulk, 2.0), library.bulk[0] / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="it holds 0-28 cells"):
        library.planes(library.bulk, 29.0)


def test_displaced_column_follows_multislice_and_its_mirror(library: Library, crystal: Crystal) -> None:
    conditions = flat(library)
    for shift_pm in (10.0, 40.0):
        found = [
            difference_image(library, crystal, conditions, Defect((0, 0), SR, "displaced", shift_pm=step), 20.0)
            for step in ((shift_pm, 0.0), (-shift_pm, 0.0), (0.0, shift_pm))
        ]
        stored = library.planes(library.differences[f"Sr-displaced-{shift_pm:g}pm"], 20.0)
        np.testing.assert_allclose(found[0], stored, atol=1e-7)
        np.testing.assert_allclose(found[1], np.roll(found[0][::-1], 1, axis=0), atol=1e-7)
        np.testing.assert_allclose(found[2], found[0].T, atol=1e-7)


def test_displacement_moves_the_column_by_what_was_asked(library: Library, crystal: Crystal) -> None:
    conditions = flat(library, blur_nm=0.04, pixel_nm=0.01, thickness_nm=7.0)
    alone = [Defect((0, 0), SR, "displaced", shift_pm=shift) for shift in ((0.0, 0.0), (30.0, -15.0))]
    gone = Defect((0, 0), SR, "vacancy-like", factor=0.0)
    without = compose_scan(library, crystal, conditions, (81, 81), (gone,), origin_px=(40, 40)).expected.astype(float)
    centres = []
    for defect in alone:
        scan = compose_scan(library, crystal, conditions, (81, 81), (defect,), origin_px=(40, 40))
        column = scan.expected - without
        column[np.hypot(*(np.indices(column.shape) - 40)) > 24] = 0
        centres.append([(np.indices(column.shape)[axis] * column).sum() / column.sum() for axis in range(2)])
    np.testing.assert_allclose(np.subtract(centres[1], centres[0]), [3.0, -1.5], atol=0.3)


# --- the composer as a scan


def test_counts_are_linear_in_dose_and_poisson(library: Library, crystal: Crystal) -> None:
    conditions = library_conditions(library, jitter_pm=0.0)
    scans = [
        compose_scan(library, crystal, replace(conditions, dose_e_px=dose), (256, 256), seed=3) for dose in (500, 2000)
    ]
    np.testing.assert_allclose(scans[1].expected, 4 * scans[0].expected, rtol=1e-5)
    assert scans[1].counts.sum() / scans[0].counts.sum() == pytest.approx(4.0, rel=0.01)
    excess = (scans[1].counts - scans[1].expected) ** 2 / scans[1].expected
    assert excess.mean() == pytest.approx(1.0, abs=0.03)


def test_same_interface_and_geometry_as_the_simulator(library: Library, crystal: Crystal) -> None:
    conditions = library_conditions(
        library,
        rotation_deg=23.0,
        strain=(0.01, 0.02, 0.0, -0.015),
        drift_nm=(0.2, -0.3),
        jitter_pm=40.0,
        dose_e_px=0.0,
        thickness_gradient=(0.3, 0.2),
    )
    scans: list[Scan] = [
        simulate_scan(crystal, conditions, (200, 240), seed=8),
        compose_scan(library, crystal, conditions, (200, 240), seed=8),
    ]
    np.testing.assert_allclose(scans[0].places_px, scans[1].places_px)
    np.testing.assert_array_equal(scans[0].cells, scans[1].cells)
    one, other = (scan.expected.astype(float) for scan in scans)
    here = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert here > 0.97
    for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):  # any misplacement by a pixel would fit better than none
        assert np.corrcoef(one.ravel(), np.roll(other, step, (0, 1)).ravel())[0, 1] < here


def test_defect_is_at_its_place_whatever_the_scan(library: Library, crystal: Crystal) -> None:
    conditions = library_conditions(
        library, rotation_deg=37.0, drift_nm=(0.3, 0.2), jitter_pm=8.0, dose_e_px=0.0, pixel_nm=0.015
    )
    defect = Defect((0, 0), TI, "vacancy-like", factor=0.0)
    bulk, changed = (compose_scan(library, crystal, conditions, (200, 200), d, seed=4) for d in ((), (defect,)))
    lost = gaussian_filter((bulk.expected - changed.expected).astype(float), 2.0)
    at = (changed.cells == defect.cell).all(axis=1) & (changed.columns == TI)
    place = changed.places_px[at][0]
    assert np.abs(np.unravel_index(lost.argmax(), lost.shape) - place).max() < 1.0
    far = np.hypot(*(np.indices(lost.shape) - place[:, None, None])) > 1.6 * 0.3905 * np.sqrt(2) / 0.015 + 8
    assert np.abs(lost[far]).max() < 1e-6


def test_thickness_gradient_brightens_the_thick_side(library: Library, crystal: Crystal) -> None:
    conditions = library_conditions(library, thickness_gradient=(0.0, 0.8), dose_e_px=0.0, background=0.0)
    image = compose_scan(library, crystal, conditions, (200, 400), seed=1).expected
    assert image[:, 300:].mean() > 1.3 * image[:, :100].mean()


def test_part_of_a_column_is_part_of_its_contrast(library: Library, crystal: Crystal) -> None:
    conditions = flat(library)
    whole = difference_image(library, crystal, conditions, Defect((0, 0), SR, "x", factor=0.0), 20.0)
    third = difference_image(library, crystal, conditions, Defect((0, 0), SR, "x", factor=0.7), 20.0)
    np.testing.assert_allclose(third, 0.3 * whole, rtol=1e-6)


def test_atoms_can_be_told_and_depths_differ(library: Library, crystal: Crystal) -> None:
    conditions = flat(library)
    made = {
        depth: difference_image(
            library, crystal, conditions, AtomDefect((0, 0), SR, "lighter", of="Sr", changed=4, depth=depth), 20.0
        )
        for depth in ("top", "middle", "bottom")
    }
    for depth, first in (("top", 0), ("middle", 8), ("bottom", 16)):
        stored = library.planes(library.differences[f"Sr-vacancy-Sr-4-at{first}"], 20.0)
        np.testing.assert_array_equal(made[depth], stored)
    swapped = difference_image(library, crystal, conditions, Defect((0, 0), SR, "lighter", atoms={"Ti": 1}), 20.0)
    np.testing.assert_array_equal(swapped, library.planes(library.differences["Sr-substitute-Sr-Ti"], 20.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thickness_nm": 20.0}, "it holds 0-28 cells"),
        ({"blur_nm": 0.01}, "narrower than the probe"),
        ({"thickness_nm": 1.0}, "in 2.6 cells"),
    ],
)
def test_what_the_library_cannot_do_is_refused(
    library: Library, crystal: Crystal, change: dict[str, float], message: str
) -> None:
    defect = AtomDefect((0, 0), SR, "lighter", of="Sr", changed=4)
    conditions = replace(library_conditions(library), **change)
    with pytest.raises(ValueError, match=message):
        compose_scan(library, crystal, conditions, (64, 64), (defect,), origin_px=(32, 32))


def test_another_crystal_is_refused(library: Library, crystal: Crystal) -> None:
    with pytest.raises(ValueError, match="library srtio3_001 is of"):
        compose_scan(library, replace(crystal, a_nm=0.42), library_conditions(library), (64, 64))


def test_shift_and_blur_of_a_wave_are_exact() -> None:
    row = np.arange(40)[:, None] * np.ones((1, 40))
    wave = np.cos(2 * np.pi * 3 * row / 40)
    np.testing.assert_allclose(shifted(wave, (2.5, 0.0)), np.cos(2 * np.pi * 3 * (row - 2.5) / 40), atol=1e-12)
    smooth = blurred(wave, 20, (0.1, 0.1))  # 1.5 periods per cell
    assert smooth.shape == (120, 120)
    np.testing.assert_allclose(smooth[::3, ::3], wave * np.exp(-2 * np.pi**2 * (1.5 * 0.1) ** 2), atol=1e-12)


def test_ideal_observer_of_a_counted_case() -> None:
    mean = np.full((5, 5), 100.0)
    changed = mean.copy()
    changed[2, 2:4] += 30.0
    assert ideal_dprime(mean, changed) == pytest.approx(np.sqrt(2 * 900 / 100))


def test_four_of_twenty_atoms_are_as_detectable_as_known(library: Library, crystal: Crystal) -> None:
    conditions = library_conditions(
        library, pixel_nm=0.0125, thickness_nm=20 * 0.3905, dose_e_px=400.0, jitter_pm=0.0, background=0.0
    )
    found = []
    for column, element, uv in ((SR, "Sr", 0.0), (TI, "Ti", 0.5)):
        for depth in ("top", "middle", "bottom"):
            defect = AtomDefect((0, 0), column, "lighter", of=element, changed=4, depth=depth)
            origin = (40 - uv * 31.24,) * 2
            bulk, changed = (
                compose_scan(library, crystal, conditions, (81, 81), defects, origin_px=origin).expected
                for defects in ((), (defect,))
            )
            found.append(ideal_dprime(bulk, changed))
    print("d' of 4 of 20 atoms:", np.round(found, 2), file=sys.stderr)
    assert 2.0 < min(found) < max(found) < 12.0
    assert max(found[:3]) > max(found[3:])  # strontium is the heavier
