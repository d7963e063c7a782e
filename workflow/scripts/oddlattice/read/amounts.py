"""Amounts and sizes in words."""


def amount(n_bytes: float) -> str:
    """A number of bytes in words, such as "40 GB"."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} {unit}" if unit == "bytes" or n_bytes >= 10 else f"{n_bytes:.1f} {unit}"


def dimensions(shape: tuple[int, ...]) -> str:
    """A shape in words, such as "512 x 512"."""
    return " x ".join(str(n) for n in shape)
