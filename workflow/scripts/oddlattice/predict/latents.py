"""Latents smoothed over the field: conditions vary slowly."""

import numpy as np
import torch

from oddlattice.numerics.arrays import Float, Mask
from oddlattice.numerics.local_plane import Planes
from oddlattice.numerics.medians import median
from oddlattice.predict.gpu import OnDevice, median_of


def smooth_latents(latents: Float, mask: Mask, width: float) -> Float:
    """The conditions of the microscope and the thickness vary slowly: so do their latents.

    Every patch's posterior mean is a noisy reading of them, and a defect's patch a wrong one. A local line through the
    readings, with those beyond three robust standard deviations clipped, is both quieter and blind to single defects.

    Parameters
    ----------
    latents : ndarray of shape (U, V, n), float32
    mask : ndarray of shape (U, V), uint8
        Cells that were read; others are told by them.
    width : float
        Width of the neighbourhood [cells].
    """
    good = mask.astype(bool)
    planes = Planes(good.astype(np.float64), width)
    layers = latents.transpose(2, 0, 1).astype(np.float64)
    smooth = planes.smooth(layers)
    off = (layers - smooth)[:, good]
    spread = 3 * 1.4826 * median(np.abs(off - median(off, keepdims=True)), keepdims=True) + 1e-9
    layers[:, good] = smooth[:, good] + np.clip(off, -spread, spread)
    return planes.smooth(layers).transpose(1, 2, 0).astype(np.float32)


def smooth_latents_on_gpu(latents: torch.Tensor, there: OnDevice) -> torch.Tensor:
    """`smooth_latents` where they are; (U, V, n) to (U, V, n), float32."""
    layers = latents.permute(2, 0, 1).double()
    smooth = there.of_cells(there.smooth(layers))
    off = there.of_cells(layers) - smooth
    spread = 3 * 1.4826 * median_of((off - median_of(off)).abs()) + 1e-9
    clipped = there.laid_out(smooth + torch.minimum(torch.maximum(off, -spread), spread))
    return there.smooth(clipped).permute(1, 2, 0).float().contiguous()
