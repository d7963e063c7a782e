"""Names from files survive escaping, and ids are safe."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddlattice.archive.names import escape, slug, unescape


@given(st.binary())
def test_escape_is_reversible_for_any_bytes(name: bytes) -> None:
    assert unescape(escape(name)) == name


@given(st.binary(), st.binary())
def test_different_names_stay_different(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(st.binary())
def test_escaped_is_printable_and_fits_a_table_cell(name: bytes) -> None:
    text = escape(name)
    assert text.isprintable()
    assert not set(text) & set("\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\u202e")
    text.encode("utf-8")


@given(st.text(st.characters(codec="utf-8")))
def test_text_and_its_bytes_are_escaped_alike(name: str) -> None:
    assert escape(name) == escape(name.encode())


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (b"plain name.dm4", "plain name.dm4"),
        ("Größe µm 束.emd".encode(), "Größe µm 束.emd"),
        (b"a\tb\nc", r"a\x09b\x0ac"),
        (b"back\\slash", r"back\x5cslash"),
        (b"caf\xe9.dm3", r"caf\xe9.dm3"),
        ("\u202egpj.dm4".encode(), r"\xe2\x80\xaegpj.dm4"),
    ],
)
def test_escape_of_known_names(name: bytes, escaped: str) -> None:
    assert escape(name) == escaped


@given(st.text(), st.integers(1, 60))
def test_slug_is_safe_and_short(name: str, longest: int) -> None:
    found = slug(name, longest)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found)
    assert len(found) <= max(longest, len("file"))


def test_slug_of_known_names() -> None:
    assert slug("STO_2024 (HAADF) #3", 40) == "sto-2024-haadf-3"
    assert slug("Möller", 40) == "moller"
    assert slug("束", 40) == "file"
