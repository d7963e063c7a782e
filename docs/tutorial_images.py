"""Makes the images of the tutorial "your crystal": `python docs/tutorial_images.py FOLDER`.

Six scans of a monolayer of MoS2 as HyperSpy files, three as grown and three after annealing, which loses sulphur. They
are simulated column by column: each has its own rotation, dose, jitter and dirt. The same bytes of data every time.
"""

import os
import sys
from pathlib import Path

import hyperspy.api as hs
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from oddlattice.crystal import Column, Crystal  # noqa: E402
from oddlattice.simulate.columnwise import Conditions, Defect, Scan, simulate_scan  # noqa: E402

S2 = 1  # the number of the column in the cell
SIDE_PX = 512
PIXEL_NM = 0.0125
EMPTIED = {"as grown": 0.02, "annealed": 0.06}  # part of the S2 columns that lost one or both atoms
TAKEN = 1_790_000_000  # 2026-09-21: long ago, so that no file waits for being written to the end
MOS2 = Crystal(
    "mos2", 0.316, 0.316, 120.0, 0.65,
    (Column("Mo", 0.0, 0.0, {"Mo": 1}, 0.007, True), Column("S2", 1 / 3, 2 / 3, {"S": 2}, 0.009, True)),
)  # fmt: skip


def vacancies(bulk: Scan, part: float, rng: np.random.Generator) -> tuple[Defect, ...]:
    """Draw the S2 columns of a scan that lost something: three in four one atom, the others both."""
    cells = bulk.cells[bulk.columns == S2]
    chosen = rng.choice(len(cells), round(part * len(cells)), replace=False)
    return tuple(
        Defect((int(u), int(v)), S2, "vacancy-like", factor=0.5 if n % 4 else 0.0)
        for n, (u, v) in enumerate(cells[chosen])
    )


def main(folder: Path) -> None:
    """Write the six files below `folder`."""
    for number, (session, part) in enumerate([item for item in EMPTIED.items() for _ in range(3)]):
        rng = np.random.default_rng(number)
        conditions = Conditions(
            pixel_nm=PIXEL_NM,
            rotation_deg=11.0 + 7.5 * number,
            thickness_nm=0.65,
            dose_e_px=float(rng.uniform(6e4, 9e4)),
            background=0.002,
            contamination=0.2,
            drift_nm=(0.03, 0.02),
        )
        bulk = simulate_scan(MOS2, conditions, (SIDE_PX, SIDE_PX), seed=number)
        scan = simulate_scan(MOS2, conditions, (SIDE_PX, SIDE_PX), vacancies(bulk, part, rng), seed=number)
        axes = [{"name": name, "size": SIDE_PX, "scale": PIXEL_NM, "units": "nm"} for name in ("y", "x")]
        signal = hs.signals.Signal2D(scan.counts.astype(np.uint16), axes=axes)
        signal.metadata.General.title = "HAADF"
        path = folder / session / f"scan {number % 3 + 1}.hspy"
        path.parent.mkdir(parents=True, exist_ok=True)
        signal.save(path, overwrite=True)
        os.utime(path, (TAKEN + 600 * number,) * 2)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/tutorial_images.py FOLDER")
    main(Path(sys.argv[1]))
