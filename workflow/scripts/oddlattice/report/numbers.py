"""Numbers as a person reads them: rounded by their error, with units, never more digits than are meant."""

import math
from typing import Any, TypeGuard

NONE = "–"  # what stands where there is no number
MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def usable(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def decimals_for(error: float, digits: int = 2) -> int:
    """Decimals that show `digits` significant digits of `error`; at least 0, at most 12."""
    if not math.isfinite(error) or error <= 0:
        return 0
    return min(12, max(0, digits - 1 - math.floor(math.log10(error))))


def fixed(value: float | None, decimals: int) -> str:
    """`value` with a fixed number of decimals and a true minus sign."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def significant(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` significant digits, none before the point dropped; powers of ten below 0.001 and from 10⁶."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if size < -3 or size >= 6:
        return scientific(value, digits)
    text = f"{value:.{max(0, digits - 1 - size)}f}"
    whole, _, part = text.partition(".")
    return (_grouped(whole) + (f".{part}" if part else "")).replace("-", MINUS)


def scientific(value: float | None, digits: int = 2) -> str:
    """`value` as a power of ten: 3.1×10⁻⁷."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.replace('-', MINUS)}×10{str(int(power)).translate(_SUPERSCRIPT)}"


def probability(value: float | None) -> str:
    """A p or q value: two significant digits, a power of ten below 0.001; an underflow is said to be one."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 1e-300:
        return "<10⁻³⁰⁰"
    return scientific(value) if value < 1e-3 else f"{value:.2g}"


def q_value(value: float | None) -> str:
    """A false-discovery rate: as a p value, but nobody knows one below a millionth."""
    return "< 10⁻⁶" if usable(value) and value < 1e-6 else probability(value)


def _grouped(digits: str) -> str:
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if len(digits) < 5:
        return sign + digits
    return sign + f"{int(digits):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def count(value: int | None) -> str:
    """A whole number, grouped by thousands from 10,000 on."""
    return NONE if value is None else _grouped(str(int(value))).replace("-", MINUS)


def percent(value: float | None, decimals: int = 0) -> str:
    """A fraction as per cent."""
    return NONE if value is None or not math.isfinite(value) else f"{fixed(100 * value, decimals)} %"


def chance(value: float | None) -> str:
    """A probability as per cent; never 0 or 100: nobody knows that."""
    if not usable(value):
        return NONE
    return "< 1 %" if value < 0.005 else "> 99 %" if value >= 0.995 else percent(value)


def with_error(value: float | None, error: float | None, unit: str = "", digits: int = 2, digits_alone: int = 3) -> str:
    """`value ± error unit` rounded to `digits` digits of the error; without an error, `digits_alone` of the value."""
    if value is None or not math.isfinite(value):
        return NONE
    tail = f" {unit}" if unit else ""
    if error is None or not math.isfinite(error) or error <= 0:
        return significant(value, digits_alone) + tail
    decimals = decimals_for(error, digits)
    return f"{fixed(value, decimals)} ± {fixed(error, decimals)}{tail}"


def interval(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """Texts of a value and of its interval `low to high`, rounded by the interval's half width."""
    if value is None or not math.isfinite(value):
        return NONE, NONE
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return significant(value), NONE
    decimals = decimals_for((high - low) / 2)
    texts = ["0" if x == 0 else fixed(x, decimals) for x in (value, low, high)]
    return texts[0], f"{texts[1]} to {texts[2]}"
