"""Parses the bodies of requests.

Parsing is strict: values are never converted, trimmed or guessed.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from galaxy_express.delivery import Package
from galaxy_express.package_types import PackageType, PackageTypeRegistry
from galaxy_express.preferences import PreferenceUpdate
from galaxy_express.web.fields import Identifier, Timestamp, is_identifier
from galaxy_express.web.rejections import MalformedBody, RejectedRequest, ValidationFailed
from galaxy_express.web.strict_json import parse_json
from galaxy_express.web.validation import Form

MAX_BATCH = 1000

# How many invalid fields a response lists, per body and per item of a batch.
MAX_ERRORS = 100
MAX_ITEM_ERRORS = 10


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


class BodyParser:
    """Parses the bodies of requests, which depend on the package types.

    :param max_ahead: how far the timestamp of a preference update may be ahead of the
        server's clock, if there is a limit.
    """

    def __init__(
        self, package_types: PackageTypeRegistry, max_ahead: timedelta | None = None
    ) -> None:
        self._package_types = package_types
        self._max_ahead = max_ahead
        known_type: Any = Literal[package_types.names]
        self._package_form = Form(
            create_model(
                "Package",
                __base__=_PackageBody,
                __doc__="A package to decide.",
                package_type=(known_type, ...),
            )
        )
        self._update_form = Form(
            create_model(
                "PreferenceUpdate",
                __base__=_UpdateBody,
                __doc__="A recipient's new preferences. Omitted ones are unchanged.",
                **{t.preference_field: _preference_field(t) for t in package_types},
            )
        )
        self._partial_update_form = Form(
            create_model(
                "PartialPreferenceUpdate",
                __base__=_UpdateBody,
                __doc__="A recipient's new preferences, at least one. Omitted ones are unchanged.",
                **{t.preference_field: _preference_field(t, required=False) for t in package_types},
            ),
            preferences=[t.preference_field for t in package_types],
        )

    @property
    def models(self) -> list[type[BaseModel]]:
        """The models of all bodies."""
        return [self._package_form.model, self._update_form.model, self._partial_update_form.model]

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
        body = self._package_form.validate(data, max_errors)
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

    def _parse_update(self, form: Form, body: bytes, recipient_id: str) -> PreferenceUpdate:
        check_recipient_of_path(recipient_id)
        data = parse_json(body)
        if not isinstance(data, dict):
            raise MalformedBody("the body must be a JSON object")
        context = _UpdateContext(recipient_id, self._max_ahead)
        update = form.validate(data, MAX_ERRORS, context)
        return PreferenceUpdate(
            recipient_id,
            update.timestamp,
            {
                package_type.name: wanted
                for package_type in self._package_types
                if (wanted := getattr(update, package_type.preference_field)) is not None
            },
        )


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
