"""Names from files: made printable and back again, and turned into ids that are safe in paths, URLs and HTML."""

import os
import re
import unicodedata

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_UNSAFE = re.compile(r"[^a-z0-9]+")


def escape(name: str | bytes | os.PathLike[str]) -> str:
    r"""Make a file name printable, so that it fits on one line of a table.

    Backslashes, everything Python calls unprintable (control characters, line separators, direction overrides,
    exotic spaces) and bytes that are not UTF-8 become ``\xNN``, byte by byte; all else stays as it is.

    Parameters
    ----------
    name : str or bytes or path
        A name as the file system gives it; str with surrogate escapes, as `os.fsdecode` makes them.

    Returns
    -------
    str
        Text from which `unescape` recovers the bytes.
    """
    found = os.fspath(name)
    text = found if isinstance(found, str) else found.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        char if char.isprintable() and char != "\\" else "".join(f"\\x{byte:02x}" for byte in _bytes(char))
        for char in text
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def unescape(text: str) -> bytes:
    r"""Give the bytes of a name that `escape` made printable."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode("utf-8"))


def slug(name: str, longest: int) -> str:
    """Reduce a name to at most `longest` characters of ``[a-z0-9-]``; accents are dropped, the rest becomes ``-``.

    Returns
    -------
    str
        Never empty, neither starting nor ending with ``-``; different names may give the same slug.
    """
    if not name.isascii():
        name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return _UNSAFE.sub("-", name.lower()).strip("-")[:longest].rstrip("-") or "file"
