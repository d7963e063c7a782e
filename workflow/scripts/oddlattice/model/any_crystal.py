"""Training patches for a network of every crystal: random motifs in random cells under conditions that vary.

Fields are made beside the network, on a GPU where it is on one: columns of random places, brightness, width and tails,
whose thickness, width, tilt and ground vary slowly, in wedges and in steps; dirt; populations of odd columns and single
defects in the input, bulk as the target.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad, unfold

from oddlattice.model.conditional import CENTRE_PX, PATCH_PX, RIM_PX

FIELD_PX = 180  # about: whole cells
CELL_PX = (10, 32)  # sides of cells
MOST_COLUMNS = 4
APART_PX = 4.0  # between columns
LEAST_VARIANCE = 1e-3  # of the noise in the loss: a prediction better than that is good enough


@dataclass(frozen=True)
class ConditionalBatch:
    """Patches for one step; see `conditional.conditional_loss`."""

    patch: Tensor
    mean: Tensor
    target: Tensor
    variance: Tensor


class Draw:
    """Random numbers on a device."""

    def __init__(self, seed: int, device: str) -> None:
        self.device, self.generator = device, torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def chance(self, part: float, *shape: int) -> Tensor:
        """1 in about `part` of the places, else 0."""
        return (self.uniform(*shape) < part).float()

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator, device=self.device))


def motifs(draw: Draw, n: int, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places (n, columns, 2) [px] in the cell, and brightness (n, columns), 0 for a column that is not there.

    A column that would stand too near to an earlier one is left out.
    """
    side = torch.tensor(sides, dtype=torch.float32, device=draw.device)
    places = draw.uniform(n, MOST_COLUMNS, 2)
    bright = draw.uniform(n, MOST_COLUMNS, low=0.25)
    bright[:, 0] = 1.0
    wanted = draw.uniform(n, low=0.5, high=MOST_COLUMNS + 0.5).round()
    for k in range(1, MOST_COLUMNS):
        off = places[:, k, None] - places[:, :k]
        near = ((off - off.round()) * side).norm(dim=-1) < APART_PX
        bright[:, k] *= ~(near & (bright[:, :k] > 0)).any(1) & (k < wanted)
    return places * side, bright


def slow(draw: Draw, n: int, at: Tensor) -> Tensor:
    """Random fields (n, R, C) of about unit size, quadratic in the place `at` (2, R, C), which runs from -1 to 1."""
    u, v = at
    weights = draw.normal(n, 4, 1, 1) * torch.tensor([1.0, 1.0, 0.7, 0.7], device=draw.device)[:, None, None]
    return (weights * torch.stack([u, v, u * v, u**2 + v**2 - 0.6])).sum(1)


@dataclass(frozen=True)
class FieldConditions:
    """Conditions at every pixel of n fields, each (n, R, C): log thickness, width, bend (n, 2, R, C) [px], dirt."""

    thickness: Tensor
    width: Tensor
    bend: Tensor
    dirt: Tensor


def draw_conditions(draw: Draw, n: int, at: Tensor) -> FieldConditions:
    """Conditions that vary slowly, by a wedge or a step, and dirt, each in a part of the fields."""
    steep = draw.uniform(n, 1, 1, high=1.6) * draw.chance(0.8, n, 1, 1)
    thickness = 0.25 * steep * slow(draw, n, at)
    angle = draw.uniform(n, 1, 1, high=6.2832)
    along = at[0] * angle.cos() + at[1] * angle.sin()
    wedge = draw.chance(0.3, n, 1, 1) * draw.uniform(n, 1, 1, high=0.6) * along
    edge = draw.uniform(n, 1, 1, low=-0.6, high=0.6)
    step = draw.chance(0.2, n, 1, 1) * draw.uniform(n, 1, 1, low=-0.7, high=0.5) * (along > edge)
    width = torch.exp(0.06 * steep * slow(draw, n, at)) * (
        1 + draw.chance(0.3, n, 1, 1) * draw.uniform(n, 1, 1, high=0.5) * (along + 1) / 2
    )
    bend = torch.stack([slow(draw, n, at), slow(draw, n, at)], 1) * draw.uniform(n, 1, 1, 1, high=1.0)
    bend = bend * draw.chance(0.4, n, 1, 1, 1)
    centre, reach = draw.uniform(n, 2, 1, 1, low=-0.8, high=0.8), draw.uniform(n, 1, 1, low=0.2, high=0.8)
    blob = torch.exp(-((at - centre) ** 2).sum(1) / (2 * reach**2))
    dirt = draw.chance(0.3, n, 1, 1) * draw.uniform(n, 1, 1, high=3.0) * blob
    return FieldConditions((thickness + wedge + step).clamp(-1.0, 0.7), width.clamp(0.75, 1.8), bend, dirt)


def odd_factors(draw: Draw, n: int, cells: tuple[int, int]) -> Tensor:
    """Factors (n, columns, U, V) on the brightness of single columns: a population of one site, and single defects."""
    shape = (n, MOST_COLUMNS, *cells)
    site = torch.nn.functional.one_hot(
        torch.randint(0, MOST_COLUMNS, (n,), generator=draw.generator, device=draw.device), MOST_COLUMNS
    )
    part = draw.chance(0.5, n, 1, 1, 1) * draw.uniform(n, 1, 1, 1, high=0.4)
    in_it = (draw.uniform(*shape) < part) * site[:, :, None, None]
    sign = 2 * draw.chance(0.5, n, 1, 1, 1) - 1
    population = 1 + in_it * sign * draw.uniform(n, 1, 1, 1, high=0.6) * draw.uniform(*shape, low=0.6)
    single = draw.chance(0.05, *shape) * draw.chance(0.6, n, 1, 1, 1)
    return torch.where(single > 0, draw.uniform(*shape, high=2.0), population)


def images_of(draw: Draw, n: int, sides: tuple[int, int], cells: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Expected images (n, R, C) with and without odd columns."""
    rows, cols = cells[0] * sides[0], cells[1] * sides[1]
    line = [(torch.arange(k, device=draw.device) + 0.5) for k in (rows, cols)]
    at = torch.stack(torch.meshgrid(*[2 * x / len(x) - 1 for x in line], indexing="ij"))
    conditions, factors = draw_conditions(draw, n, at), odd_factors(draw, n, cells)
    places, bright = motifs(draw, n, sides)
    grows = draw.uniform(n, MOST_COLUMNS, low=0.5, high=1.4)
    channels = draw.uniform(n, MOST_COLUMNS, high=0.5)
    size = draw.uniform(n, 1, 1, low=1.5, high=3.4) * conditions.width
    stretch, shear = torch.exp(0.25 * draw.normal(n, 1, 1)), draw.uniform(n, 1, 1, low=-0.5, high=0.5)
    bend_u, bend_v = conditions.bend[:, 0], conditions.bend[:, 1]
    s_uu, s_vv = (size * stretch) ** 2 + bend_u**2, (size / stretch) ** 2 + bend_v**2
    s_uv = shear * size**2 + bend_u * bend_v
    determinant = s_uu * s_vv - s_uv**2
    tail, wider = draw.uniform(n, 1, 1, high=0.25), draw.uniform(n, 1, 1, low=1.8, high=3.0)
    tilt = 0.1 * draw.normal(n, 2, 1, 1) * draw.chance(0.5, n, 1, 1, 1)
    lost = (bend_u**2 + bend_v**2) / size**2
    row, col = (torch.arange(k, device=draw.device) for k in (rows, cols))
    odd, bulk = torch.zeros(n, rows, cols, device=draw.device), torch.zeros(n, rows, cols, device=draw.device)
    around = pad(factors, (1, 1, 1, 1), mode="replicate")
    for c in range(MOST_COLUMNS):
        height = bright[:, c, None, None] * torch.exp(
            grows[:, c, None, None] * conditions.thickness - channels[:, c, None, None] * lost
        )
        for k in (-1, 0, 1):
            for j in (-1, 0, 1):
                du = (line[0] % sides[0])[:, None] - places[:, c, 0, None, None] - k * sides[0]
                dv = (line[1] % sides[1])[None, :] - places[:, c, 1, None, None] - j * sides[1]
                square = (s_vv * du**2 - 2 * s_uv * du * dv + s_uu * dv**2) / determinant
                shape = torch.exp(-square / 2) + tail * torch.exp(-square / (2 * wider**2))
                shape = height * shape * (1 + (tilt[:, 0] * du + tilt[:, 1] * dv) / size).clamp(0.3, 1.7)
                of_cell = around[:, c, 1 + k : 1 + k + cells[0], 1 + j : 1 + j + cells[1]]
                bulk += shape
                odd += shape * of_cell[:, (row // sides[0])[:, None], (col // sides[1])[None, :]]
    ground = bulk.mean((1, 2), keepdim=True) * draw.uniform(n, 1, 1, low=0.03, high=0.7) * (1 + conditions.dirt)
    return odd + ground, bulk + ground


def gaussian_matrix(n: int, sigma: float, device: str) -> Tensor:
    """Gaussian weights (n, n) whose rows add up to 1."""
    line = torch.arange(n, device=device, dtype=torch.float32)
    weights = torch.exp(-((line[:, None] - line) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


def draw_batch(draw: Draw, fields: int) -> ConditionalBatch:
    """Patches of `fields` fields, all of the same cell sides."""
    square = draw.whole(0, 1) == 1  # half of the batches: the cell of two columns on its diagonal
    sides = (20, 20) if square else (draw.whole(*CELL_PX), draw.whole(*CELL_PX))
    span = FIELD_PX if draw.whole(0, 1) else 130
    cells = (max(span // sides[0], 3), max(span // sides[1], 3))
    seen, bulk = images_of(draw, fields, sides, cells)
    dose = torch.exp(draw.uniform(fields, 1, 1, low=2.3, high=7.3)) / bulk.mean((1, 2), keepdim=True)
    counts = torch.poisson(seen * dose, generator=draw.generator) / dose
    by_cell = counts.view(fields, cells[0], sides[0], cells[1], sides[1])
    down, across = (gaussian_matrix(k, 3.0, draw.device) for k in cells)
    means = down @ by_cell.mean((2, 4)) @ across.T
    local = interpolate(means[:, None], size=counts.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    tiles, bulk = counts / local, bulk / local
    cell = tiles.view(by_cell.shape).permute(0, 2, 4, 1, 3).flatten(3).median(dim=3).values
    contrast = cell.std((1, 2), keepdim=True) + 1e-6
    laid = cell.repeat(1, *cells)
    variance = (1 / (dose * local.mean((1, 2), keepdim=True)) / contrast**2 + LEAST_VARIANCE)[:, :, :, None]
    tiles, laid, bulk = ((x - 1) / contrast for x in (tiles, laid, bulk))
    places = [s // CENTRE_PX for s in tiles.shape[1:]]
    patch, mean = (patches_on_grid(x, places) for x in (tiles, laid))
    used = bulk[:, : places[0] * CENTRE_PX, : places[1] * CENTRE_PX]
    target = unfold(used[:, None], CENTRE_PX, stride=CENTRE_PX).transpose(1, 2).reshape(-1, 1, CENTRE_PX, CENTRE_PX)
    return ConditionalBatch(patch, mean, target, variance.repeat_interleave(places[0] * places[1], 0))


def patches_on_grid(images: Tensor, places: list[int]) -> Tensor:
    """Patches (n * places, 1, 40, 40) of images (n, R, C) about the middles of squares of 20 px, rim mirrored."""
    wide = pad(images[:, None], (RIM_PX, RIM_PX, RIM_PX, RIM_PX), mode="reflect")
    wide = wide[:, :, : places[0] * CENTRE_PX + 2 * RIM_PX, : places[1] * CENTRE_PX + 2 * RIM_PX]
    return unfold(wide, PATCH_PX, stride=CENTRE_PX).transpose(1, 2).reshape(-1, 1, PATCH_PX, PATCH_PX)


def conditional_batches(fields: int, seed: int, device: str = "cpu") -> Iterator[ConditionalBatch]:
    """Endless batches of the patches of `fields` fields."""
    draw = Draw(seed, device)
    while True:
        yield draw_batch(draw, fields)
