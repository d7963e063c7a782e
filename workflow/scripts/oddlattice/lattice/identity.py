"""Who is it: the crystal of an image, by its lattice and its columns, against a library of crystals and axes."""

from dataclasses import dataclass

from oddlattice.numerics.arrays import Array


@dataclass(frozen=True)
class Observed:
    """What an image shows of its crystal.

    Attributes
    ----------
    vectors_px : ndarray of shape (2, 2)
        Lattice vectors as rows, (row, col) [px].
    places : ndarray of shape (n, 2)
        (u, v) of the columns seen above noise, as fractions of the vectors.
    brightness : ndarray of shape (n,)
        How much each column stands out of its surroundings, > 0, in any unit.
    place_sigma_px : float
        Standard error of a column's place, along each direction [px].
    brightness_sigma : float
        Relative standard error of a column's brightness.
    pixel_nm : float or None
        Pixel size that the file states [nm].
    floor : float
        Brightness, as a part of the brightest column's, below which a column would not have been seen.
    dark : bool
        Whether columns are dark on bright ground: their brightness then says little of their atoms.
    """

    vectors_px: Array
    places: Array
    brightness: Array
    place_sigma_px: float
    brightness_sigma: float
    pixel_nm: float | None
    floor: float
    dark: bool = False
