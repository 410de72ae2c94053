"""The bodies of requests: strict parsing, and all errors at once."""

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from galaxy_express.delivery import Package
from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry
from galaxy_express.preferences import PreferenceUpdate
from galaxy_express.web.parsing import BodyParser
from galaxy_express.web.rejections import (
    FieldError,
    MalformedBody,
    ValidationFailed,
)

NOON = datetime(2142, 3, 1, 12, tzinfo=UTC)
PACKAGE: dict[str, object] = {
    "timestamp": "2142-03-01T12:00:00Z",
    "sender_id": "zap",
    "recipient_id": "leela",
    "package_id": "pkg-1",
    "package_type": "personal",
}
UPDATE: dict[str, object] = {
    "timestamp": "2142-03-01T12:00:00Z",
    "personal_preference": True,
    "marketing_preference": False,
}

PARSER = BodyParser(PACKAGE_TYPES)
EXTENDED_PARSER = BodyParser(
    PackageTypeRegistry(
        [
            *PACKAGE_TYPES,
            PackageType("freight", wanted_by_default=False),
            PackageType("tax", declinable=False),
        ]
    )
)


def parse_update(body: bytes) -> PreferenceUpdate:
    """Parse an update by Leela."""
    return PARSER.parse_update(body, "leela")


PARSERS = pytest.mark.parametrize("parse", [PARSER.parse_package, PARSER.parse_batch, parse_update])
OBJECT_PARSERS = pytest.mark.parametrize("parse", [PARSER.parse_package, parse_update])
Parse = Callable[[bytes], object]


def to_json(value: object) -> bytes:
    """Encode a body."""
    return json.dumps(value).encode()


def errors_of(parse: Parse, body: bytes) -> list[FieldError]:
    """The errors of a body."""
    with pytest.raises(ValidationFailed) as invalid:
        parse(body)
    return fields_of(invalid.value)


def fields_of(invalid: ValidationFailed) -> list[FieldError]:
    """The errors that name a field."""
    return [cast(FieldError, error) for error in invalid.errors if "pointer" in error]


def invalid_fields(parse: Parse, value: object) -> list[str]:
    """The pointers to the invalid fields of a body."""
    return [error["pointer"] for error in errors_of(parse, to_json(value))]


def test_parsing_a_package() -> None:
    """A body becomes a package."""
    expected = Package("pkg-1", "zap", "leela", "personal", NOON)
    assert PARSER.parse_package(to_json(PACKAGE)) == expected


def test_parsing_an_update() -> None:
    """A body and the recipient in the path become an update."""
    expected = PreferenceUpdate("leela", NOON, {"personal": True, "marketing": False})
    assert parse_update(to_json(UPDATE)) == expected


def test_white_space_around_json() -> None:
    """JSON allows white space around a value."""
    assert PARSER.parse_package(b" \t\r\n" + to_json(PACKAGE) + b"\n") == (
        PARSER.parse_package(to_json(PACKAGE))
    )


def test_escapes() -> None:
    """A character and its escape are the same, pairs of surrogates included."""
    body = to_json(PACKAGE).replace(b'"zap"', rb'"\ud83d\ude80"')
    assert PARSER.parse_package(body).sender_id == "\U0001f680"


@PARSERS
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "empty"),
        (b" ", "not JSON"),
        (b"{", "not JSON"),
        (b"{}x", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": .5}', "not JSON"),
        (b'{"a": +1}', "not JSON"),
        (b'{"a": 0x10}', "not JSON"),
        (b'{"a": True}', "not JSON"),
        (b"{a: 1}", "not JSON"),
        (b"// {}", "not JSON"),
        (b"a=1&b=2", "not JSON"),
        (b"\0", "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
        (b'{"a": "\t"}', "not JSON"),
        (b'{"a": "\0"}', "not JSON"),
        (b'{"a": "\\x41"}', "not JSON"),
        (b'{"a": "\\ud8"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        (b"\xff", "not UTF-8"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (b'{"a": "\xc0\xaf"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8: it begins with a byte order mark of UTF-16"),
        (b"\xfe\xff" + "{}".encode("utf-16-be"), "not UTF-8: it begins with a byte order mark"),
        ("{}".encode("utf-32"), "not UTF-8: it begins with a byte order mark"),
        ("{}".encode("utf-16-le"), "not JSON"),
        ("{}".encode("utf-32-be"), "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1, "a": 1}', "duplicate key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate key"),
        (b'{"a": {"b": [{"c": 1, "c": 2}]}}', "duplicate key"),
        (b'[[{"a": 1, "a": 1}]]', "duplicate key"),
        # How deep is too deep depends on the version of Python.
        (b"[" * 50_000, "nested too deeply|not JSON"),
        (b'{"a":' * 10_000, "nested too deeply|not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too many digits"),
    ],
)
def test_malformed_json(parse: Parse, body: bytes, detail: str) -> None:
    """A body that isn't unambiguous JSON is malformed, and the message says why."""
    with pytest.raises(MalformedBody, match=detail):
        parse(body)


@OBJECT_PARSERS
@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"true", b"null", b"1e999", b"[{}]"])
def test_body_must_be_an_object(parse: Parse, body: bytes) -> None:
    """A body of another top-level type is malformed too."""
    with pytest.raises(MalformedBody, match="object"):
        parse(body)


@pytest.mark.parametrize("body", [b"{}", b'"x"', b"1", b"null", to_json(PACKAGE)])
def test_batch_must_be_an_array(body: bytes) -> None:
    """A batch of another top-level type is malformed, a single package included."""
    with pytest.raises(MalformedBody, match="array"):
        PARSER.parse_batch(body)


def test_position_of_a_syntax_error() -> None:
    """The message has the line and the column of a syntax error."""
    with pytest.raises(MalformedBody, match=r"line 2, column 3"):
        PARSER.parse_package(b'{"a": 1,\n  b}')


@pytest.mark.parametrize("field", list(PACKAGE))
@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.5, 10**400, [], ["zap"], {}, {"a": {"b": 1}}, "", " zap", "zap\n", "\ud800"],
)
def test_invalid_field_of_a_package(field: str, value: object) -> None:
    """A value of the wrong type or form is the only error, with a pointer to its field."""
    assert invalid_fields(PARSER.parse_package, PACKAGE | {field: value}) == [f"#/{field}"]


@pytest.mark.parametrize("value", [b"1e999", b"-1e999", b"[" * 400 + b"]" * 400])
def test_huge_values_are_of_the_wrong_type(value: bytes) -> None:
    """Huge numbers and deeply nested arrays are rejected like other values of the wrong type."""
    body = to_json(PACKAGE).replace(b'"zap"', value)
    assert errors_of(PARSER.parse_package, body) == [
        {"pointer": "#/sender_id", "detail": "must be a string"}
    ]


@pytest.mark.parametrize("name", ["Personal", "personal ", "marketing,personal", "freight"])
def test_unregistered_type(name: str) -> None:
    """The error for a type that isn't registered names the registered ones."""
    assert errors_of(PARSER.parse_package, to_json(PACKAGE | {"package_type": name})) == [
        {"pointer": "#/package_type", "detail": "must be one of 'personal' or 'marketing'"}
    ]


@pytest.mark.parametrize("field", ["personal_preference", "marketing_preference"])
@pytest.mark.parametrize("value", [None, 0, 1, 1.0, "true", "false", "", [], {}])
def test_preferences_must_be_booleans(field: str, value: object) -> None:
    """Only true and false are booleans."""
    assert errors_of(parse_update, to_json(UPDATE | {field: value})) == [
        {"pointer": f"#/{field}", "detail": "must be true or false"}
    ]


@pytest.mark.parametrize(
    ("parse", "valid"), [(PARSER.parse_package, PACKAGE), (parse_update, UPDATE)]
)
def test_every_field_is_required(parse: Parse, valid: dict[str, object]) -> None:
    """All missing fields are listed at once."""
    assert errors_of(parse, b"{}") == [
        {"pointer": f"#/{field}", "detail": "is required"} for field in valid
    ]


def test_all_errors_at_once() -> None:
    """Missing, invalid and unknown fields are listed together, each with its reason."""
    body = {
        "timestamp": "yesterday",
        "sender_id": "x" * 256,
        "recipient_id": " leela",
        "package_id": "",
        "colour": "red",
    }
    errors = errors_of(PARSER.parse_package, to_json(body))
    assert sorted(errors, key=lambda error: error["pointer"]) == [
        {"pointer": "#/colour", "detail": "is not a known field"},
        {"pointer": "#/package_id", "detail": "must have 1 to 255 characters"},
        {"pointer": "#/package_type", "detail": "is required"},
        {
            "pointer": "#/recipient_id",
            "detail": "must not have control characters, or white space at either end",
        },
        {"pointer": "#/sender_id", "detail": "must have 1 to 255 characters"},
        {
            "pointer": "#/timestamp",
            "detail": "must be an RFC 3339 timestamp with an offset, like 2142-03-01T12:00:00Z",
        },
    ]


@pytest.mark.parametrize("field", ["sender_id", "recipient_id", "package_id"])
@pytest.mark.parametrize("dots", [".", ".."])
def test_dots_are_not_identifiers(field: str, dots: str) -> None:
    """Clients resolve . and .. in paths, so no id may be one."""
    assert errors_of(PARSER.parse_package, to_json(PACKAGE | {field: dots})) == [
        {"pointer": f"#/{field}", "detail": "must not be . or .., which can't be used in a path"}
    ]


def unknown_fields(count: int) -> dict[str, object]:
    """A number of unknown fields."""
    return {f"unknown-{number}": number for number in range(count)}


@pytest.mark.parametrize(
    ("count", "listed", "omitted"), [(98, 99, 0), (99, 100, 0), (100, 100, 1), (5000, 100, 4901)]
)
@OBJECT_PARSERS
def test_at_most_100_errors_of_a_body(parse: Parse, count: int, listed: int, omitted: int) -> None:
    """The errors beyond the first 100 are only counted; known fields come first."""
    valid = UPDATE if parse is parse_update else PACKAGE
    with pytest.raises(ValidationFailed, match="some fields are invalid") as invalid:
        parse(to_json(unknown_fields(count) | valid | {"timestamp": 1}))
    assert len(invalid.value.errors) == listed
    assert invalid.value.omitted == omitted
    assert invalid.value.errors[0].get("pointer") == "#/timestamp"
    assert invalid.value.errors[1].get("pointer") == "#/unknown-0"


def test_at_most_10_errors_of_an_item() -> None:
    """An item of a batch has at most 10 errors; the others are counted."""
    (invalid,) = PARSER.parse_batch(to_json([PACKAGE | unknown_fields(60)]))
    assert isinstance(invalid, ValidationFailed)
    assert (len(invalid.errors), invalid.omitted) == (10, 50)


def test_memory_for_errors_is_bounded() -> None:
    """The errors of 50,000 unknown fields need little memory in addition to the body's."""
    body = to_json([unknown_fields(50_000)])
    tracemalloc.start()
    try:
        PARSER.parse_batch(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25 * len(body)


@OBJECT_PARSERS
@pytest.mark.parametrize("name", ["x" * 256, "é" * 50, "x" * 60_000, "\0" * 200, "~" * 200])
def test_unknown_field_with_a_long_name(parse: Parse, name: str) -> None:
    """A pointer of more than 255 characters isn't listed; its parent object is, instead."""
    valid = UPDATE if parse is parse_update else PACKAGE
    assert errors_of(parse, to_json(valid | {name: 1})) == [
        {"pointer": "#", "detail": "has an unknown field with a long name"}
    ]


def test_update_in_the_far_future() -> None:
    """If there is a limit, the timestamp of an update may not be further ahead of the clock."""
    parser = BodyParser(PACKAGE_TYPES, max_ahead=timedelta(hours=1))
    now = datetime.now(UTC)
    for ahead in (timedelta(0), timedelta(minutes=59), timedelta(days=-1000)):
        timestamp = (now + ahead).isoformat()
        parser.parse_update(to_json(UPDATE | {"timestamp": timestamp}), "leela")
    for timestamp in ((now + timedelta(hours=2)).isoformat(), "9999-12-31T23:59:59Z"):
        body = to_json(UPDATE | {"timestamp": timestamp, "colour": "red"})
        assert errors_of(lambda body: parser.parse_update(body, "leela"), body) == [
            {
                "pointer": "#/timestamp",
                "detail": "must not be more than 3600 s ahead of the server's clock",
            },
            {"pointer": "#/colour", "detail": "is not a known field"},
        ]


@OBJECT_PARSERS
@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("colour", "#/colour"),
        ("", "#/"),
        ("a/b", "#/a~1b"),
        ("a~b", "#/a~0b"),
        ("~1", "#/~01"),
        ("#", "#/%23"),
        ("100%", "#/100%25"),
        ("a b", "#/a%20b"),
        ("{expected}", "#/%7Bexpected%7D"),
        ("é", "#/%C3%A9"),
        ("\U0001f680", "#/%F0%9F%9A%80"),
        ("\0", "#/%00"),
        ("\ud800", "#/%5Cud800"),
        ("__class__", "#/__class__"),
        ("model_config", "#/model_config"),
        ("1", "#/1"),
    ],
)
def test_unknown_field_has_a_pointer(parse: Parse, name: str, pointer: str) -> None:
    """A pointer is a URI fragment according to RFC 6901, whatever the field is called."""
    valid = UPDATE if parse is parse_update else PACKAGE
    assert errors_of(parse, to_json(valid | {name: 1})) == [
        {"pointer": pointer, "detail": "is not a known field"}
    ]


def test_lone_surrogate_in_a_field_name() -> None:
    """A lone surrogate in a field's name is one error among the others."""
    body = to_json(PACKAGE | {"sender_id": 3}).replace(b"{", rb'{"\ud800": 1, "\udfff": 2, ')
    assert sorted(error["pointer"] for error in errors_of(PARSER.parse_package, body)) == [
        "#/%5Cud800",
        "#/%5Cudfff",
        "#/sender_id",
    ]


def test_body_may_repeat_the_recipient_of_the_path() -> None:
    """A recipient in the body must be the one in the path."""
    assert parse_update(to_json(UPDATE | {"recipient_id": "leela"})) == (
        parse_update(to_json(UPDATE))
    )
    assert errors_of(parse_update, to_json(UPDATE | {"recipient_id": "fry"})) == [
        {"pointer": "#/recipient_id", "detail": "must be the recipient_id in the path"}
    ]


@pytest.mark.parametrize("value", [None, 1, "", " leela", "leela ", "\ud800"])
def test_recipient_in_the_body_must_be_valid(value: object) -> None:
    """The rules for identifiers apply to a recipient in the body."""
    assert invalid_fields(parse_update, UPDATE | {"recipient_id": value}) == ["#/recipient_id"]


@pytest.mark.parametrize("recipient_id", ["", " leela", "a\nb", "x" * 256])
def test_recipient_in_the_path_must_be_valid(recipient_id: str) -> None:
    """An update of an invalid recipient is rejected, whatever its body."""
    for body in (to_json(UPDATE), b"nonsense"):
        with pytest.raises(ValidationFailed, match="path") as invalid:
            PARSER.parse_update(body, recipient_id)
        assert invalid.value.errors == []


def test_optional_type() -> None:
    """An optional type that an update omits is unchanged."""
    update = EXTENDED_PARSER.parse_update(to_json(UPDATE), "leela")
    assert update.wanted == {"personal": True, "marketing": False}
    update = EXTENDED_PARSER.parse_update(to_json(UPDATE | {"freight_preference": False}), "leela")
    assert update.wanted == {"personal": True, "marketing": False, "freight": False}


@pytest.mark.parametrize("value", [None, 1, "true"])
def test_invalid_value_of_an_optional_type(value: object) -> None:
    """An optional preference may be missing, but not null."""
    body = to_json(UPDATE | {"freight_preference": value})
    assert errors_of(lambda body: EXTENDED_PARSER.parse_update(body, "leela"), body) == [
        {"pointer": "#/freight_preference", "detail": "must be true or false"}
    ]


def test_type_that_cannot_be_declined() -> None:
    """A type that can't be declined can only be wanted."""
    update = EXTENDED_PARSER.parse_update(to_json(UPDATE | {"tax_preference": True}), "leela")
    assert update.wanted["tax"] is True
    body = to_json(UPDATE | {"tax_preference": False})
    assert errors_of(lambda body: EXTENDED_PARSER.parse_update(body, "leela"), body) == [
        {"pointer": "#/tax_preference", "detail": "must be true: this type can't be declined"}
    ]


def test_batch_keeps_its_order() -> None:
    """Each item becomes a package or a rejection, in order."""
    body = to_json([PACKAGE, 5, PACKAGE | {"package_id": ""}, PACKAGE | {"package_id": "pkg-2"}])
    first, second, third, fourth = PARSER.parse_batch(body)
    assert isinstance(first, Package)
    assert first.package_id == "pkg-1"
    assert isinstance(second, MalformedBody)
    assert isinstance(third, ValidationFailed)
    assert [error.get("pointer") for error in third.errors] == ["#/package_id"]
    assert isinstance(fourth, Package)
    assert fourth.package_id == "pkg-2"


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_batch_within_the_limit(length: int) -> None:
    """A batch may have 0 to 1,000 items."""
    assert len(PARSER.parse_batch(to_json([1] * length))) == length


def test_batch_over_the_limit() -> None:
    """A batch of 1,001 items is invalid."""
    with pytest.raises(ValidationFailed, match=r"at most 1,000 items, not 1,001"):
        PARSER.parse_batch(to_json([1] * 1001))
