"""Builds sets of crops of any phase for `benchmark_crops`: `build_crops.py simulated DIR`, `build_crops.py real DIR`.

Out: bulk_train.npy, bulk_test.npy and one .npy per defect, each (N, 64, 64), float32, counts. Each crop shows one
changed column at most, anywhere within `--reach` of its middle. `simulated`: scans of SrTiO3 [001] composed from the
multislice library at 12.5 pm/px, every crop with counting noise of its own. `real`: crops of a real scan (`--scan`,
SrTiO3 [001]), one half of it for training and the other for the rest; what is changed is the image's own mean column.
`--contrast 0.3` gives 30 % of every change. The same bytes every time.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from oddlattice.benchmark.crops.sets import SIDE_PX
from oddlattice.benchmark.fields import compose_field
from oddlattice.benchmark.kinds import published_kinds
from oddlattice.crystal import Crystal, load_crystal
from oddlattice.simulate.columnwise import Conditions
from oddlattice.simulate.compose import library_conditions
from oddlattice.simulate.library import Library, load_library
from support.real_columns import RealScan, change_at, lay_on_lattice

Float = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[1]
CRYSTAL, LIBRARY = ROOT / "models/srtio3_001/crystal.yaml", ROOT / "models/libraries/srtio3_001.yaml"
SCAN = ROOT.parent / "shared/real/images/Acquisition_18.emd"
FIELD_PX = 640
RIM_PX = 2  # crops keep so far from the border of a scan
DRAWS = 4  # crops about one changed column of one field
MOVED_PM = 115.0  # 0.29 cell, as published
REAL_CHANGES: dict[str, tuple[str, dict[str, str | float]]] = {
    "sr_empty": ("Sr", {"to": 0.0}),
    "ti_empty": ("Ti", {"to": 0.0}),
    "ti_on_sr": ("Sr", {"to": "Ti"}),
    "sr_on_ti": ("Ti", {"to": "Sr"}),
    "sr_moved": ("Sr", {"to": 1.0, "moved_pm": MOVED_PM}),
    "ti_moved": ("Ti", {"to": 1.0, "moved_pm": MOVED_PM}),
}


def file_name(kind: str) -> str:
    """`Ti on Sr, all` -> `ti_on_sr`; `Sr moved 115 pm` -> `sr_moved`."""
    words = kind.replace(",", "").replace(" all", "").split()
    return "_".join(words[:2] if "moved" in words or "empty" in words else words).lower()


def corner_about(
    place: Array, shape: tuple[int, ...], reach_px: float, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """First pixel of a crop that shows `place` at most `reach_px` from its middle along rows and cols."""
    at = np.rint(place - rng.uniform(-reach_px, reach_px, 2) - (SIDE_PX - 1) / 2).astype(int)
    return np.clip(at, RIM_PX, np.array(shape) - SIDE_PX - RIM_PX)


def crop(image: Array, corner: npt.NDArray[np.intp]) -> Array:
    """64 x 64 px from a corner on."""
    return image[corner[0] : corner[0] + SIDE_PX, corner[1] : corner[1] + SIDE_PX]


# ---- simulated


def conditions_of(
    library: Library, dose: float, jitter_pm: float, rng: np.random.Generator, turn_deg: float
) -> Conditions:
    """Conditions of one scan: thickness and its gradient differ a little from scan to scan."""
    slope = rng.uniform(-0.1, 0.1, 2)
    return library_conditions(
        library,
        thickness_nm=float(rng.uniform(18, 22)) * library.cell_nm[2],
        thickness_gradient=(float(slope[0]), float(slope[1])),
        dose_e_px=dose,
        jitter_pm=jitter_pm,
        rotation_deg=turn_deg,
        contamination=0.1,
    )


def simulated_sets(
    n: int, dose: float, jitter_pm: float, contrast: float, reach_px: float, turn_deg: float, seed: int
) -> dict[str, Float]:
    """All sets, from composed scans; no scan serves two of bulk_train, bulk_test and the defects."""
    library, crystal = load_library(LIBRARY), load_crystal(CRYSTAL)
    shape = (FIELD_PX, FIELD_PX)

    def field_of(number: int, kinds: tuple[int, ...] | None) -> tuple[Array, Array, list[str]]:
        rng = np.random.default_rng([seed, number])
        conditions = conditions_of(library, dose, jitter_pm, rng, turn_deg)
        own_seed = int(rng.integers(2**31))
        chosen = () if kinds is None else tuple(published_kinds(library, crystal)[k] for k in kinds)
        field = compose_field(library, crystal, conditions, shape, chosen, own_seed, number)
        # the same draws without the defects, to scale what they change
        bulk = compose_field(library, crystal, conditions, shape, (), own_seed).scan.expected if chosen else None
        expected = field.scan.expected.astype(np.float64)
        if bulk is not None:
            expected = bulk + contrast * (expected - bulk)
        return expected, field.places_px, [kind.name for kind in field.kinds]

    sets: dict[str, list[Float]] = {}
    for number, name in enumerate(("bulk_train", "bulk_test")):
        fields = min(max(n // 20, 2), 10)
        for k in range(fields):
            expected, _, _ = field_of(1000 * (number + 1) + k, None)
            rng = np.random.default_rng([seed, 9, number, k])
            for corner in rng.integers(RIM_PX, FIELD_PX - SIDE_PX - RIM_PX, (-(-n // fields), 2)):
                sets.setdefault(name, []).append(rng.poisson(crop(expected, corner)).astype(np.float32))
    kinds = published_kinds(library, crystal)
    names = [file_name(kind.name) for kind in kinds]
    number = 0
    while any(len(sets.get(name, [])) < n for name in names):
        expected, places, found = field_of(number, tuple(range(len(kinds))))
        rng = np.random.default_rng([seed, 8, number])
        number += 1
        for place, kind in zip(places, found, strict=True):
            for _ in range(DRAWS):
                part = crop(expected, corner_about(place, shape, reach_px, rng))
                sets.setdefault(file_name(kind), []).append(rng.poisson(part).astype(np.float32))
    return {name: np.stack(crops[:n]) for name, crops in sets.items()}


# ---- real


def real_sets(
    scan: RealScan, crystal: Crystal, n: int, contrast: float, reach_px: float, seed: int
) -> dict[str, Float]:
    """All sets from one scan: its upper half for training, its lower half for the rest."""
    rng = np.random.default_rng(seed)
    middle = len(scan.counts) // 2

    def anywhere(first: int, last: int) -> Float:
        rows = rng.integers(first, last - SIDE_PX, n)
        cols = rng.integers(RIM_PX, scan.counts.shape[1] - SIDE_PX - RIM_PX, n)
        return np.stack([crop(scan.counts, np.array(at)) for at in zip(rows, cols, strict=True)]).astype(np.float32)

    sets = {"bulk_train": anywhere(RIM_PX, middle), "bulk_test": anywhere(middle, len(scan.counts) - RIM_PX)}
    lower = scan.counts[middle:]
    for name, (site, change) in REAL_CHANGES.items():
        places = scan.places_px[site] - (middle, 0)
        inside = (places > SIDE_PX / 2) & (places < np.array(lower.shape) - SIDE_PX / 2)
        usable = np.flatnonzero(inside.all(1))
        order = np.concatenate([rng.permutation(usable) for _ in range(-(-n // len(usable)))])[:n]
        crops = []
        for number in order:
            angle = float(rng.uniform(0, 2 * np.pi))
            (rows, cols), added = change_at(scan, crystal, site, int(number), angle=angle, **change)  # type: ignore[arg-type]
            image = np.zeros((added.shape[0] + 4 * SIDE_PX, added.shape[1] + 4 * SIDE_PX))
            image[2 * SIDE_PX : -2 * SIDE_PX, 2 * SIDE_PX : -2 * SIDE_PX] = contrast * added
            corner = corner_about(places[number], lower.shape, reach_px, rng)
            offset = corner - (rows.start - middle, cols.start) + 2 * SIDE_PX
            crops.append(crop(lower, corner) + crop(image, offset))
        sets[name] = np.stack(crops).astype(np.float32)
    return sets


def as_published(crops: Float) -> Float:
    """Blurred by 2 px and divided by their own maximum, one by one, as the published data are."""
    smooth = gaussian_filter(crops, (0, 2, 2))
    return np.asarray(smooth / smooth.max(axis=(1, 2), keepdims=True), dtype=np.float32)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", choices=("simulated", "real"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=1000, help="crops of a set")
    parser.add_argument("--contrast", type=float, default=1.0, help="part of every change")
    parser.add_argument("--reach", type=float, default=24.0, help="farthest the changed column is from the middle [px]")
    parser.add_argument("--dose", type=float, default=400.0, help="simulated: electrons per pixel")
    parser.add_argument("--jitter", type=float, default=0.0, help="simulated: rms shift of scan rows [pm]")
    parser.add_argument("--turn", type=float, default=11.0, help="simulated: rotation of the crystal [deg]")
    parser.add_argument("--scan", type=Path, default=SCAN, help="real: an NCEM .emd of SrTiO3 [001]")
    parser.add_argument("--published", action="store_true", help="blur and scale every crop by itself, as published")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.source == "simulated":
        sets = simulated_sets(given.n, given.dose, given.jitter, given.contrast, given.reach, given.turn, given.seed)
    else:
        if not given.scan.is_file():
            parser.error(f"{given.scan}: found no such file; needed a scan of SrTiO3 [001] as NCEM .emd")
        crystal = load_crystal(CRYSTAL)
        sets = real_sets(lay_on_lattice(given.scan, crystal), crystal, given.n, given.contrast, given.reach, given.seed)
    given.folder.mkdir(parents=True, exist_ok=True)
    finish: Callable[[Float], Float] = as_published if given.published else np.asarray
    for name, crops in sets.items():
        np.save(given.folder / f"{name}.npy", finish(crops))
        print(f"{name}: {crops.shape}, mean {crops.mean():.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
