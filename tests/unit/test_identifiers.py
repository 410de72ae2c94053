"""Identifiers: opaque text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from galaxy_express.web.fields import Identifier, is_identifier


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "pkg-1",
        "a/b",
        "100%",
        "%2F",
        "a b",
        "a\u00a0b",
        "a\u2028b",
        "...",
        "../a",
        "a/..",
        ".a",
        "%2E%2E",
        "\uff0e",
        "batch",
        "null",
        "0",
        "'; DROP TABLE packages; --",
        "\U0001f680",
        "\U0001f469\u200d\U0001f680",
        "\u65e5\u672c",
        "\u00e9",
        "e\u0301",
        "\ufeffa",
        "\u200b",
        "\uffff",
        "\U0010ffff",
        "x" * 255,
        "\U0001f680" * 255,
    ],
)
def test_valid_identifiers(text: str) -> None:
    """Slashes, percent signs, inner white space and emoji are valid; code points are counted."""
    assert is_identifier(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 256,
        "\U0001f680" * 256,
        # White space at either end, of any kind in Unicode.
        " ",
        " a",
        "a ",
        "\u00a0a",
        "a\u00a0",
        "\u1680a",
        "a\u2003",
        "\u2003",
        "a\u2028",
        "\u2029a",
        "\u202fa",
        "a\u205f",
        "a\u3000",
        # Control characters, anywhere.
        "\0",
        "a\0b",
        "a\nb",
        "a\n",
        "\ta",
        "a\x1fb",
        "a\x7fb",
        "a\x80b",
        "a\x85b",
        "a\x9f",
        # Path segments that clients resolve.
        ".",
        "..",
        # Lone surrogates.
        "\ud83d",
        "a\ude80b",
        "\ud83d\ude80",
    ],
)
def test_invalid_identifiers(text: str) -> None:
    """Empty or long text, white space at either end, control characters, dots and lone surrogates
    are rejected."""
    assert not is_identifier(text)


@given(st.text(max_size=5) | st.text(min_size=254, max_size=257) | st.text(".", max_size=4))
def test_identifier_rule(text: str) -> None:
    """The rule, implemented a second way, gives the same result for any text."""
    assert is_identifier(text) == (
        1 <= len(text) <= 255
        and text == text.strip()
        and text not in (".", "..")
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)
    )


def test_published_pattern() -> None:
    """The published pattern has the same meaning in JavaScript, where white space differs."""
    assert r"\s" not in TypeAdapter(Identifier).json_schema()["pattern"]
