"""The JSON Schemas of all bodies."""

from typing import Any

from pydantic import Field, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.web.fields import Identifier, TimestampInUtc
from galaxy_express.web.parsing import BodyParser
from galaxy_express.web.rendering import (
    NEXT,
    DecisionBody,
    PackagesPage,
    SendResultBody,
    StatisticsBody,
)

_RECEIVED_AT = "When it was received, by the clock of the machine with the database."
_UPDATED_AT = "The newest timestamp of the current preferences; null if all are defaults."
_APPLIED_THEN = "Whether it was applied, as returned at the time."
_APPLIED = (
    "Whether every preference that the update named is current, with its value and timestamp."
)


def json_schemas(package_types: PackageTypeRegistry, ref_template: str) -> dict[str, Any]:
    """Generate the JSON Schemas of all bodies and their parts, by name.

    :param ref_template: the format of references, with ``{model}`` for the name.
    """
    models: list[Any] = [*BodyParser(package_types).models]
    models += [DecisionBody, SendResultBody, PackagesPage, StatisticsBody]
    models += _preference_models(package_types)
    _, definitions = TypeAdapter.json_schemas(
        [(model, "validation", TypeAdapter(model)) for model in models],
        ref_template=ref_template,
        schema_generator=_PlainJsonSchema,
    )
    schemas: dict[str, Any] = definitions["$defs"]
    schemas["PartialPreferenceUpdate"]["anyOf"] = [
        {"required": [package_type.preference_field]} for package_type in package_types
    ]
    by_type = schemas["StatisticsBody"]["properties"]["by_type"]
    by_type["properties"] = dict.fromkeys(package_types.names, by_type["additionalProperties"])
    by_type["required"] = list(package_types.names)
    return schemas


def _preference_models(package_types: PackageTypeRegistry) -> list[Any]:
    """The models of responses about preferences, which have a field for each package type."""
    fields: dict[str, Any] = {"recipient_id": Identifier}
    fields |= {t.preference_field: bool for t in package_types}
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
    fields |= {t.preference_field: (bool, None) for t in package_types}
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
        next=(str | None, Field(description=NEXT)),
    )
    return [preferences, updated_preferences, history]


class _PlainJsonSchema(GenerateJsonSchema):
    """JSON Schema without titles, which would repeat the names, and without defaults, which only
    mark missing fields and can't be sent."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Return False."""
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema of the field alone."""
        return self.generate_inner(schema["schema"])
