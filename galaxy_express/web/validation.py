"""Validates bodies, and says what is wrong with each field."""

from collections.abc import Collection
from itertools import islice
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from galaxy_express.web.fields import DOTS
from galaxy_express.web.rejections import FieldError, ValidationFailed

# The longest pointer to an unknown field that is listed, so that responses stay small.
MAX_POINTER = 255


class Form:
    """The model of a body, and cached attributes of it.

    :param preferences: the fields of which a body must have at least one, if it must.
    """

    def __init__(self, model: type[BaseModel], preferences: Collection[str] = ()) -> None:
        self.model = model
        self._preferences = preferences
        self._fields = model.model_fields.keys()
        self._validate = TypeAdapter(model).validator.validate_python

    def validate(self, data: dict[str, object], max_errors: int, context: object = None) -> Any:
        """Validate a body, which must have no other fields than the model.

        :param max_errors: how many errors are listed.
        :param context: what the validators of the model need in addition.
        :returns: an instance of the model.
        :raises ValidationFailed: listing everything that is wrong, in the order of the model.
        """
        fields = self._fields
        unknown = 0 if data.keys() <= fields else sum(name not in fields for name in data)
        known = {name: value for name, value in data.items() if name in fields} if unknown else data
        errors: list[FieldError] = []
        if self._preferences and known.keys().isdisjoint(self._preferences):
            errors.append({"pointer": "#", "detail": "must name at least one preference"})
        try:
            body = self._validate(known, context=context)
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
