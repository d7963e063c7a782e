"""One image is laid on its own lattice and cut into the lattice frame: the body of the child process of cut_tiles."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import zarr

from oddlattice.crystal import OWN, Crystal
from oddlattice.lattice.detectors import on_lattice_of
from oddlattice.lattice.fit_frame import FIELD_CELLS
from oddlattice.lattice.fourier import (
    DISTORTED,
    Lattice,
    NoLatticeError,
    TooLongError,
    describe,
    find_lattice,
    stretch_of,
)
from oddlattice.lattice.frame import Frame
from oddlattice.lattice.framing import Framing
from oddlattice.lattice.grains import Grains, find_grains, takes_all
from oddlattice.lattice.identified import (
    header_warning,
    identify_own,
    identity_attributes,
    is_in_another_unit,
    is_of,
    named_sites,
    ruler_nm,
)
from oddlattice.lattice.identity import Identity
from oddlattice.lattice.interfaces import crystals_on_one_lattice
from oddlattice.lattice.not_one_crystal import not_one_crystal, of_diffraction
from oddlattice.lattice.one_grain import alone, cropped
from oddlattice.lattice.origin import column_weights
from oddlattice.lattice.own_crystal import OwnCell, register_on_own, strongest_lattice
from oddlattice.lattice.pixel_size import DISAGREEMENT, by_cell_nm, decided_nm, header_nm, mean_nm
from oddlattice.lattice.record import CODEC, write_tiles
from oddlattice.lattice.register import fit_registration
from oddlattice.lattice.registration import Registration
from oddlattice.lattice.rim import up_to_rim
from oddlattice.lattice.seams import Side, up_to_seams
from oddlattice.lattice.spoilt import Seen, without_overlay
from oddlattice.lattice.stack_crystal import StackCrystal, seen_again, sum_of_some
from oddlattice.lattice.which_crystal import Judge, NoModelError, rotation_deg
from oddlattice.numerics.arrays import Labels
from oddlattice.run.stage_settings import TileSettings
from oddlattice.storage import blocks
from oddlattice.storage.groups import FIRST_GRAIN, GRAIN_MAP, array_of, attributes_of, group_of
from oddlattice.storage.rows import Row
from oddlattice.storage.windows import Windows

SAME_PERIOD = 0.05  # periods whose logarithms differ by less are one
AT_ONCE_PX = 1 << 25  # an image of more pixels is read strip by strip
WORTH = 0.7  # of the area that one lattice takes of an image, which its grains must have together
BLANK = "of the image is blank"
LARGEST_OF_GRAINS_PX = 1 << 24  # of a larger image one lattice alone is taken
NOT_SEARCHED = (
    "one lattice does not take all of the image: other grains are not looked for in more than 16 million pixels"
)
WITHOUT_SIZE = "without a pixel size lengths are in pixels and cells, and what would be in nm, pm or per nm² is empty"
OF_SIZE = "the file states no pixel size", "header says"  # beginnings of what `warnings_of` says of a pixel's size
HELPED = "its lattice and the size of its cell are those that another detector of the same scan shows"
LABEL_CHUNK_PX = 1024


def vector_attributes(frame: Frame, pixel_nm: tuple[float, float] | None) -> dict[str, Any]:
    """Fitted vectors as attributes, in px and with the header's pixel size."""
    _, _, gamma = describe(frame.vectors_px)
    by_header = describe(frame.vectors_px * np.array(pixel_nm))[:2] if pixel_nm is not None else (None, None)
    return {
        "a_px": frame.vectors_px[0].tolist(),
        "b_px": frame.vectors_px[1].tolist(),
        "origin_px": frame.origin_px.tolist(),
        "gamma_deg": gamma,
        "a_nm_header": by_header[0],
        "b_nm_header": by_header[1],
    }


def vector_errors(found: Registration) -> tuple[float, float, float]:
    """Standard errors of a and b (per component) and rms distance of the cells from the frame, all [px].

    The cells' own displacements are taken as independent, those of the smooth field as alike within FIELD_CELLS and
    independent beyond; shifts of the lines at random turn what lies across the lines. The rms is robust (a median).
    """
    moved = np.tensordot(found.frame.vectors_px.T, found.shift_uv, 1)[:, found.mask]
    per_axis = 1.4826 * np.median(np.abs(moved - np.median(moved, axis=1, keepdims=True)), axis=1)
    rms = float(np.hypot(*per_axis))
    cells = np.argwhere(found.mask).astype(float)
    places = found.nodes_px[:, :-1, :-1][:, found.mask].T
    smooth = found.frame.grid.at(found.frame.field, places).T @ found.frame.vectors_px
    alike = min((2 * FIELD_CELLS) ** 2, len(cells) / 4)
    variance = rms**2 / 2 + alike * float(smooth.var(axis=0).mean())
    design = np.concatenate([np.ones((len(cells), 1)), cells], axis=1)
    covariance = np.linalg.pinv(design.T @ design) * variance
    line = 1 if found.transposed else 0
    lines = float(np.ptp(places[:, line])) + 1
    slope = float(found.row_shift_px.std()) * np.sqrt(12) / lines**1.5  # of a straight line through so many at random
    a, b = np.hypot(np.sqrt(np.diag(covariance)[1:]), slope * found.frame.vectors_px[:, line])
    return float(a), float(b), rms


def stretch_on(crystal: Crystal, frame: Frame, pixel_nm: tuple[float, float] | None) -> float:
    """Ratio of the principal stretches between the crystal's cell and the image's."""
    return stretch_of(crystal, frame.vectors_px * np.array(pixel_nm or (1.0, 1.0)))[1]


def warnings_of(found: Registration, pixel_nm: tuple[float, float] | None, ruler_nm: float | None) -> list[str]:
    """Sentences a microscopist should read before trusting the numbers."""
    sentences = []
    if pixel_nm is None and ruler_nm is None and found.crystal is not None:
        sentences.append(WITHOUT_SIZE)
    elif pixel_nm is None:
        sentences.append("the file states no pixel size: the cell was recognised by its shape and content alone")
    elif ruler_nm is not None:
        header = mean_nm(pixel_nm)
        apart = header / ruler_nm - 1
        if abs(apart) > DISAGREEMENT:
            sentences.append(
                f"header says {header * 1000:.2f} pm/px, the lattice says {ruler_nm * 1000:.2f} pm/px "
                f"({100 * abs(apart):.1f} %); the lattice is used"
            )
    if found.crystal is not None:
        stretch = stretch_on(found.crystal, found.frame, pixel_nm)
        if stretch > DISTORTED:
            sentences.append(
                f"the cell is distorted by {100 * (stretch - 1):.0f} % against {found.crystal.name}: "
                "scan distortion or strain"
            )
    fit = found.origin_fit
    if fit is not None and (fit.sigmas < 5 or fit.explained - fit.second < 0.05):
        sentences.append(
            f"which column is the cell's corner is uncertain: the crystal explains {fit.explained:.1%} of the "
            f"mean cell there and {fit.second:.1%} at the next best place"
        )
    if found.pedestal:
        sentences.append(
            f"the image has values at or below zero: {found.pedestal:.4g} counts were added before dividing by the "
            "mean, and no dose is told"
        )
    sentences += steps_and_blanks(found)
    seen = int(found.inside.sum())
    if found.mask.sum() < 0.5 * seen:
        sentences.append(
            f"only {int(found.mask.sum())} of {seen} cells in the image are crystal on this lattice; the rest is masked"
        )
    return sentences


def steps_and_blanks(found: Registration) -> list[str]:
    """What was taken out of a scan or left out of it."""
    sentences = []
    gain, line = found.line_gain, "column" if found.transposed else "row"
    steps = np.flatnonzero(np.diff(gain)) + 1
    if len(steps):
        told = ", ".join(f"{100 * (gain[at] / gain[at - 1] - 1):+.1f} % at {line} {at}" for at in steps)
        sentences.append(f"the current changes by {told}: the image was divided by it")
    ends = found.bent_ends_px
    if any(ends):
        told = " and ".join(f"{px} px at the {end}" for px, end in zip(ends, ("beginning", "end"), strict=True) if px)
        sentences.append(f"the crystal is bent at the ends of all {line}s of the image (flyback): {told} left out")
    low, high = np.zeros(2), np.array(found.frame.shape) - 1.0
    along = 0 if found.transposed else 1
    low[along], high[along] = low[along] + ends[0], high[along] - ends[1]
    at = found.nodes_px.T
    in_image = ((at >= low) & (at <= high)).all(axis=-1).T
    lost, cut = found.depth_px == 0, found.frame.from_cuts_px(at).T == 0
    blank, beside = (float(some[in_image].mean()) if in_image.any() else 0.0 for some in (lost & ~cut, lost & cut))
    if beside > 0:
        sentences.append(
            f"about {max(100 * beside, 0.1):.2g} % of the image lies along faults, and along lines from dislocations "
            "at which the lattice is cut: not tested"
        )
    if blank > 0:
        sentences.append(f"about {max(100 * blank, 0.1):.2g} % {BLANK} (borders, lines, saturation, vacuum): masked")
    return sentences


def tiled_attributes(found: Registration, pixel_nm: tuple[float, float] | None) -> dict[str, Any]:
    """Attributes of a tiled image."""
    crystal = found.crystal
    by_cell = by_cell_nm(crystal.area_nm2, found.frame.period_px) if crystal is not None else None
    ruler = decided_nm(None if crystal is None or crystal.nominal else by_cell, pixel_nm)
    a_sigma, b_sigma, rms = vector_errors(found)
    inside = int(found.inside.sum())
    analysed = int(found.mask.sum())
    quality: dict[str, Any] = {"cells_in_image": inside, "row_shift_sigma_px": found.row_sigma_px}
    if found.origin_fit is not None and crystal is not None:
        origin_fit = found.origin_fit
        quality |= {
            "content_explained": origin_fit.explained,
            "content_second": origin_fit.second,
            "anchor_sigmas": origin_fit.sigmas,
            "blur_nm": origin_fit.blur_nm,
            "contrast": origin_fit.scale,
            "column_weights": column_weights(found.mean_cell, crystal, origin_fit.blur_nm),
        }
    return {
        "state": "tiled",
        "reason": "",
        "crystal": None if crystal is None else crystal.name,
        "stretch": None if crystal is None else stretch_on(crystal, found.frame, pixel_nm),
        **vector_attributes(found.frame, pixel_nm),
        "a_sigma_px": a_sigma,
        "b_sigma_px": b_sigma,
        "rotation_deg": None if crystal is None else rotation_deg(found.frame.vectors_px, crystal),
        "pixel_nm": ruler,
        **({"nominal_pixel_nm": by_cell} if ruler is None and by_cell is not None else {}),
        "lattice_rms_px": rms,
        **found.record.attributes,
        "row_jitter_px_rms": float(found.row_shift_px.std()),
        "cells_analysed": analysed,
        "cells_masked": inside - analysed,
        "warnings": warnings_of(found, pixel_nm, ruler),
        "fit_quality": quality,
    }


def write_registration(image: Any, found: Registration, group: zarr.Group) -> None:
    """Write the record of a registration, and the tiles that are cut with it."""
    found.record.write(group)
    write_tiles(image, found.record, group)


def tile_image(
    images_zarr: str,
    image_id: str,
    models: Mapping[str, Crystal],
    out: str,
    settings: Mapping[str, Any],
    judge: Judge | None = None,
    own: bool = False,
    libraries: Sequence[str] = (),
    stack: Mapping[str, Any] | None = None,
    beside: str | None = None,
) -> Row:
    """Register one image and write its group; returns its row of the root attributes.

    `models` has the crystal of every model by the name of its folder; `settings` those of `TileSettings`; `judge` is as
    of `fit_registration`. Where none of the models is the image's and `own` is set, the image is registered on the
    crystal that it shows itself, and that is looked up in the crystal `libraries`; a frame is laid on the crystal that
    its `stack` shows (`crystal_of_stack`), an image on the lattice of the one `beside` it, of another detector, where
    it shows anything there.
    """
    source = group_of(zarr.open_group(images_zarr, mode="r"), image_id)
    raw: Any = array_of(source, "0")
    pixel_nm = header_nm(attributes_of(source))
    group = zarr.open_group(out, mode="r+").create_group(image_id)
    raw = blocks.read(raw) if raw.shape[0] * raw.shape[1] <= AT_ONCE_PX else Windows(raw)
    image = raw if isinstance(raw, Windows) else without_overlay(raw)
    of_stack = StackCrystal.of(stack) if stack is not None else None
    other = array_of(group_of(zarr.open_group(images_zarr, mode="r"), beside), "0") if beside is not None else None
    how = How(models, pixel_nm, TileSettings.of(settings), judge, own, libraries, of_stack, other)
    whole = laid(image, how)
    grains = other_grains(image, whole)
    each = _each_grain(image, grains, how) if grains is not None else {}
    if grains is not None and _worth_it(each, whole):
        attributes = _write_grains(raw, each, grains.labels, group)
    else:
        attributes = _write_one(raw, _up_to_rim(whole), group)
    group.attrs["oddlattice"] = attributes
    return {"image_id": image_id, "state": attributes["state"], "reason": attributes["reason"]}


@dataclass(frozen=True)
class How:
    """How an image is laid on a lattice: see `tile_image`."""

    models: Mapping[str, Crystal]
    pixel_nm: tuple[float, float] | None
    settings: TileSettings
    judge: Judge | None
    own: bool
    libraries: Sequence[str]
    stack: StackCrystal | None = None
    other: Any = None  # image of another detector of the same scan


@dataclass(frozen=True)
class Laid:
    """An image, or a grain of it, laid on a lattice (`found`), or why it is not; and what is said of it."""

    attributes: dict[str, Any]
    found: Registration | None = None


def laid(image: Any, how: How, lattice: Lattice | None = None) -> Laid:
    """Lay an image on its lattice, where it is not known on the one that it shows."""
    helped = helped_by_other(image, how) if how.other is not None and lattice is None else None
    try:
        found, cell = helped or registered_as(image, how, lattice)
    except TooLongError as error:
        known = known_in_another_unit(image, how, lattice)
        if known is None:
            return Laid(not_tiled("no_lattice", str(error)))
        found, cell = known
    except NoLatticeError as error:
        return Laid(not_tiled("no_lattice", of_diffraction(image) or str(error)))
    except NoModelError as error:
        by_header = vector_attributes(error.frame, how.pixel_nm) if error.frame is not None else {}
        return Laid(not_tiled("no_model", str(error)) | by_header)
    if why := not_one_crystal(image, found):
        return Laid(not_tiled("no_lattice", why))
    name = next((name for name, crystal in how.models.items() if crystal is found.crystal), OWN)
    said = tiled_attributes(found, how.pixel_nm) | {"model": name}
    if cell is not None:
        who = identify_own(cell, how.pixel_nm, how.libraries) if how.libraries else None
        said |= own_attributes(cell, who, how.pixel_nm, said["warnings"])
    if helped is not None:
        said["warnings"].append(HELPED)
    return Laid(said, found)


def helped_by_other(image: Any, how: How) -> tuple[Registration, OwnCell] | None:
    """An image on the lattice of another detector of its scan; None where it shows nothing there."""
    with suppress(NoLatticeError):
        return on_lattice_of(image, np.asarray(how.other[:, :], np.float32), how.pixel_nm, how.settings)
    return None


def known_in_another_unit(image: Any, how: How, lattice: Lattice | None) -> tuple[Registration, OwnCell] | None:
    """An image on its own crystal where that is recognised, were the header in another unit."""
    if how.pixel_nm is None or not how.own or not how.libraries:
        return None
    with suppress(NoLatticeError):
        found, cell = register_on_own(image, None, how.settings, lattice)
        if is_in_another_unit(identify_own(cell, how.pixel_nm, how.libraries), how.pixel_nm):
            return found, cell
    return None


def registered_as(image: Any, how: How, lattice: Lattice | None = None) -> tuple[Registration, OwnCell | None]:
    """`registered` as `how` says; a frame whose stack's crystal is known, on that, if it shows anything there."""
    if how.stack is not None and lattice is None:
        again = partial(seen_again, known=how.stack.own)
        with suppress(NoLatticeError):
            return register_on_own(image, how.pixel_nm, how.settings, how.stack.lattice, again)
    known = how.models, how.pixel_nm, how.settings, how.judge, how.own
    return registered(image, *known, lattice=lattice, libraries=how.libraries)


def crystal_of_stack(
    images_zarr: str,
    frames: Sequence[str],
    models: Mapping[str, Crystal],
    settings: Mapping[str, Any],
    judge: Judge | None = None,
    own: bool = False,
    libraries: Sequence[str] = (),
) -> dict[str, Any] | None:
    """The crystal that the sum of a stack's frames shows itself, for `tile_image`; None where it is a model's."""
    sources = [group_of(zarr.open_group(images_zarr, mode="r"), name) for name in frames]
    pixel_nm = header_nm(attributes_of(sources[0]))
    total = sum_of_some([array_of(source, "0") for source in sources])
    how = How(models, pixel_nm, TileSettings.of(settings), judge, own, libraries)
    try:
        _, cell = registered_as(total, how)
        return None if cell is None else StackCrystal(cell, strongest_lattice(find_lattice(total))).as_dict()
    except (NoLatticeError, NoModelError):
        return None


def _write_one(image: Any, one: Laid, group: zarr.Group) -> dict[str, Any]:
    """Write an image of one crystal; what is said of the image as a whole."""
    if one.found is None:
        return one.attributes
    write_registration(image, one.found, grain := group.create_group(str(FIRST_GRAIN)))
    grain.attrs["oddlattice"] = one.attributes
    return {"state": "tiled", "reason": "", "grains": 1}


def other_grains(image: Any, whole: Laid) -> Grains | None:
    """The grains of an image, where it holds several; nothing is looked for where one lattice takes all of it.

    Nor in an image that is too large: a warning of `whole` then says so.
    """
    if whole.found is not None and takes_all(whole.found):
        return _on_one_lattice(image, whole.found)
    if image.shape[0] * image.shape[1] > LARGEST_OF_GRAINS_PX:
        if whole.found is not None:
            whole.attributes["warnings"].append(NOT_SEARCHED)
        return None
    grains = find_grains(np.asarray(image[:, :]))
    if grains.count > 1:
        return grains
    return _on_one_lattice(image, whole.found) if whole.found is not None else None


def _on_one_lattice(image: Any, found: Registration) -> Grains | None:
    """The crystals that meet coherently in an image on one lattice, where there are several."""
    labels = crystals_on_one_lattice(image, found)
    return None if labels is None else Grains(labels, [find_lattice(image)] * int(labels.max()))


def _worth_it(each: Mapping[int, Laid], whole: Laid) -> bool:
    """Whether grain by grain about as much of an image can be analysed as on one lattice; seams cost some."""
    together = sum(_crystal_px2(one) for one in each.values())
    if len(each) == 1 and whole.found is not None:
        return False
    return together > 0 and together > WORTH * _crystal_px2(whole)


def _crystal_px2(one: Laid) -> float:
    """Area of the cells analysed."""
    return 0.0 if one.found is None else float(one.found.mask.sum()) * one.found.frame.period_px**2


def _each_grain(image: Any, grains: Grains, how: How) -> dict[int, Laid]:
    """Every grain laid on its lattice as an image of its own, by its number in the label map."""
    alone_px = {number: alone(image, grains.region(number)) for number in range(1, grains.count + 1)}
    found = {number: laid(one, how, grains.lattices[number - 1]) for number, one in alone_px.items()}
    sizes = [one.attributes["pixel_nm"] for one in found.values() if one.found is not None]
    known = next((size for size in sizes if size is not None), None)
    if how.pixel_nm is None and known is not None:  # a pixel is as large in every grain
        how = replace(how, pixel_nm=(known, known))
        for number, one in found.items():
            if one.found is not None and one.attributes["pixel_nm"] is None:
                found[number] = laid(alone_px[number], how, grains.lattices[number - 1])
    held = [grains.lattices[k - 1] for k, one in found.items() if one.found is not None]
    # a part that is no crystal although its lattice is one's elsewhere is speckle
    kept = {
        k: one
        for k, one in found.items()
        if one.found is not None or not any(grains.lattices[k - 1] is one_of for one_of in held)
    }
    return _up_to_seams(kept, grains, image)


def _up_to_seams(each: Mapping[int, Laid], grains: Grains, image: Any) -> dict[int, Laid]:
    """Grains up to their seams; that the rest of the image was blank to them is not worth a word."""
    sides = {k: Side.of(one.found, grains.region(k)) for k, one in each.items() if one.found is not None}
    done = dict(each)
    for k, found in up_to_seams(sides, Seen.of(image)).items():
        told = [line for line in each[k].attributes["warnings"] if BLANK not in line]
        done[k] = Laid(each[k].attributes | {"warnings": told} | _cells_of(found), cropped(found))
    return done


def _up_to_rim(whole: Laid) -> Laid:
    """An image of one crystal with the cells that its rim cuts, where they are long."""
    if whole.found is None:
        return whole
    found = up_to_rim(whole.found)
    return Laid(whole.attributes | _cells_of(found), found)


def _cells_of(found: Registration) -> dict[str, int]:
    """How many cells are analysed, and how many are not."""
    analysed = int(found.mask.sum())
    return {"cells_analysed": analysed, "cells_masked": int(found.inside.sum()) - analysed}


def _write_grains(image: Any, each: dict[int, Laid], labels: Labels, group: zarr.Group) -> dict[str, Any]:
    """Write every grain, those that cannot be analysed last; what is said of the image."""
    tried = list(each.items())
    tried.sort(key=lambda entry: entry[1].found is None)
    renumbered = np.zeros(int(labels.max()) + 1, np.uint8)
    for grain, (number, one) in enumerate(tried, FIRST_GRAIN):
        renumbered[number] = grain
        into = group.create_group(str(grain))
        into.attrs["oddlattice"] = one.attributes
        if one.found is not None:
            write_registration(image, one.found, into)
    _write_labels(renumbered[labels], group)
    best = tried[0][1].attributes
    without = [f"grain {k}: {one.attributes['reason']}" for k, (_, one) in enumerate(tried, 1) if one.found is None]
    return {"state": best["state"], "reason": "; ".join(without), "grains": len(tried)}


def _write_labels(labels: Labels, group: zarr.Group) -> None:
    """Write which grain every pixel is of; 0 where there is no crystal."""
    chunks = (min(LABEL_CHUNK_PX, labels.shape[0]), min(LABEL_CHUNK_PX, labels.shape[1]))
    array = group.create_array(
        GRAIN_MAP, shape=labels.shape, chunks=chunks, dtype="uint8", compressors=[CODEC], dimension_names=("row", "col")
    )
    blocks.write(array, (), labels)


def registered(
    image: Any,
    models: Mapping[str, Crystal],
    pixel_nm: tuple[float, float] | None,
    settings: TileSettings,
    judge: Judge | None,
    own: bool,
    lattice: Lattice | None = None,
    libraries: Sequence[str] = (),
) -> tuple[Registration, OwnCell | None]:
    """An image on the lattice of the model that is its own, or else, where `own` is set, on what it shows itself.

    Raises
    ------
    NoLatticeError, NoModelError
        As `fit_registration`.
    """
    lattice, framing = lattice or find_lattice(image), Framing(image)
    if not own:
        return fit_registration(image, list(models.values()), pixel_nm, settings, lattice, judge), None
    try:
        if models:
            found = fit_registration(image, list(models.values()), pixel_nm, settings, lattice, judge, framing)
            crystal = found.crystal
            if crystal is None or judge is None:
                return found, None
            seen = found.mean_cell.cell(crystal.px_per_cell)
            fits = judge(crystal, seen, stretch_on(crystal, found.frame, pixel_nm)) <= 1
            if fits and is_of(crystal, found, pixel_nm, libraries):
                if pixel_nm is not None:
                    return found, None
                # without a size, cells of many crystals fit: the columns must be as many, too (bcc [100], SrTiO3 [001])
                itself = register_on_own(image, pixel_nm, settings, lattice, framing=framing)
                same = abs(np.log(itself[0].frame.period_px / found.frame.period_px)) < SAME_PERIOD
                return (found, None) if same and len(itself[1].sites) == len(crystal.tested) else itself
    except NoModelError:
        pass
    return register_on_own(image, pixel_nm, settings, lattice, framing=framing)


def own_attributes(
    cell: OwnCell, who: Identity | None, header: tuple[float, float] | None, warnings: list[str]
) -> dict[str, Any]:
    """What a grain's attributes say of the crystal that the image shows itself.

    A crystal that is recognised gives sites their names, and the size of a pixel. Where neither it nor the header does,
    lengths are reckoned with a nominal one (`nominal_pixel_nm`), and none is told to a reader.
    """
    pixel_nm = ruler_nm(who, header) if who is not None else header
    if who is not None:
        cell = replace(cell, sites=named_sites(cell.sites, who.sites))
    said: dict[str, Any] = {
        "crystal": OWN,
        "own_crystal": cell.as_dict(pixel_nm or cell.nominal_nm),
        "stretch": 1.0,
        "rotation_deg": None,
        "pixel_nm": mean_nm(pixel_nm) if pixel_nm is not None else None,
    }
    told = [line for line in warnings if not line.startswith(OF_SIZE)]
    if pixel_nm is None:
        said["nominal_pixel_nm"] = mean_nm(cell.nominal_nm)
        told = [WITHOUT_SIZE, *told]
    elif header is None and who is not None:
        size = f"the file states no pixel size: it is that of {who.name}, as which the crystal was recognised"
        told = [f"{size} ({who.probability:.0%})", *told]
    if who is not None:
        said["identity"] = identity_attributes(who)
        told = [*header_warning(who, header), *told]
    return said | {"warnings": told}


def not_tiled(state: str, reason: str) -> dict[str, Any]:
    """Attributes of an image without tiles."""
    return {"state": state, "reason": reason, "crystal": None, "warnings": []}
