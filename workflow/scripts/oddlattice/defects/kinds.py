"""The kinds of defects as the report draws them: a shape and a colour each, told apart without seeing colour."""

from typing import Any

#: Shapes are drawn in a square from -8 to 8. Colours: after Okabe and Ito, brightened to stand on a dark image.
KINDS: dict[str, dict[str, Any]] = {
    "vacancy-like": {
        "colour": "#5cbcf2",
        "path": "M7 0A7 7 0 1 1 -7 0A7 7 0 1 1 7 0Z",
        "says": "column empty or nearly so",
    },
    "lighter": {"colour": "#35d6a4", "path": "M-7 -6H7L0 7Z", "says": "column scatters less than the bulk's"},
    "heavier": {"colour": "#ffa62b", "path": "M-7 6H7L0 -7Z", "says": "column scatters more than the bulk's"},
    "displaced": {"colour": "#ffe45c", "path": "M0 -8L8 0L0 8L-8 0Z", "says": "column stands beside its place"},
    "extra": {"colour": "#f492d8", "path": "M-7 0H7M0 -7V7", "says": "intensity where the crystal has no column"},
    "extended": {"colour": "#ff7a66", "path": "M-7 -7H7V7H-7Z", "says": "region of many columns"},
    "unknown": {"colour": "#eef1f4", "path": "M-6 -6L6 6M6 -6L-6 6", "says": "odd, but none of the kinds above"},
}


def kind_of(name: str | None) -> str:
    """The name of a kind the report can draw; what it does not know is drawn as unknown."""
    return name if name in KINDS else "unknown"
