"""Which of several crystals an image shows, and where its cell begins: judged by the mean cell."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from oddlattice.crystal import Crystal
from oddlattice.lattice.flattener import Flattener
from oddlattice.lattice.fourier import Match, describe, matches
from oddlattice.lattice.frame import Frame
from oddlattice.lattice.mean_cell import MeanCell, measure_mean_cell
from oddlattice.lattice.origin import OriginFit, fit_origin
from oddlattice.numerics.arrays import Array, Float
from oddlattice.run.stage_settings import TileSettings

#: Misfit of a mean cell (n_u, n_v), mean 1 and the crystal's column at its corner, to the model of a crystal, over the
#: model's limit; the last argument is the ratio of the principal stretches between crystal and image.
Judge = Callable[[Crystal, Array, float], float]


class NoModelError(ValueError):
    """The lattice is none of the crystals'; the message says what was found."""

    def __init__(self, message: str, frame: Frame | None = None) -> None:
        super().__init__(message)
        self.frame = frame


def choose_match(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    found: list[Match],
    content_minimum: float = 0.0,
    judge: Judge | None = None,
) -> tuple[Match, OriginFit, MeanCell, list[tuple[Match, OriginFit]]]:
    """The match whose crystal explains the mean cell best; among equals the least stretched and least rotated.

    Of several crystals whose best match explains enough, the one that the judge finds least off.
    """
    sublattices: dict[tuple[int, ...], MeanCell] = {}
    bases = {_sublattice(match.cell): match.cell for match in found}
    means = measure_mean_cell(image, flattener, frame, list(bases.values()))
    sublattices = dict(zip(bases, means, strict=True))
    tried = []
    for match in found:
        key = _sublattice(match.cell)
        change = np.rint(match.cell @ np.linalg.inv(bases[key])).astype(np.int64)
        mean = _in_basis(sublattices[key], change)
        tried.append((match, fit_origin(mean, match.crystal), mean))

    def merit(entry: tuple[Match, OriginFit, MeanCell]) -> tuple[float, float, float]:
        match, origin_fit, _ = entry
        angle = abs(rotation_deg(match.cell @ frame.vectors_px, match.crystal))
        return (round(origin_fit.explained, 2), -round(match.stretch, 2), -angle)

    best = max(tried, key=merit)
    if judge is not None:
        of_each = [max((e for e in tried if e[0].crystal is c), key=merit) for c in _each(e[0].crystal for e in tried)]
        able = [entry for entry in of_each if entry[1].explained >= content_minimum]
        off = [
            judge(m.crystal, mean.moved(origin_fit.origin).cell(m.crystal.px_per_cell), m.stretch)
            for m, origin_fit, mean in able
        ]
        best = able[int(np.argmin(off))] if able else best
    return (*best, [(match, origin_fit) for match, origin_fit, _ in tried])


def _each(crystals: Iterable[Crystal]) -> list[Crystal]:
    """The crystals without repetition, told apart as objects: two models may be of equal crystals."""
    return list({id(crystal): crystal for crystal in crystals}.values())


def _sublattice(cell: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Hermite normal form: the same for all bases of one sublattice."""
    (a, b), (c, d) = (tuple(int(x) for x in row) for row in cell)
    while c:
        quotient = a // c
        a, b, c, d = c, d, a - quotient * c, b - quotient * d
    if a < 0:
        a, b = -a, -b
    d = abs(d)
    return (a, b % d, 0, d)


def _in_basis(mean: MeanCell, change: npt.NDArray[np.int64]) -> MeanCell:
    """A mean cell counted in another basis of the same lattice: h' = change h."""
    orders = mean.orders @ change.T
    flip = (orders[:, 0] < 0) | ((orders[:, 0] == 0) & (orders[:, 1] < 0))
    orders = np.where(flip[:, None], -orders, orders)
    return MeanCell(orders, np.where(flip, np.conj(mean.amplitudes), mean.amplitudes), mean.noise)


def rotation_deg(vectors_px: Array, crystal: Crystal) -> float:
    """Rotation from the crystal's own vectors to these, from +row towards +col [deg], in (-180, 180]."""
    deformation = np.linalg.inv(crystal.vectors_nm) @ vectors_px
    left, _, right = np.linalg.svd(deformation)
    turn = left @ right
    return float(np.degrees(np.arctan2(turn[0, 1], turn[0, 0])))


def on_a_crystal(
    image: Float,
    flattener: Flattener,
    frame: Frame,
    crystals: Sequence[Crystal],
    pixel_nm: tuple[float, float] | None,
    settings: TileSettings,
    judge: Judge | None,
) -> tuple[Frame, Crystal, OriginFit, MeanCell]:
    """The frame in the cell of the crystal that fits, this crystal, how it fits, and the mean cell from its corner.

    Raises
    ------
    NoModelError
        The lattice is none of the crystals'.
    """
    found = [
        match
        for crystal in crystals
        for match in matches(
            frame.vectors_px,
            crystal,
            None if crystal.nominal else pixel_nm,
            settings.length_tolerance,
            settings.strain_tolerance,
        )
    ]
    if not found:
        raise NoModelError(no_model_sentence(frame, pixel_nm), frame)
    match, origin_fit, mean_cell, _ = choose_match(image, flattener, frame, found, settings.content_minimum, judge)
    if origin_fit.explained < settings.content_minimum:
        raise NoModelError(
            f"{no_model_sentence(frame, pixel_nm)}; the cell of {match.crystal.name} would fit in size, "
            f"but its columns explain only {origin_fit.explained:.0%} of the mean cell",
            frame,
        )
    frame = frame.in_cell(match.cell).moved(origin_fit.origin)
    return frame, match.crystal, origin_fit, mean_cell.moved(origin_fit.origin)


def no_model_sentence(frame: Frame, pixel_nm: tuple[float, float] | None) -> str:
    """What lattice was found, in px and with the header's size in nm."""
    a, b, gamma = describe(frame.vectors_px)
    sentence = f"no model for this lattice: a = {a:.2f} px, b = {b:.2f} px, gamma = {gamma:.1f} deg"
    if pixel_nm is None:
        return f"{sentence} (the file states no pixel size: give it one, or train a model from this image's own bulk)"
    a_nm, b_nm, _ = describe(frame.vectors_px * np.array(pixel_nm))
    return f"{sentence} ({a_nm:.4f} nm, {b_nm:.4f} nm by the header)"
