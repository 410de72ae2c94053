"""Timestamps: RFC 3339 with an offset, and nothing else."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from galaxy_express.web.fields import parse_timestamp
from galaxy_express.web.responses import json_response


@pytest.mark.parametrize(
    ("text", "in_utc"),
    [
        ("2142-03-01T12:00:00Z", "2142-03-01T12:00:00Z"),
        ("2142-03-01t12:00:00z", "2142-03-01T12:00:00Z"),
        ("2142-03-01 12:00:00z", "2142-03-01T12:00:00Z"),
        # The formats of `date --rfc-3339=seconds` and of Python's str().
        ("2142-03-01 12:00:00+00:00", "2142-03-01T12:00:00Z"),
        ("2142-03-01 12:00:00.5-01:30", "2142-03-01T13:30:00.500000Z"),
        ("2142-03-01T12:00:00+00:00", "2142-03-01T12:00:00Z"),
        ("2142-03-01T12:00:00-00:00", "2142-03-01T12:00:00Z"),
        ("2142-03-01T12:00:00+01:30", "2142-03-01T10:30:00Z"),
        ("2142-03-01T00:30:00+01:00", "2142-02-28T23:30:00Z"),
        ("2142-03-01T12:00:00-23:59", "2142-03-02T11:59:00Z"),
        ("2142-03-01T12:00:00+23:59", "2142-02-28T12:01:00Z"),
        ("2144-02-29T23:59:59Z", "2144-02-29T23:59:59Z"),
        ("2142-03-01T12:00:00.5Z", "2142-03-01T12:00:00.500000Z"),
        ("2142-03-01T12:00:00.000Z", "2142-03-01T12:00:00Z"),
        ("2142-03-01T12:00:00.123456Z", "2142-03-01T12:00:00.123456Z"),
        # Digits beyond microseconds are truncated, not rounded.
        ("2142-03-01T12:00:00.1234569Z", "2142-03-01T12:00:00.123456Z"),
        ("2142-12-31T23:59:59.9999999999Z", "2142-12-31T23:59:59.999999Z"),
        ("2142-03-01T12:00:00.0000009Z", "2142-03-01T12:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T14:00:00+14:00", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("9999-12-31T22:59:59-01:00", "9999-12-31T23:59:59Z"),
    ],
)
def test_valid_timestamps(text: str, in_utc: str) -> None:
    """Every form of RFC 3339, section 5.6, is parsed as its instant."""
    assert json.loads(json_response(parse_timestamp(text)).body) == in_utc


@pytest.mark.parametrize(
    "value",
    [
        # No offset, or half of one: it could not be ordered between planets.
        "2142-03-01T12:00:00",
        "2142-03-01T12:00:00+01",
        "2142-03-01T12:00:00+0100",
        "2142-03-01T12:00:00 +01:00",
        "2142-03-01T12:00:00+24:00",
        "2142-03-01T12:00:00+01:60",
        "2142-03-01T12:00:00+01:00:00",
        "2142-03-01T12:00:00ZZ",
        # Not RFC 3339, although ISO 8601 or Python may allow it.
        "2142-03-01",
        "2142-03-01  12:00:00Z",
        "2142-03-01\t12:00:00Z",
        "2142-03-01_12:00:00Z",
        "2142-03-01 12:00:00",
        "2142-03-01T12:00Z",
        "2142-03-01T12Z",
        "20142-03-01T12:00:00Z",
        "+2142-03-01T12:00:00Z",
        "-0001-03-01T12:00:00Z",
        "2142-W09-4T12:00:00Z",
        "2142-060T12:00:00Z",
        "21420301T120000Z",
        "2142-03-01T12:00:00,5Z",
        "2142-03-01T12:00:00.Z",
        "2142-3-1T12:00:00Z",
        "Thu, 01 Mar 2142 12:00:00 GMT",
        "now",
        "",
        # Dates and times that don't exist.
        "2142-02-29T12:00:00Z",
        "2142-13-01T12:00:00Z",
        "2142-00-01T12:00:00Z",
        "2142-03-00T12:00:00Z",
        "2142-03-01T24:00:00Z",
        "2142-03-01T25:00:00Z",
        "2142-03-01T12:60:00Z",
        "2016-12-31T23:59:60Z",
        "2142-03-01T12:00:61Z",
        "0000-01-01T00:00:00Z",
        # Outside the years 1 to 9999 when converted to UTC.
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-01:00",
        # Surrounding white space, and non-ASCII digits.
        " 2142-03-01T12:00:00Z",
        "2142-03-01T12:00:00Z ",
        "2142-03-01T12:00:00Z\n",
        "2142-03-01T12:00:00Z\0",
        "\uff12\uff11\uff14\uff12-03-01T12:00:00Z",
        "2142-03-01T12:00:00.\uff11Z",
        # Not strings.
        5432100000,
        5432100000.5,
        "5432100000",
        True,
        None,
        ["2142-03-01T12:00:00Z"],
        {},
        datetime(2142, 3, 1, tzinfo=UTC),
    ],
)
def test_invalid_timestamps(value: object) -> None:
    """Anything but an RFC 3339 timestamp with an offset is rejected."""
    with pytest.raises(PydanticCustomError):
        parse_timestamp(value)


@pytest.mark.parametrize(
    "text", ["2016-12-31T23:59:60Z", "2017-01-01 00:59:60.5+01:00", "2142-03-01t12:00:60z"]
)
def test_leap_second_is_rejected(text: str) -> None:
    """A leap second is valid RFC 3339 but rejected, with a message that says why."""
    with pytest.raises(PydanticCustomError, match="leap second"):
        parse_timestamp(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_formatted_timestamp_can_be_parsed(timestamp: datetime) -> None:
    """A formatted timestamp is parsed as the same instant."""
    assert parse_timestamp(json.loads(json_response(timestamp).body)) == timestamp


@given(st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"))
def test_parser_accepts_any_text(text: str) -> None:
    """Any text is either parsed as an instant or rejected with the expected error."""
    try:
        timestamp = parse_timestamp(text)
    except PydanticCustomError:
        return
    assert timestamp.tzinfo is UTC
