"""The networks' activation: GELU in its tanh form."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

SLOPE, CUBIC = 1.5957691216057308, 0.044715  # 2 sqrt(2 / pi), and the weight of the cube


class TanhGELU(nn.Module):
    """GELU in its tanh form (Hendrycks and Gimpel 2016, doi:10.48550/arXiv.1606.08415).

    Where nothing is learnt, on a processor, as x sigmoid(2 y) for 0.5 x (1 + tanh(y)): the same, at a third of the
    time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The activation of each element."""
        return activated(x)


def activated(x: Tensor) -> Tensor:
    """GELU of each element."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return gelu(x, approximate="tanh")
    exact = x.float()
    steep = (exact * exact).mul_(SLOPE * CUBIC).add_(SLOPE).mul_(exact).sigmoid_()
    return steep.mul_(exact).to(x.dtype)
