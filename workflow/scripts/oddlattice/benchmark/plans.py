"""How much the benchmark measures."""

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Plan:
    """How many fields of what; one field of 1024 px holds about 28 defects and 1,700 bulk columns.

    Attributes
    ----------
    side_px : int
        Of the fields.
    main : tuple of (dose [e/px], jitter [pm])
        Conditions of the table of aims.
    main_fields : int
        Fields for each of them.
    other : tuple of (dose [e/px], jitter [pm])
        Conditions for the curves.
    other_fields : int
    classes_fields : int
        Fields with the published classes: figures 1 and 2, table 1.
    calibration_fields : int
        Half of them bulk; all under conditions of their own.
    files : int
        Files through the whole pipeline.
    published_patches, published_epochs, published_rate : int, int, float
        Training of the published network (as published: 1,000, 200 and 1e-4).
    hard_fields : int
        Fields of each kind of hard bulk.
    every : int
        Of the kinds of the detection experiment, every so many.
    """

    side_px: int
    main: tuple[tuple[float, float], ...]
    main_fields: int
    other: tuple[tuple[float, float], ...]
    other_fields: int
    classes_fields: int
    calibration_fields: int
    files: int
    published_patches: int
    published_epochs: int
    published_rate: float
    hard_fields: int
    every: int = 1


MAIN = ((400.0, 0.0), (400.0, 5.0), (1250.0, 5.0))
_DOSES, _JITTERS = (50.0, 150.0, 400.0, 1250.0, 5000.0), (0.0, 5.0, 8.0)
OTHER = tuple(c for c in product(_DOSES, _JITTERS) if c not in MAIN)
PLANS = {
    "tiny": Plan(512, ((400.0, 5.0),), 2, (), 0, 1, 2, 1, 64, 1, 1e-3, 1, every=4),
    "quick": Plan(1024, MAIN, 12, ((100.0, 5.0), (5000.0, 5.0)), 4, 12, 24, 3, 400, 20, 1e-3, 8),
    "full": Plan(
        1024,
        MAIN,
        150,
        OTHER,
        24,
        215,
        300,
        24,
        1000,
        200,
        1e-4,
        48,
    ),
}
