"""Request and response bodies, as pydantic models and typed dictionaries.

Parsing is strict: values are never converted, trimmed or guessed.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
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

from galaxy_express.delivery import REJECTED, CounterKey, Decision, Package, SendResult, Status
from galaxy_express.package_types import PackageType, PackageTypeRegistry
from galaxy_express.preferences import Preferences, PreferenceUpdate, ReceivedUpdate
from galaxy_express.web.fields import (
    DOTS,
    Identifier,
    Timestamp,
    TimestampInUtc,
    is_identifier,
)
from galaxy_express.web.rejections import (
    FieldError,
    MalformedBody,
    RejectedRequest,
    ValidationFailed,
)
from galaxy_express.web.strict_json import parse_json

MAX_BATCH = 1000

# How many invalid fields a response lists, per body and per item of a batch.
MAX_ERRORS = 100
MAX_ITEM_ERRORS = 10

# The longest pointer to an unknown field that is listed, so that responses stay small.
MAX_POINTER = 255


# Request bodies


class _UpdateContext(NamedTuple):
    """The context that an update is validated with, in addition to the models."""

    recipient_id: str
    max_ahead: timedelta | None


def _must_equal_path(value: str, info: ValidationInfo) -> str:
    context: Any = info.context
    if value != context.recipient_id:
        raise PydanticCustomError("path", "must be the recipient_id in the path")
    return value


def _must_not_be_far_ahead(value: datetime, info: ValidationInfo) -> datetime:
    context: Any = info.context
    if context.max_ahead is not None and value - datetime.now(UTC) > context.max_ahead:
        raise PydanticCustomError(
            "max_ahead",
            "must not be more than {seconds} s ahead of the server's clock",
            {"seconds": f"{context.max_ahead.total_seconds():g}"},
        )
    return value


def _must_be_wanted(value: bool) -> bool:
    if not value:
        raise PydanticCustomError("not_declinable", "must be true: this type can't be declined")
    return value


class _Body(BaseModel):
    # Unknown fields are removed earlier, and only counted if there are many.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _PackageBody(_Body):
    timestamp: Timestamp
    sender_id: Identifier
    recipient_id: Identifier
    package_id: Identifier


class _UpdateBody(_Body):
    timestamp: Annotated[Timestamp, AfterValidator(_must_not_be_far_ahead)]
    recipient_id: Annotated[
        Identifier,
        AfterValidator(_must_equal_path),
        Field(description="Optional; if given, it must be the recipient_id in the path."),
    ] = ""


class _Form:
    """A model, and cached attributes of it that validation needs.

    :param preferences: the fields of which a body must have at least one, if it must.
    """

    def __init__(self, model: type[BaseModel], preferences: Collection[str] = ()) -> None:
        self.model = model
        self.preferences = preferences
        self.fields = model.model_fields.keys()
        self.validate = TypeAdapter(model).validator.validate_python


# Response bodies

_DECIDED_AT = (
    "When it was decided, by the clock of the machine with the database; null if it was decided"
    " before version 1.1."
)
_RECEIVED_AT = "When it was received, by the clock of the machine with the database."
_DECLINED_AT = (
    "The timestamp of the preference that caused the drop; null if it was delivered, or if "
    "its type is unwanted by default and the recipient has no preference."
)
_NEXT = (
    "The cursor of the next page, for the parameter `after`. In descending order it is null on the "
    "last page; in ascending order it is never null, so that later decisions can be read with it."
)


class DecisionBody(TypedDict):
    """The decision on a package."""

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
    decided_at: Annotated[TimestampInUtc | None, Field(description=_DECIDED_AT)]
    declined_at: Annotated[TimestampInUtc | None, Field(description=_DECLINED_AT)]


class SendResultBody(DecisionBody):
    """The decision on a package of a batch."""

    replayed: Annotated[bool, Field(description="Whether the package had been decided before.")]


class PackagesPage(TypedDict):
    """A page of decisions."""

    packages: list[DecisionBody]
    next: Annotated[str | None, Field(description=_NEXT)]


class TypeTotals(TypedDict):
    """The numbers of delivered and dropped packages of one type."""

    delivered: int
    dropped: int


class StatisticsBody(TypedDict):
    """The totals."""

    packages_delivered: int
    packages_dropped: int
    requests_rejected: int
    by_type: dict[str, TypeTotals]


def decision_body(decision: Decision) -> DecisionBody:
    """Render a decision; the result is the same for every retry."""
    package = decision.package
    return {
        "package_id": package.package_id,
        "status": decision.status.value,
        "reason": decision.reason,
        "sender_id": package.sender_id,
        "recipient_id": package.recipient_id,
        "package_type": package.package_type,
        "timestamp": package.timestamp,
        "decided_at": decision.decided_at,
        "declined_at": decision.declined_at,
    }


def send_result_body(result: SendResult) -> SendResultBody:
    """Render the outcome of a send in a batch."""
    return {**decision_body(result.decision), "replayed": result.replayed}


class Schemas:
    """The bodies of a service, which depend on its package types.

    :param max_ahead: how far the timestamp of a preference update may be ahead of the
        server's clock, if there is a limit.
    """

    def __init__(
        self, package_types: PackageTypeRegistry, max_ahead: timedelta | None = None
    ) -> None:
        self._package_types = package_types
        self._max_ahead = max_ahead
        known_type: Any = Literal[package_types.names]
        self._package_form = _Form(
            create_model(
                "Package",
                __base__=_PackageBody,
                __doc__="A package to decide.",
                package_type=(known_type, ...),
            )
        )
        self._update_form = _Form(
            create_model(
                "PreferenceUpdate",
                __base__=_UpdateBody,
                __doc__="A recipient's new preferences. Omitted ones are unchanged.",
                **{t.preference_field: _preference_field(t) for t in package_types},
            )
        )
        self._partial_update_form = _Form(
            create_model(
                "PartialPreferenceUpdate",
                __base__=_UpdateBody,
                __doc__="A recipient's new preferences, at least one. Omitted ones are unchanged.",
                **{t.preference_field: _preference_field(t, required=False) for t in package_types},
            ),
            preferences=[t.preference_field for t in package_types],
        )

    def parse_package(self, body: bytes) -> Package:
        """Parse a package.

        :raises RejectedRequest: if the body isn't a valid package.
        """
        data = parse_json(body)
        if not isinstance(data, dict):
            raise MalformedBody("the body must be a JSON object")
        return self._package(data, MAX_ERRORS)

    def parse_batch(self, body: bytes) -> list[Package | RejectedRequest]:
        """Parse the packages of a batch.

        :returns: for each item the package, or the reason for its rejection.
        :raises RejectedRequest: if the body isn't an array of at most 1,000 items.
        """
        items = parse_json(body)
        if not isinstance(items, list):
            raise MalformedBody("the body must be a JSON array")
        if len(items) > MAX_BATCH:
            raise ValidationFailed(
                f"a batch must have at most {MAX_BATCH:,} items, not {len(items):,}"
            )
        return [self._package_or_rejection(item) for item in items]

    def _package_or_rejection(self, item: object) -> Package | RejectedRequest:
        if not isinstance(item, dict):
            return MalformedBody("an item must be a JSON object")
        try:
            return self._package(item, MAX_ITEM_ERRORS)
        except RejectedRequest as rejection:
            return rejection

    def _package(self, data: dict[str, object], max_errors: int) -> Package:
        body = _validate(self._package_form, data, max_errors)
        return Package(
            body.package_id,
            body.sender_id,
            body.recipient_id,
            body.package_type,
            body.timestamp,
        )

    def parse_update(self, body: bytes, recipient_id: str) -> PreferenceUpdate:
        """Parse new preferences.

        :param recipient_id: the one in the path, which the body may repeat.
        :raises RejectedRequest: if the body isn't a valid update, or the id is invalid.
        """
        return self._parse_update(self._update_form, body, recipient_id)

    def parse_partial_update(self, body: bytes, recipient_id: str) -> PreferenceUpdate:
        """Parse new preferences, of which any but not all may be omitted.

        :param recipient_id: the one in the path, which the body may repeat.
        :raises RejectedRequest: if the body isn't a valid update, or the id is invalid.
        """
        return self._parse_update(self._partial_update_form, body, recipient_id)

    def _parse_update(self, form: _Form, body: bytes, recipient_id: str) -> PreferenceUpdate:
        check_recipient_of_path(recipient_id)
        data = parse_json(body)
        if not isinstance(data, dict):
            raise MalformedBody("the body must be a JSON object")
        context = _UpdateContext(recipient_id, self._max_ahead)
        update = _validate(form, data, MAX_ERRORS, context)
        return PreferenceUpdate(
            recipient_id,
            update.timestamp,
            {
                package_type.name: wanted
                for package_type in self._package_types
                if (wanted := getattr(update, package_type.preference_field)) is not None
            },
        )

    def preferences_body(self, recipient_id: str, preferences: Preferences) -> dict[str, object]:
        """Render a recipient's current preferences, including defaults."""
        newest = max((current.timestamp for current in preferences.values()), default=None)
        body: dict[str, object] = {"recipient_id": recipient_id}
        for package_type in self._package_types:
            current = preferences.get(package_type.name)
            wanted = package_type.is_wanted(current.wanted if current else None)
            body[package_type.preference_field] = wanted
        body["updated_at"] = newest
        return body

    def received_update_body(self, received: ReceivedUpdate) -> dict[str, object]:
        """Render an update in the history."""
        update = received.update
        body: dict[str, object] = {
            "timestamp": update.timestamp,
            "received_at": received.received_at,
        }
        # Includes types that are no longer registered.
        body |= {f"{name}_preference": wanted for name, wanted in update.wanted.items()}
        return body | {"applied": received.applied}

    def statistics_body(self, totals: Mapping[CounterKey, int]) -> StatisticsBody:
        """Render the totals."""
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
        """Generate the JSON Schemas of all bodies and their parts, by name.

        :param ref_template: the format of references, with ``{model}`` for the name.
        """
        fields: dict[str, Any] = {"recipient_id": Identifier}
        fields |= {t.preference_field: bool for t in self._package_types}
        fields["updated_at"] = (TimestampInUtc | None, Field(description=_UPDATED_AT))
        preferences = create_model(
            "PreferencesBody",
            __doc__="A recipient's current preferences, including defaults.",
            **fields,
        )
        updated_preferences = create_model(
            "UpdatedPreferencesBody",
            __base__=preferences,
            __doc__="A recipient's current preferences after an update.",
            applied=(bool, Field(description=_APPLIED)),
        )
        fields = {
            "timestamp": TimestampInUtc,
            "received_at": (TimestampInUtc, Field(description=_RECEIVED_AT)),
        }
        fields |= {t.preference_field: (bool, None) for t in self._package_types}
        received = create_model(
            "ReceivedUpdate",
            __doc__="A preference update, with the preferences that it named.",
            **fields,
            applied=(bool, Field(description=_APPLIED_THEN)),
        )
        history = create_model(
            "HistoryPage",
            __doc__="A page of a recipient's preference updates.",
            updates=list[received],
            next=(str | None, Field(description=_NEXT)),
        )
        forms = (self._package_form, self._update_form, self._partial_update_form)
        models: list[Any] = [form.model for form in forms]
        models += [DecisionBody, SendResultBody, PackagesPage]
        models += [preferences, updated_preferences, history, StatisticsBody]
        _, definitions = TypeAdapter.json_schemas(
            [(model, "validation", TypeAdapter(model)) for model in models],
            ref_template=ref_template,
            schema_generator=_PlainJsonSchema,
        )
        schemas: dict[str, Any] = definitions["$defs"]
        schemas["PartialPreferenceUpdate"]["anyOf"] = [
            {"required": [package_type.preference_field]} for package_type in self._package_types
        ]
        by_type = schemas["StatisticsBody"]["properties"]["by_type"]
        by_type["properties"] = dict.fromkeys(
            self._package_types.names, by_type["additionalProperties"]
        )
        by_type["required"] = list(self._package_types.names)
        return schemas


_UPDATED_AT = "The newest timestamp of the current preferences; null if all are defaults."
_APPLIED_THEN = "Whether it was applied, as returned at the time."
_APPLIED = (
    "Whether every preference that the update named is current, with its value and timestamp."
)


class _PlainJsonSchema(GenerateJsonSchema):
    """JSON Schema without titles, which would repeat the names, and without defaults, which only
    mark missing fields and can't be sent."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Return False."""
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema of the field alone."""
        return self.generate_inner(schema["schema"])


def check_recipient_of_path(recipient_id: str) -> None:
    """Check the recipient_id in a path.

    :raises ValidationFailed: if it isn't a valid id.
    """
    if not is_identifier(recipient_id):
        raise ValidationFailed("the recipient_id in the path is invalid")


def _preference_field(package_type: PackageType, required: bool = True) -> Any:
    annotation: Any = bool
    if not package_type.declinable:
        annotation = Annotated[
            bool,
            AfterValidator(_must_be_wanted),
            WithJsonSchema({"type": "boolean", "const": True}),
        ]
    return (annotation, ... if required and package_type.required_in_updates else None)


def _validate(form: _Form, data: dict[str, object], max_errors: int, context: object = None) -> Any:
    fields = form.fields
    unknown = 0 if data.keys() <= fields else sum(name not in fields for name in data)
    known = {name: value for name, value in data.items() if name in fields} if unknown else data
    errors: list[FieldError] = []
    if form.preferences and known.keys().isdisjoint(form.preferences):
        errors.append({"pointer": "#", "detail": "must name at least one preference"})
    try:
        body = form.validate(known, context=context)
    except ValidationError as error:
        errors += map(_field_error, error.errors(include_url=False))
    else:
        if not errors and not unknown:
            return body
    found = len(errors) + unknown
    unknown_names = (name for name in data if name not in fields)
    errors += map(_unknown_field, islice(unknown_names, max(0, max_errors - len(errors))))
    raise ValidationFailed(
        "a field is invalid" if found == 1 else "some fields are invalid",
        errors[:max_errors],
        omitted=max(0, found - max_errors),
    )


_DETAILS = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must not have a lone surrogate",
    "string_too_short": "must have 1 to 255 characters",
    "string_too_long": "must have 1 to 255 characters",
    "string_pattern_mismatch": "must not have control characters, or white space at either end",
    "literal_error": "must be one of {expected}",
    "bool_type": "must be true or false",
}


def _field_error(details: ErrorDetails) -> FieldError:
    (name,) = details["loc"]
    if details["type"] == "string_pattern_mismatch" and details["input"] in DOTS:
        message = "must not be . or .., which can't be used in a path"
    else:
        message = _DETAILS.get(details["type"], details["msg"])
    return {"pointer": f"#/{name}", "detail": message.format(**details.get("ctx", {}))}


def _unknown_field(name: str) -> FieldError:
    escaped = name[:MAX_POINTER].replace("~", "~0").replace("/", "~1")
    pointer = "#/" + quote(escaped, safe="/~!$&'()*+,;=:@?", errors="backslashreplace")
    if len(name) > MAX_POINTER or len(pointer) > MAX_POINTER:
        return {"pointer": "#", "detail": "has an unknown field with a long name"}
    return {"pointer": pointer, "detail": "is not a known field"}
