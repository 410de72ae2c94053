"""What comes in and what goes out: bodies, as pydantic models and typed dictionaries.

Parsing is strict. A body is JSON of exactly one reading (UTF-8, no key twice, no NaN),
and its values are taken as they stand: nothing is converted, trimmed or guessed.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import WithDefaultSchema
from typing_extensions import TypedDict

from galaxy_express.delivery import REJECTED, CounterKey, Decision, Package, Status
from galaxy_express.package_types import PackageType, PackageTypeRegistry
from galaxy_express.preferences import Preferences, PreferenceUpdate

MAX_BATCH = 1000


# What can be wrong with a body
#
# RejectedRequest
#  ├─ MalformedBody   it can't be read at all
#  ├─ BodyTooLarge    it isn't read at all
#  └─ ValidationFailed     it can be read, and breaks rules


class RejectedRequest(Exception):
    """A request that is refused for what it holds; the message says why."""


class MalformedBody(RejectedRequest):
    """The body is not JSON of exactly one reading, or not of the right outer form."""


class BodyTooLarge(RejectedRequest):
    """The body is over the limit of its endpoint."""


class FieldError(TypedDict):
    """What is wrong with one field, and where: a JSON pointer as a URI fragment (RFC 6901)."""

    pointer: str
    detail: str


class ValidationFailed(RejectedRequest):
    """The body is well-formed, and breaks rules: all that it breaks is in ``errors``."""

    def __init__(self, detail: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(detail)
        self.errors = errors or []


# The types of fields

Identifier = Annotated[
    str,
    StringConstraints(
        strict=True,
        min_length=1,
        max_length=255,
        # Neither control characters (Unicode Cc) nor white space at either end.
        pattern=r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
    ),
    Field(description="Opaque text, without control characters or white space at an end."),
]
_identifier = TypeAdapter(Identifier)

# RFC 3339, section 5.6, without leap seconds, which Python's datetime doesn't have.
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]"
    r"((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))"
)


def parse_timestamp(value: object) -> datetime:
    """Read an RFC 3339 timestamp with an offset.

    :returns: the instant, in UTC; digits beyond microseconds are cut.
    :raises pydantic_core.PydanticCustomError: for anything else, and for an instant
        outside the years 1 to 9999 in UTC.
    """
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "timestamp", "must be an RFC 3339 timestamp with an offset, like 2142-03-01T12:00:00Z"
        )
    day, time, fraction, offset = match.groups()
    try:
        local = f"{day}T{time}.{(fraction or '')[:6]:0<6}{offset or '+00:00'}"
        return datetime.fromisoformat(local).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(
            "timestamp", "must be a day and time that exist, in the years 1 to 9999 in UTC"
        ) from None


def format_timestamp(timestamp: datetime) -> str:
    """An instant in UTC as RFC 3339 has it, with ``Z``."""
    return timestamp.replace(tzinfo=None).isoformat() + "Z"


Timestamp = Annotated[
    datetime,
    PlainValidator(parse_timestamp),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": f"^{_RFC3339.pattern}$",
            "description": "RFC 3339 with an offset, in the years 1 to 9999 in UTC; "
            "digits beyond microseconds are cut.",
        }
    ),
]
TimestampInUtc = Annotated[
    str,
    WithJsonSchema(
        {"type": "string", "format": "date-time", "description": "RFC 3339 in UTC, with Z."}
    ),
]


def _must_equal_path(value: str, info: ValidationInfo) -> str:
    if value != info.context:
        raise PydanticCustomError("path", "must be the recipient_id of the path")
    return value


def _must_be_wanted(value: bool) -> bool:
    if not value:
        raise PydanticCustomError("not_declinable", "must be true: this type can't be declined")
    return value


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _PackageBody(_Body):
    timestamp: Timestamp
    sender_id: Identifier
    recipient_id: Identifier
    package_id: Identifier


class _UpdateBody(_Body):
    timestamp: Timestamp
    recipient_id: Annotated[
        Identifier,
        AfterValidator(_must_equal_path),
        Field(description="May be left out; otherwise the recipient_id of the path."),
    ] = ""


# What goes out


class DecisionBody(TypedDict):
    """What was decided of a package."""

    package_id: Identifier
    status: Annotated[str, WithJsonSchema({"type": "string", "enum": list(Status)})]
    reason: Annotated[
        str | None,
        WithJsonSchema(
            {
                "type": ["string", "null"],
                "enum": ["recipient_declined", None],
                "description": "Why it was dropped.",
            }
        ),
    ]
    sender_id: Identifier
    recipient_id: Identifier
    package_type: str
    timestamp: TimestampInUtc


class TypeTotals(TypedDict):
    """How many packages of one type were delivered and dropped."""

    delivered: int
    dropped: int


class StatisticsBody(TypedDict):
    """The totals."""

    packages_delivered: int
    packages_dropped: int
    requests_rejected: int
    by_type: dict[str, TypeTotals]


def decision_body(decision: Decision) -> DecisionBody:
    """The answer that tells a decision, the first time and every time."""
    package = decision.package
    return {
        "package_id": package.package_id,
        "status": decision.status.value,
        "reason": decision.reason,
        "sender_id": package.sender_id,
        "recipient_id": package.recipient_id,
        "package_type": package.package_type,
        "timestamp": format_timestamp(package.timestamp),
    }


class Schemas:
    """The bodies of a service that knows certain package types."""

    def __init__(self, package_types: PackageTypeRegistry) -> None:
        self._package_types = package_types
        known_type: Any = Literal[package_types.names]
        self._package_body = create_model(
            "Package",
            __base__=_PackageBody,
            __doc__="A package to decide of.",
            package_type=(known_type, ...),
        )
        self._update_body = create_model(
            "PreferenceUpdate",
            __base__=_UpdateBody,
            __doc__="A recipient's new preferences. One that is left out stays as it is.",
            **{t.preference_field: _preference_field(t) for t in package_types},
        )

    def parse_package(self, body: bytes) -> Package:
        """Read a package.

        :raises RejectedRequest: if the body isn't one.
        """
        return self._package(_parse_json(body))

    def parse_batch(self, body: bytes) -> list[Package | RejectedRequest]:
        """Read packages: each in its place, or in its place why it is refused.

        :raises RejectedRequest: if the body isn't an array of at most 1,000 items.
        """
        items = _parse_json(body)
        if not isinstance(items, list):
            raise MalformedBody("the body must be a JSON array")
        if len(items) > MAX_BATCH:
            raise ValidationFailed(f"a batch has at most {MAX_BATCH} items, not {len(items)}")
        return [self._package_or_refusal(item) for item in items]

    def _package_or_refusal(self, item: object) -> Package | RejectedRequest:
        try:
            return self._package(item)
        except RejectedRequest as refusal:
            return refusal

    def _package(self, data: object) -> Package:
        body: Any = _validate(self._package_body, data)
        return Package(
            body.package_id,
            body.sender_id,
            body.recipient_id,
            body.package_type,
            body.timestamp,
        )

    def parse_update(self, body: bytes, recipient_id: str) -> PreferenceUpdate:
        """Read new preferences.

        :param recipient_id: the one of the path, which a body may only repeat.
        :raises RejectedRequest: if the body isn't an update, or the id can't be one.
        """
        if not is_identifier(recipient_id):
            raise ValidationFailed("the recipient_id of the path can't be valid")
        data: Any = _validate(self._update_body, _parse_json(body), context=recipient_id)
        return PreferenceUpdate(
            recipient_id,
            data.timestamp,
            {
                package_type.name: wanted
                for package_type in self._package_types
                if (wanted := getattr(data, package_type.preference_field)) is not None
            },
        )

    def preferences_body(self, recipient_id: str, preferences: Preferences) -> dict[str, object]:
        """The answer that tells a recipient's preferences in force, defaults included."""
        newest = max((said.timestamp for said in preferences.values()), default=None)
        body: dict[str, object] = {"recipient_id": recipient_id}
        for package_type in self._package_types:
            said = preferences.get(package_type.name)
            wanted = package_type.is_wanted(said.wanted if said else None)
            body[package_type.preference_field] = wanted
        body["updated_at"] = newest and format_timestamp(newest)
        return body

    def statistics_body(self, totals: Mapping[CounterKey, int]) -> StatisticsBody:
        """The answer that tells the totals."""
        counted = {package_type for _, package_type in totals.keys() - {REJECTED}}
        by_type: dict[str, TypeTotals] = {
            name: {
                "delivered": totals.get(("delivered", name), 0),
                "dropped": totals.get(("dropped", name), 0),
            }
            for name in sorted(counted | {*self._package_types.names})
        }
        return {
            "packages_delivered": sum(row["delivered"] for row in by_type.values()),
            "packages_dropped": sum(row["dropped"] for row in by_type.values()),
            "requests_rejected": totals.get(REJECTED, 0),
            "by_type": by_type,
        }

    def json_schemas(self, ref_template: str) -> dict[str, Any]:
        """The JSON Schemas of all bodies and of their parts, by name.

        :param ref_template: how one refers to another, with ``{model}`` for its name.
        """
        fields: dict[str, Any] = {"recipient_id": Identifier}
        fields |= {t.preference_field: bool for t in self._package_types}
        fields["updated_at"] = (TimestampInUtc | None, Field(description=_UPDATED_AT))
        preferences = create_model(
            "PreferencesBody",
            __doc__="A recipient's preferences in force, defaults included.",
            **fields,
        )
        updated_preferences = create_model(
            "UpdatedPreferencesBody",
            __base__=preferences,
            __doc__="A recipient's preferences in force after an update.",
            applied=(bool, Field(description=_APPLIED)),
        )
        models: list[Any] = [self._package_body, self._update_body, DecisionBody]
        models += [preferences, updated_preferences, StatisticsBody]
        _, definitions = TypeAdapter.json_schemas(
            [(model, "validation", TypeAdapter(model)) for model in models],
            ref_template=ref_template,
            schema_generator=_PlainJsonSchema,
        )
        schemas: dict[str, Any] = definitions["$defs"]
        by_type = schemas["StatisticsBody"]["properties"]["by_type"]
        by_type["properties"] = dict.fromkeys(
            self._package_types.names, by_type["additionalProperties"]
        )
        by_type["required"] = list(self._package_types.names)
        return schemas


_UPDATED_AT = "The newest timestamp of an update that is in force; null where none is."
_APPLIED = "Whether all that the update named is in force, with its value and timestamp."


class _PlainJsonSchema(GenerateJsonSchema):
    """JSON Schema without titles, which repeat the names, and without defaults, which
    here stand for what was left out, and can't be sent."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Never."""
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """What is inside."""
        return self.generate_inner(schema["schema"])


def is_identifier(text: str) -> bool:
    """Whether the text could be the id of anything."""
    try:
        _identifier.validate_python(text)
    except ValidationError:
        return False
    return True


def _preference_field(package_type: PackageType) -> Any:
    annotation: Any = bool
    if not package_type.declinable:
        annotation = Annotated[
            bool,
            AfterValidator(_must_be_wanted),
            WithJsonSchema({"type": "boolean", "const": True}),
        ]
    return (annotation, ... if package_type.required_in_updates else None)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise MalformedBody("the body has an object with the same key twice")
    return members


def _no_constants(name: str) -> object:
    raise MalformedBody(f"the body has {name}, which is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constants)


def _parse_json(body: bytes) -> object:
    if not body:
        raise MalformedBody("the body is empty")
    try:
        return _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"the body is not JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except ValueError:  # from int()
        raise MalformedBody("the body has a number of too many digits") from None


def _validate(model: type[BaseModel], data: object, context: object = None) -> BaseModel:
    if not isinstance(data, dict):
        raise MalformedBody("a JSON object is needed")
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=True, include_input=False)
    if any(not details["loc"] for details in errors):
        # The name of a field is not Unicode, and pydantic goes no further.
        return _validate(model, {_escape_surrogates(key): data[key] for key in data}, context)
    raise ValidationFailed(
        "the body breaks the rules for " + ("a field" if len(errors) == 1 else "some fields"),
        [_field_error(details) for details in errors],
    )


def _escape_surrogates(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_DETAILS = {
    "missing": "is required",
    "extra_forbidden": "is not a field that is known here",
    "string_type": "must be a string",
    "string_unicode": "must be Unicode, without a lone surrogate",
    "string_too_short": "must have 1 to 255 characters",
    "string_too_long": "must have 1 to 255 characters",
    "string_pattern_mismatch": "must have neither control characters nor white space at an end",
    "literal_error": "must be one of {expected}",
    "bool_type": "must be true or false",
}


def _field_error(details: ErrorDetails) -> FieldError:
    path = [str(part).replace("~", "~0").replace("/", "~1") for part in details["loc"]]
    message = _DETAILS.get(details["type"], details["msg"])
    return {
        "pointer": "#/" + quote("/".join(path), safe="/~!$&'()*+,;=:@?"),
        "detail": message.format(**details.get("ctx", {})),
    }
