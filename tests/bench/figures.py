"""Figures, their aims, and the table of them."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes
    ----------
    key : str
        Name in bench.json; the unit stands at its end.
    what : str
        In words.
    value : float
    unit : str
    aim : float or None
        What is to be reached.
    least : bool
        Whether the aim is a least value, or a largest.
    note : str
    """

    key: str
    what: str
    value: float
    unit: str
    aim: float | None = None
    least: bool = True
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None without an aim."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.least else self.value <= self.aim


def as_json(figures: list[Figure]) -> dict[str, dict[str, object]]:
    """Figures by key."""
    assert len({figure.key for figure in figures}) == len(figures)
    return {figure.key: asdict(figure) | {"reached": figure.reached} for figure in figures}


def shown(value: float) -> str:
    """Three digits, thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: list[Figure]) -> str:
    """A table in Markdown."""
    lines = ["| what | measured | aim | |", "| --- | ---: | ---: | --- |"]
    for f in figures:
        aim = "" if f.aim is None else f"{'≥' if f.least else '≤'} {shown(f.aim)}"
        said = {None: "", True: "reached", False: "**missed**"}[f.reached]
        lines.append(f"| {f.what} | {shown(f.value)} {f.unit} | {aim} | {'; '.join(x for x in (said, f.note) if x)} |")
    return "\n".join(lines) + "\n"
