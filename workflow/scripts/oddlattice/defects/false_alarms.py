"""How many of some listed defects are false alarms: the one place where it is computed.

The sum of their probabilities of being none, with an interval. The same for the kinds and sites of an image, for images
together and for the archive: sums of what is known of each image alone.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from oddlattice.numerics.arrays import Array
from oddlattice.numerics.intervals import count_interval
from oddlattice.storage.rows import Row


@dataclass(frozen=True)
class FalseAlarms:
    """False alarms among listed defects.

    Attributes
    ----------
    listed : int
    expected, variance : float
        nan where the probability of one of them is not known.
    """

    listed: int = 0
    expected: float = 0.0
    variance: float = 0.0

    @classmethod
    def among(cls, probability_real: Array, dispersion: float = 1.0) -> Self:
        """Among listed defects (n,) of one image; `dispersion` as in `TwoGroups`."""
        false = 1 - np.asarray(probability_real, dtype=np.float64)
        return cls(len(false), float(false.sum()), dispersion * float((false * (1 - false)).sum()))

    def __add__(self, other: "FalseAlarms") -> "FalseAlarms":
        """Of different images or kinds together."""
        return FalseAlarms(self.listed + other.listed, self.expected + other.expected, self.variance + other.variance)

    @property
    def share(self) -> float:
        """Part of the listed ones that is expected to be false."""
        return self.expected / self.listed if self.listed else 0.0

    def row(self) -> Row:
        """``expected_false`` with the interval that holds the number of false ones with 95 %; None where not known."""
        names = ("expected_false", "expected_false_ci_low", "expected_false_ci_high")
        if not np.isfinite(self.expected):
            return dict.fromkeys(names)
        low, high = count_interval(self.expected, self.variance, self.listed)
        return dict(zip(names, (self.expected, float(low), float(high)), strict=True))
