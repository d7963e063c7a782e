"""What a file claims to hold against what is stored in it: a few kilobytes can claim forty gigabytes."""

from oddlattice.process.sandbox import Refused
from oddlattice.read.amounts import amount

#: What claims more than this [bytes] must be stored in at least 1/LARGEST_RATIO of it.
HARMLESS_BYTES = 256 << 20
LARGEST_RATIO = 200


def check_claim(claimed: int, stored: int, what: str) -> None:
    """Refuse packed data that would unpack to far more than they are.

    Raises
    ------
    Refused
        With what claims how much.
    """
    if claimed > HARMLESS_BYTES and claimed > LARGEST_RATIO * stored:
        raise Refused(f"claims {amount(claimed)} of data ({what}) in {amount(stored)}: damaged or forged")


def check_length(claimed: int, size: int, what: str) -> None:
    """Refuse a file that is shorter than the plain data it claims.

    Raises
    ------
    Refused
        With what claims how much.
    """
    if claimed > size:
        raise Refused(f"claims {amount(claimed)} of data ({what}) but is {amount(size)} long: damaged or forged")
