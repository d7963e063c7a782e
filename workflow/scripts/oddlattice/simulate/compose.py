"""Scans composed from a multislice library, behind the simulator's interface: `compose_scan`.

The periodic bulk cell is laid under the scan, interpolated in place and thickness; the difference of every defect is
added at its column; noise is drawn last. Against `simulate.simulate_scan`: intensities are the library's own
(`tail_fraction` plays no part), cross-talk and depth are in it, and defects may be told by atoms (`AtomDefect`).
The differences of neighbouring defects are summed, as if each did not know of the other.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates, spline_filter

from oddlattice.crystal import Crystal
from oddlattice.numerics.arrays import Array
from oddlattice.simulate.columnwise import Conditions, Defect, Scan, cells_over, lattice_vectors_px, smooth_field
from oddlattice.simulate.library import Change, Library

FINER = 3  # upsampling of the library's images before they are interpolated by cubic splines
RIM_CELLS = 0.25  # width over which a difference fades out at the rim of its window
DEPTHS = ("top", "middle", "bottom")


@dataclass(frozen=True)
class AtomDefect(Defect):
    """A column with some of its atoms changed.

    Attributes
    ----------
    of, by : str
        Element taken out, and the one put in; `by` is "" for vacancies.
    changed : int
        Number of atoms; 0 for all.
    depth : str
        Where in the column: ``top`` (where the beam enters), ``middle`` or ``bottom``.
    """

    of: str = ""
    by: str = ""
    changed: int = 0
    depth: str = "middle"


def library_conditions(library: Library, **changes: Any) -> Conditions:
    """Conditions of a scan with the library's own probe and source size, at half its thickness."""
    blur_nm = float(np.hypot(library.probe_rms_nm, library.recipe["microscope"]["source_rms_nm"]))
    thickness_nm = float(library.thickness_cells[-1]) / 2 * library.cell_nm[2]
    return Conditions(**({"blur_nm": blur_nm, "thickness_nm": thickness_nm, "tail_fraction": 0.0} | changes))


def find_change(library: Library, defect: AtomDefect, site: str, thickness_cells: float) -> Change:
    """The library's change that a defect asks for; of several depths the one that fits the thickness best.

    Raises
    ------
    ValueError
        If the library has none, or the specimen is too thin for it.
    """
    kind = "substitute" if defect.by else "vacancy"
    if defect.depth not in DEPTHS:
        raise ValueError(f"depth {defect.depth!r}; need one of {', '.join(DEPTHS)}")
    fitting = [
        change
        for change in library.changes.values()
        if (change.site, change.change, change.of, change.by, change.atoms)
        == (site, kind, defect.of, defect.by, defect.changed)
        and change.first_cell + change.atoms <= thickness_cells + 1e-9
    ]
    if not fitting:
        wanted = f"{defect.changed or 'all'} of {defect.of!r} by {defect.by!r} on {site}"
        raise ValueError(f"library {library.recipe['name']}: no {wanted} in {thickness_cells:.1f} cells")
    aims = {"top": 0.0, "middle": (thickness_cells - defect.changed) / 2, "bottom": thickness_cells - defect.changed}
    return min(fitting, key=lambda change: abs(change.first_cell - aims[defect.depth]))


def _replaced(crystal: Crystal, defect: Defect) -> AtomDefect:
    """The exchange of one element that `defect.atoms` describes, over the whole column."""
    old, new = crystal.columns[defect.column].atoms, defect.atoms or {}
    out, put = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    if len(out) != 1 or len(put) > 1:
        raise ValueError(f"defect at {defect.cell}: {old} to {new}; need one element exchanged or taken out")
    return AtomDefect(defect.cell, defect.column, defect.kind, of=out[0], by=put[0] if put else "")


def shifted(image: Array, shift_px: tuple[float, float]) -> Array:
    """A band-limited periodic image moved by (row, col) [px]."""
    row, col = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :]
    phase = np.exp(-2j * np.pi * (row * shift_px[0] + col * shift_px[1]))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(image) * phase, s=image.shape))


def displacement(library: Library, crystal: Crystal, site: str, shift_cells: Array, thickness_cells: float) -> Array:
    """Difference image of a displaced column.

    The column's own image moved as a whole, and along each lattice vector what multislice says beyond that, linear
    between the displacements in the library and constant above the largest.

    Parameters
    ----------
    shift_cells : ndarray of shape (2,)
        Displacement as fractions of a and b.
    """
    own = -library.planes(library.differences[f"{site}-empty"], thickness_cells)
    cell_px = float(library.recipe["cell_px"])

    def moved(shift: Array) -> Array:
        return shifted(own, (shift[0] * cell_px, shift[1] * cell_px)) - own

    known = sorted((c.shift_pm, c) for c in library.changes.values() if c.site == site and c.change == "displaced")
    total = moved(shift_cells)
    if not known:
        return total
    amounts = np.array([0.0] + [amount for amount, _ in known]) / 1000 / crystal.a_nm
    rests = [np.zeros_like(own)] + [
        library.planes(library.differences[change.name], thickness_cells) - moved(np.array([amount, 0.0]))
        for (_, change), amount in zip(known, amounts[1:], strict=True)
    ]
    for axis in range(2):
        weights = [float(np.interp(abs(shift_cells[axis]), amounts, unit)) for unit in np.eye(len(amounts))]
        rest = np.einsum("k,kij->ij", weights, np.stack(rests))
        rest = rest if shift_cells[axis] >= 0 else np.roll(rest[::-1], 1 - rest.shape[0] % 2, axis=0)
        total = total + (rest.T if axis else rest)
    return np.asarray(total)


def difference_image(
    library: Library, crystal: Crystal, conditions: Conditions, defect: Defect, thickness_cells: float
) -> Array:
    """Difference image of a defect at one thickness, as stored in the library: no source size.

    A `factor` scales the contribution of the whole column; a shift moves it.
    """
    site = crystal.columns[defect.column].site
    empty = library.planes(library.differences[f"{site}-empty"], thickness_cells)
    total = np.zeros_like(empty)
    named = defect if isinstance(defect, AtomDefect) and defect.of else None
    if named is None and defect.atoms is not None:
        named = _replaced(crystal, defect)
    if named is not None:
        change = find_change(library, named, site, thickness_cells)
        total = total + library.planes(library.differences[change.name], thickness_cells)
    if defect.factor != 1.0:
        total = total + (1.0 - defect.factor) * (empty - total)
    if any(defect.shift_pm):
        step = np.array(defect.shift_pm) / 1000 / conditions.pixel_nm
        shift_cells = step @ np.linalg.inv(lattice_vectors_px(crystal, conditions))
        total = total + defect.factor * displacement(library, crystal, site, shift_cells, thickness_cells)
    return np.asarray(total)


def blurred(images: Array, cell_px: int, source_cells: tuple[float, float]) -> Array:
    """Periodic images (..., m, n) with the source size applied, on a grid `FINER` times as fine."""
    rows, cols = images.shape[-2:]
    row, col = np.fft.fftfreq(rows, 1 / cell_px)[:, None], np.fft.fftfreq(cols, 1 / cell_px)[None, :]
    gauss = np.exp(-2 * np.pi**2 * ((row * source_cells[0]) ** 2 + (col * source_cells[1]) ** 2))
    spectrum = np.fft.fftshift(np.fft.fft2(images) * gauss, axes=(-2, -1))
    spectrum[..., 0, :] *= rows % 2  # of an even number of pixels: the band ends below it
    spectrum[..., :, 0] *= cols % 2
    wide = np.zeros((*images.shape[:-2], rows * FINER, cols * FINER), dtype=np.complex128)
    top, left = rows * FINER // 2 - rows // 2, cols * FINER // 2 - cols // 2
    wide[..., top : top + rows, left : left + cols] = spectrum
    return np.asarray(np.fft.ifft2(np.fft.ifftshift(wide, axes=(-2, -1))).real * FINER**2)


def specimen_places(shape: tuple[int, int], conditions: Conditions, row_shift_px: Array) -> tuple[Array, Array]:
    """Where on the undrifted specimen every pixel was taken: rows (rows, 1) and cols (rows, cols) [px]."""
    rows = np.arange(shape[0], dtype=np.float64)
    drift_px = np.array(conditions.drift_nm) / conditions.pixel_nm
    place = rows
    for _ in range(20):  # the drift depends on the place it leads to; contracts by |drift| / rows a turn
        time = np.clip(place / shape[0], -0.2, 1.2)
        away = (2 * time + time**2) / 3
        place = rows - drift_px[0] * away
    return place[:, None], np.arange(shape[1])[None, :] + row_shift_px[:, None] - (drift_px[1] * away)[:, None]


def thickness_field(shape: tuple[int, int], conditions: Conditions, cell_nm: float) -> Array:
    """Thickness at every pixel [cells], shape (rows, cols)."""
    slope_row, slope_col = conditions.thickness_gradient
    row, col = np.arange(shape[0]) / shape[0] - 0.5, np.arange(shape[1]) / shape[1] - 0.5
    relative = np.clip(1 + slope_row * row[:, None] + slope_col * col[None, :], 0.02, None)
    return np.asarray(conditions.thickness_nm / cell_nm * relative)


def check_cell(library: Library, crystal: Crystal) -> None:
    """Raise ValueError where the crystal is not the library's: another cell or other columns."""
    a_nm, b_nm, _ = library.cell_nm
    differs = max(abs(crystal.a_nm / a_nm - 1), abs(crystal.b_nm / b_nm - 1)) > 0.02 or crystal.gamma_deg != 90
    places = {str(site["site"]): (site["u"], site["v"]) for site in library.recipe["sites"]}
    known = all(places.get(c.site) == (c.u, c.v) for c in crystal.tested)
    if differs or not known:
        found = f"crystal {crystal.name} with {crystal.a_nm} x {crystal.b_nm} nm, {crystal.gamma_deg} deg"
        raise ValueError(f"{found}; library {library.recipe['name']} is of {a_nm} x {b_nm} nm, 90 deg, sites {places}")


def _source_cells(library: Library, crystal: Crystal, conditions: Conditions) -> tuple[float, float]:
    if conditions.blur_nm < library.probe_rms_nm - 1e-6:
        raise ValueError(
            f"blur_nm = {conditions.blur_nm}: narrower than the probe of library {library.recipe['name']}, "
            f"{library.probe_rms_nm:.4f} nm"
        )
    source_nm = float(np.sqrt(max(conditions.blur_nm**2 - library.probe_rms_nm**2, 0.0)))
    return source_nm / crystal.a_nm, source_nm / crystal.b_nm


def _lay_bulk(library: Library, u: Array, v: Array, thickness: Array, source_cells: tuple[float, float]) -> Array:
    cell_px = int(library.recipe["cell_px"])
    fine = blurred(library.bulk.astype(np.float64), cell_px, source_cells)
    weights = library.weights(thickness)
    image = np.zeros(u.shape)
    places = np.stack([u, v]) * (cell_px * FINER)
    for k in range(len(fine)):
        if weights[..., k].any():
            knots = spline_filter(fine[k], order=3, mode="grid-wrap")
            image += weights[..., k] * map_coordinates(knots, places, order=3, mode="grid-wrap", prefilter=False)
    return image


def _fade(distance_cells: Array, half_cells: float) -> Array:
    """1 inside, 0 at the rim of a window, a cosine between."""
    inside = np.clip((half_cells - np.abs(distance_cells)) / RIM_CELLS, 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * inside))


def _add_difference(
    image: Array, difference: Array, u: Array, v: Array, centre: Array, place_px: Array, reach_px: int, cell_px: int
) -> None:
    """Add a fine difference image (m, n) with the column in its middle to the pixels around `place_px`."""
    low = np.clip(np.floor(place_px).astype(int) - reach_px, 0, image.shape)
    high = np.clip(np.floor(place_px).astype(int) + reach_px + 2, 0, image.shape)
    part = slice(low[0], high[0]), slice(low[1], high[1])
    du, dv = u[part] - centre[0], v[part] - centre[1]
    pitch = cell_px * FINER
    middle = np.array(difference.shape) // 2
    index = np.stack([du * pitch + middle[0], dv * pitch + middle[1]])
    half = np.array(difference.shape) / pitch / 2
    value = map_coordinates(difference, index, order=3, mode="grid-wrap")
    image[part] += value * _fade(du, float(half[0])) * _fade(dv, float(half[1]))


def column_places(
    crystal: Crystal, conditions: Conditions, shape: tuple[int, int], origin_px: Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """Cells (n, 2), column indices (n,) and drifted places (n, 2) [px] of all columns in and around the image."""
    vectors = lattice_vectors_px(crystal, conditions)
    cells = cells_over(shape, origin_px, vectors, margin=1.0 / conditions.pixel_nm)
    at = np.repeat(cells, len(crystal.columns), axis=0)
    kind = np.tile(np.arange(len(crystal.columns)), len(cells))
    uv = np.array([(c.u, c.v) for c in crystal.columns])
    places = (at + uv[kind]) @ vectors + origin_px
    time = np.clip(places[:, :1] / shape[0], -0.2, 1.2)
    return at, kind, places + np.array(conditions.drift_nm) / conditions.pixel_nm * (2 * time + time**2) / 3


def compose_scan(
    library: Library,
    crystal: Crystal,
    conditions: Conditions,
    shape: tuple[int, int],
    defects: tuple[Defect, ...] = (),
    seed: int = 0,
    origin_px: tuple[float, float] | None = None,
) -> Scan:
    """Compose one HAADF scan from a library; parameters and result as of `simulate.simulate_scan`.

    `conditions.blur_nm` is probe and source together: the library's probe is taken out of it in quadrature.

    Raises
    ------
    ValueError
        If the library is of another crystal, too thin, lacks a defect, or its probe is wider than `blur_nm`.
    """
    check_cell(library, crystal)
    rng = np.random.default_rng(seed)
    vectors = lattice_vectors_px(crystal, conditions)
    drawn = np.array(shape) / 2 + rng.random(2) @ vectors
    origin = np.asarray(origin_px, dtype=np.float64) if origin_px is not None else drawn
    row_shift = rng.normal(0.0, conditions.jitter_pm / 1000 / conditions.pixel_nm, shape[0])
    row, col = specimen_places(shape, conditions, row_shift)
    inverse = np.linalg.inv(vectors)
    u, v = ((row - origin[0]) * inverse[0, axis] + (col - origin[1]) * inverse[1, axis] for axis in range(2))
    thickness = thickness_field(shape, conditions, library.cell_nm[2])
    source_cells = _source_cells(library, crystal, conditions)
    image = _lay_bulk(library, u, v, thickness, source_cells)
    cells, columns, places = column_places(crystal, conditions, shape, origin)
    where = {(int(i), int(j), int(k)): n for n, ((i, j), k) in enumerate(zip(cells, columns, strict=True))}
    half = np.array(library.recipe["cells"]) / 2
    corners = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) * half @ vectors
    reach_px = int(np.ceil(np.abs(corners).max() + np.abs(row_shift).max())) + 1
    for defect in defects:
        place = places[where[(*defect.cell, defect.column)]]
        nearest = tuple(np.clip(np.rint(place).astype(int), 0, np.array(shape) - 1))
        difference = difference_image(library, crystal, conditions, defect, float(thickness[nearest]))
        fine = blurred(difference, int(library.recipe["cell_px"]), source_cells)
        column = crystal.columns[defect.column]
        centre = np.add(defect.cell, (column.u, column.v))
        _add_difference(image, fine, u, v, centre, place, reach_px, int(library.recipe["cell_px"]))
    ground = conditions.background * (1 + conditions.contamination * smooth_field(shape, rng))
    expected = np.clip(image + np.clip(ground, 0, None), 0, None) * (conditions.dose_e_px or 1.0)
    counts = rng.poisson(expected) if conditions.dose_e_px else expected
    return Scan(
        counts=np.asarray(counts, dtype=np.float32),
        expected=np.asarray(expected, dtype=np.float32),
        origin_px=origin,
        vectors_px=vectors,
        cells=cells,
        columns=columns,
        places_px=places,
        defects=defects,
    )
