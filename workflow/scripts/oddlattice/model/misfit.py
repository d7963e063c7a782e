"""How far an image's mean cell is off what a model knows of bulk."""

import numpy as np
import numpy.typing as npt

from oddlattice.lattice.fourier import DISTORTED

DISTORTED_PART = 0.4  # of the misfit limit is left to a distorted cell


def misfit(seen: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> float:
    """How badly the model's mean cell fits the image's: rms difference over rms contrast (0: perfect, 1: useless)."""
    return float(np.sqrt(np.mean((seen - predicted) ** 2)) / max(float(seen.std()), 1e-9))


def share_of_limit(stretch: float) -> float:
    """Part of the misfit limit that holds for a cell stretched by `stretch` (ratio of the principal stretches).

    A distorted cell may be the scan's doing, and a mean cell that the model does not quite know the microscope's; both
    together are another crystal, so a distorted cell leaves only a part of the limit.
    """
    return DISTORTED_PART if stretch > DISTORTED else 1.0


def objection(name: str, off: float, stretch: float, limit: float) -> str:
    """Why an image is not of the model's crystal, or ""."""
    limit *= share_of_limit(stretch)
    if off <= limit:
        return ""
    also = f" and the cell is distorted by {100 * (stretch - 1):.0f} %" if stretch > DISTORTED else ""
    found = f"its mean cell is {100 * off:.0f} % off what {name} knows (limit {100 * limit:.0f} %){also}"
    return f"no model for this crystal: {found}; train one from this image's own bulk"
