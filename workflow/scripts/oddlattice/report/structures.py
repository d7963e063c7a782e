"""The columns of an image as a structure that other programs read: places, sites, occupancies, what was found.

A projection has no depth: a structure holds one atom for each atomic column, in the middle of a slab of `DEPTH_NM`.
x runs along the rows of the image and y upwards, so that it looks like the image. Structures are in Ångström, as ASE,
CIF and POSCAR have them; the table is in nm.
"""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from oddlattice.crystal import OWN
from oddlattice.lattice.pixel_size import PixelNm
from oddlattice.storage.products import COLUMN_KEY
from oddlattice.storage.rows import Row

if TYPE_CHECKING:
    from ase import Atoms

DEPTH_NM = 0.4
ANGSTROM_PER_NM = 10.0
UNKNOWN = "X"  # what ASE calls an atom of which nothing is known
BULK = "bulk"  # in place of a kind: a column that is not listed
NO_SITE = "-"  # in place of the site of an extra atom
EMPTY = 0.5  # POSCAR knows no occupancy: a column of less is left out of it
_NUMBERS = "row_px col_px row_nm col_nm occupancy occupancy_sigma z q_value probability_real".split()
_WORDS = "site kind review".split()


def column_table(columns: pl.DataFrame, places: pl.DataFrame, defects: pl.DataFrame, pixel_nm: PixelNm) -> pl.DataFrame:
    """Every column tested, and every extra atom, with where it is seen and what was found there.

    Parameters
    ----------
    columns, places, defects : polars.DataFrame
        Of one image (products.COLUMNS, PLACES, DEFECTS).
    pixel_nm : tuple of float
        Pixel size (row, col) [nm].

    Returns
    -------
    polars.DataFrame
        In order of site and cell: the key of the column, `site`, `row_px`, `col_px`, `row_nm`, `col_nm`, `measured`
        (false where no column was to be seen: the place is that of the lattice), `occupancy` (intensity over that of a
        bulk column), its standard error, `z`, `q_value`, `probability_real`, `kind` (`bulk` where it is not listed),
        `in_region`, `review`.
    """
    key = list(COLUMN_KEY)
    seen = places.select(*key, pl.col("row_px").alias("seen_row_px"), pl.col("col_px").alias("seen_col_px"))
    listed = defects.filter(pl.col("column").is_not_null()).unique(key, keep="first", maintain_order=True)
    tested = (
        columns.join(seen, on=key, how="left")
        .join(listed.select(*key, "kind", "in_region", "review"), on=key, how="left")
        .with_columns(
            measured=pl.col("seen_row_px").is_not_null(),
            row_px=pl.coalesce("seen_row_px", "row_px"),
            col_px=pl.coalesce("seen_col_px", "col_px"),
            occupancy=1.0 + pl.col("intensity_change"),
            kind=pl.col("kind").fill_null(BULK),
        )
    )
    extra = defects.filter(pl.col("kind") == "extra").with_columns(measured=True, occupancy=None)
    found = pl.concat([_shown(part, pixel_nm) for part in (tested, extra)])
    return found.sort("site", *key, "row_px", "col_px", nulls_last=True)


def _shown(found: pl.DataFrame, pixel_nm: PixelNm) -> pl.DataFrame:
    return found.select(
        *(pl.col(name).cast(pl.Int64) for name in COLUMN_KEY),
        pl.col("site").fill_null(""),
        *(pl.col(name).cast(pl.Float64) for name in ("row_px", "col_px")),
        row_nm=pl.col("row_px") * pixel_nm[0],
        col_nm=pl.col("col_px") * pixel_nm[1],
        measured=pl.col("measured"),
        occupancy=pl.col("occupancy").cast(pl.Float64),
        occupancy_sigma=pl.col("intensity_change_sigma").cast(pl.Float64),
        z=pl.col("z"),
        q_value=pl.col("q_value"),
        probability_real=pl.col("probability_real").cast(pl.Float64),
        kind=pl.col("kind"),
        in_region=pl.col("in_region").fill_null(False),
        review=pl.col("review").fill_null(""),
    )


def elements_of(sites: Sequence[str], image: Row) -> dict[str, str]:
    """Element of each site of an image; `X` where the site is a letter that stands for a column and no element.

    An image's own crystal has sites A, B, C: B and C are no boron and carbon. Where the crystal was recognised, a
    letter is an element only if the crystal's formula has it. Of `Ti1`, `S2` or `Sr-A` the element stands first.
    """
    from ase.data import atomic_numbers

    unnamed = any(re.fullmatch(r"A\d*", site) for site in sites)
    name = str(image["crystal"] or "").partition(" [")[0]
    formula = set(re.findall("[A-Z][a-z]?", name)) if image["model"] == OWN else set()

    def element(site: str) -> str:
        letter = re.fullmatch(r"([A-Z]+)\d*", site)
        if letter and (unnamed or (formula and letter[1] not in formula)):
            return UNKNOWN
        first = re.match("[A-Z][a-z]?", site)
        candidates = [first[0], first[0][0]] if first else []
        return next((name for name in candidates if name in atomic_numbers), UNKNOWN)

    return {site: element(site) for site in sites}


def structure(found: pl.DataFrame, shape: tuple[int, int], pixel_nm: PixelNm, elements: Mapping[str, str]) -> "Atoms":
    """The columns of `column_table` as ASE atoms in a box of the size of the image, with what was found as arrays.

    Parameters
    ----------
    found : polars.DataFrame
    shape : tuple of int
        Rows and columns of the image [px].
    pixel_nm : tuple of float
        Pixel size (row, col) [nm].
    elements : mapping of str to str
        Element of each site, of `-` for extra atoms; `X` where there is none.
    """
    from ase import Atoms

    box_nm = np.array([shape[1] * pixel_nm[1], shape[0] * pixel_nm[0], DEPTH_NM])
    x_nm = found["col_nm"].to_numpy() + pixel_nm[1] / 2  # places count from the middle of the first pixel
    y_nm = box_nm[1] - found["row_nm"].to_numpy() - pixel_nm[0] / 2
    places_nm = np.column_stack([x_nm, y_nm, np.full(found.height, DEPTH_NM / 2)])
    sites = [site or NO_SITE for site in found["site"]]
    symbols = [elements.get(site, UNKNOWN) for site in sites]
    atoms = Atoms(symbols, positions=places_nm * ANGSTROM_PER_NM, cell=box_nm * ANGSTROM_PER_NM, pbc=False)
    for name in _NUMBERS:
        atoms.arrays[name] = found[name].fill_null(float("nan")).to_numpy()
    for name in _WORDS:
        atoms.arrays[name] = np.array([text or "-" for text in found[name]], dtype=str)
    for name in COLUMN_KEY:
        atoms.arrays[name] = found[name].fill_null(-1).to_numpy()
    for name in ("measured", "in_region"):
        atoms.arrays[name] = found[name].to_numpy()
    atoms.info["sites"] = " ".join(f"{site}={elements.get(site, UNKNOWN)}" for site in dict.fromkeys(sites))
    return atoms


def neighbourhoods(atoms: "Atoms", reach_nm: float) -> list["Atoms"]:
    """What lies around each listed defect: a box of its own with all atoms nearer than `reach_nm` in x and in y.

    The defect of the largest |z| comes first, as on the image's page.
    """
    reach = reach_nm * ANGSTROM_PER_NM
    listed = np.flatnonzero(atoms.arrays["kind"] != BULK)
    size = np.abs(np.nan_to_num(atoms.arrays["z"][listed]))
    found = []
    for index in listed[np.argsort(-size, kind="stable")]:
        corner = atoms.positions[index, :2] - reach
        inside = ((atoms.positions[:, :2] >= corner) & (atoms.positions[:, :2] <= corner + 2 * reach)).all(axis=1)
        cut = atoms[inside]
        cut.positions[:, :2] -= corner
        cut.set_cell([2 * reach, 2 * reach, DEPTH_NM * ANGSTROM_PER_NM])
        found.append(cut)
    return found


def xyz_text(atoms: "Atoms") -> str:
    """A structure as extended XYZ: every array is a column."""
    from ase.io.extxyz import write_xyz

    text = StringIO()
    write_xyz(text, atoms)
    return text.getvalue()


def cif_text(atoms: "Atoms") -> str:
    """A structure as CIF: `_atom_site_occupancy` as CIF allows it, 0 to 1, and all arrays as `_atom_site_oddlattice_`.

    An atom whose intensity was not measured has the occupancy 1.
    """
    from ase.io.cif import write_cif

    shown = atoms.copy()  # type: ignore[no-untyped-call]
    shown.arrays["spacegroup_kinds"] = np.arange(len(shown))
    whole = np.nan_to_num(np.clip(shown.arrays["occupancy"], 0, 1), nan=1.0)
    symbols = shown.get_chemical_symbols()
    shown.info["occupancy"] = {str(k): {symbols[k]: float(whole[k])} for k in range(len(shown))}
    names = [*COLUMN_KEY, *_WORDS, *_NUMBERS, "measured", "in_region"]
    none = dict.fromkeys(_WORDS, "-") | {"column": -1}  # what stands for nothing in an array
    keys = {f"atom_site_oddlattice_{name}": [_cif_values(atoms.arrays[name], none.get(name))] for name in names}
    text = BytesIO()
    write_cif(text, shown, wrap=False, loop_keys=keys)
    return f"# sites: {atoms.info['sites']}\n" + text.getvalue().decode("latin-1")


def _cif_values(values: npt.NDArray[Any], none: str | int | None) -> list[str]:
    """Values as CIF writes them: `?` for what is not known, `.` for what there is not."""
    if values.dtype.kind == "f":
        return [f"{value:.6g}" if np.isfinite(value) else "?" for value in values]
    return ["." if value == none else str(value) for value in values.tolist()]


def poscar_text(atoms: "Atoms") -> str:
    """A structure as POSCAR, which knows elements and places alone; columns of less than `EMPTY` are left out."""
    from ase.io.vasp import write_vasp

    full = ~(atoms.arrays["occupancy"] < EMPTY)
    text = StringIO()
    write_vasp(text, atoms[full], sort=True)
    first, rest = text.getvalue().split("\n", 1)
    return (
        f"{first} ; sites {atoms.info['sites']} ; {int((~full).sum())} columns of occupancy < {EMPTY} left out\n{rest}"
    )


#: How a structure is written, by the name of the format, and how the names of its files end.
STRUCTURES = {"cif": (cif_text, ".cif"), "xyz": (xyz_text, ".xyz"), "poscar": (poscar_text, ".vasp")}
