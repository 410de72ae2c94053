"""The types of fields: identifiers and timestamps."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    Field,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

#: Clients resolve these path segments, percent-encoded or not.
DOTS = (".", "..")

# Neither control characters (Unicode Cc), nor white space at either end, nor only DOTS.
# The pattern is published, so it names the white space: in JavaScript, \s includes U+FEFF.
_CONTROL = r"\x00-\x1f\x7f-\x9f"
_SPACE = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_INNER = f"[^{_CONTROL}]"
_OUTER = f"[^{_SPACE}{_CONTROL}]"
_NO_DOT = f"[^.{_SPACE}{_CONTROL}]"

Identifier = Annotated[
    str,
    StringConstraints(
        strict=True,
        min_length=1,
        max_length=255,
        pattern=rf"^(?:{_NO_DOT}(?:{_INNER}*{_OUTER})?|\.(?:{_NO_DOT}|{_INNER}+{_OUTER}))$",
    ),
    Field(
        description="Opaque text, without control characters or white space at either end; "
        "not `.` or `..`.",
    ),
]
_identifier = TypeAdapter(Identifier)


def is_identifier(text: str) -> bool:
    """Return whether a text is a valid id."""
    try:
        _identifier.validate_python(text)
    except ValidationError:
        return False
    return True


# RFC 3339, section 5.6.
_TIMESTAMP = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]"
    r"((?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60))(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))"
)
_RFC3339 = re.compile(_TIMESTAMP)


def parse_timestamp(value: object) -> datetime:
    """Parse an RFC 3339 timestamp with an offset. A space may replace the ``T``.

    :returns: the instant, in UTC; digits beyond microseconds are truncated.
    :raises pydantic_core.PydanticCustomError: for anything else, including leap seconds, which
        Python's datetime doesn't support, and years other than 1 to 9999 in UTC.
    """
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "timestamp", "must be an RFC 3339 timestamp with an offset, like 2142-03-01T12:00:00Z"
        )
    day, time, fraction, offset = match.groups()
    if time.endswith(":60"):
        raise PydanticCustomError("timestamp", "must not be a leap second (:60); send :59 instead")
    microseconds = f".{fraction[:6]:0<6}" if fraction else ""
    try:
        local = datetime.fromisoformat(f"{day}T{time}{microseconds}{offset or '+00:00'}")
        return local.astimezone(UTC) if offset else local
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "timestamp", "must be an existing date and time in the years 1 to 9999 in UTC"
        ) from None


Timestamp = Annotated[
    datetime,
    PlainValidator(parse_timestamp),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": f"^{_TIMESTAMP.replace('|60', '')}$",
            "description": "RFC 3339 with an offset, in the years 1 to 9999 in UTC, without "
            "leap seconds; digits beyond microseconds are truncated.",
        }
    ),
]
#: As pydantic renders an instant in UTC.
TimestampInUtc = Annotated[
    datetime,
    WithJsonSchema(
        {"type": "string", "format": "date-time", "description": "RFC 3339 in UTC, with Z."}
    ),
]
