"""The kinds of defects as the report draws them: a shape and a colour each, told apart without seeing colour."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """How a kind is drawn and what it means.

    Attributes
    ----------
    colour : str
        After Okabe and Ito, brightened to stand on a dark image.
    path : str
        SVG path in a square from -8 to 8.
    marker : str
        The same shape as matplotlib names it.
    says : str
    """

    colour: str
    path: str
    marker: str
    says: str


KINDS = {
    "vacancy-like": Kind("#5cbcf2", "M7 0A7 7 0 1 1 -7 0A7 7 0 1 1 7 0Z", "o", "column empty or nearly so"),
    "lighter": Kind("#35d6a4", "M-7 -6H7L0 7Z", "v", "column scatters less than the bulk's"),
    "heavier": Kind("#ffa62b", "M-7 6H7L0 -7Z", "^", "column scatters more than the bulk's"),
    "displaced": Kind("#ffe45c", "M0 -8L8 0L0 8L-8 0Z", "D", "column stands beside its place"),
    "extra": Kind("#f492d8", "M-7 0H7M0 -7V7", "+", "intensity where the crystal has no column"),
    "extended": Kind("#ff7a66", "M-7 -7H7V7H-7Z", "s", "region of many columns"),
    "boundary": Kind("#c9a6ff", "M-8 4L-3 -4L3 4L8 -4", "h", "line where two crystals, or parts of one, meet"),
    "unknown": Kind("#eef1f4", "M-6 -6L6 6M6 -6L-6 6", "x", "odd, but none of the kinds above"),
}


#: Kinds that are no points: they are listed, and counted in no density.
NO_POINTS = ("extended", "boundary")


def kind_of(name: str | None) -> str:
    """The name of a kind the report can draw; what it does not know is drawn as unknown."""
    return name if name in KINDS else "unknown"
