"""The API description (OpenAPI 3.1), built from the registry and from the models that validate
requests."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from pydantic_core import to_jsonable_python

from galaxy_express import __version__
from galaxy_express.delivery import REJECTED, Decision, Package, Status
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.preferences import Preference, PreferenceUpdate, ReceivedUpdate
from galaxy_express.web.json_schemas import json_schemas
from galaxy_express.web.openapi_components import (
    BODIES,
    HEADERS,
    PAGE_PARAMETERS,
    PROBLEMS,
    Json,
    content,
    header_refs,
    ref,
)
from galaxy_express.web.parsing import MAX_BATCH
from galaxy_express.web.problems import problem
from galaxy_express.web.rejections import FieldError
from galaxy_express.web.rendering import (
    decision_body,
    preferences_body,
    received_update_body,
    statistics_body,
)


def describe_api(package_types: PackageTypeRegistry, path_prefix: str = "") -> Json:
    """Describe the API of a service with these package types.

    :param path_prefix: the path under which a proxy serves the service, such as ``/express``.
    :returns: an OpenAPI document as JSON, with an example for each operation and each problem.
    """
    bodies = json_schemas(package_types, "#/components/schemas/{model}")
    examples = _Examples(package_types)
    description: Json = {
        "openapi": "3.1.1",
        "info": {"title": "Galaxy Express", "version": __version__, "description": _ABOUT},
        "servers": [{"url": path_prefix or "/"}],
        "tags": [{"name": name} for name in ("packages", "preferences", "service")],
        "paths": _paths(examples),
        "components": {
            "schemas": bodies | BODIES,
            "parameters": {
                name: {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "schema": bodies["Package"]["properties"][name],
                    "example": examples.package[name],
                }
                for name in ("package_id", "recipient_id")
            }
            | PAGE_PARAMETERS
            | {"of_recipient": _of_recipient(bodies["Package"]["properties"]["recipient_id"])},
            "responses": {str(status): response for status, response in PROBLEMS.items()},
            "headers": HEADERS,
        },
    }
    in_json: Json = to_jsonable_python(description)
    return in_json


_ABOUT = """\
Galaxy Express decides exactly once per package whether to deliver or drop it, according to the
recipient's preferences.

* **A decision is final.** If you receive no response, send the package again: the response is the
  first decision. The `timestamp` of a retry may differ.
* **Preference updates are ordered by their timestamp**, not by their arrival. At equal
  timestamps a decline wins.
* **Ids are opaque.** In a path they must be percent-encoded: `a/b` is `a%2Fb`.
* Errors are problem details (RFC 9457) with a stable `code`. `HEAD` works wherever `GET` does.
"""


class _Examples:
    """Examples: a delivered and a dropped package, and the corresponding bodies."""

    def __init__(self, package_types: PackageTypeRegistry) -> None:
        types = list(package_types)
        declined = next((t for t in reversed(types) if t.declinable), types[-1])
        now = datetime(2142, 3, 1, 12, tzinfo=UTC)
        wanted = Package("pkg-1", "zap", "leela", types[0].name, now)
        unwanted = wanted._replace(package_id="pkg-2", package_type=declined.name)

        self.preferences = preferences_body(
            package_types, "leela", {t.name: Preference(t is not declined, now) for t in types}
        )
        self.updated_preferences = self.preferences | {"applied": True}
        self.update = {
            "timestamp": now,
            **{t.preference_field: self.preferences[t.preference_field] for t in types},
        }
        a_second_later = now + timedelta(seconds=1)
        self.delivered = decision_body(Decision(wanted, Status.DELIVERED, a_second_later, None))
        self.dropped = decision_body(Decision(unwanted, Status.DROPPED, a_second_later, now))
        self.package, self.unwanted_package = (
            {name: value for name, value in body.items() if name in Package._fields}
            for body in (self.delivered, self.dropped)
        )
        self.packages = {"packages": [self.dropped, self.delivered], "next": None}
        self.partial_update = {
            "timestamp": now,
            declined.preference_field: not declined.declinable,
        }
        received = ReceivedUpdate(
            PreferenceUpdate("leela", now, {declined.name: not declined.declinable}),
            a_second_later,
            applied=True,
        )
        self.history = {"updates": [received_update_body(received)], "next": None}
        self.batch = [self.package, self.unwanted_package, {"package_id": "pkg-3"}]
        self.batch_results = [
            self.delivered | {"replayed": False},
            self.dropped | {"replayed": True},
            {
                "status": "rejected",
                "problem": problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "some fields are invalid",
                    [
                        FieldError(pointer=f"#/{name}", detail="is required")
                        for name in ("timestamp", "sender_id", "recipient_id", "package_type")
                    ],
                ),
            },
        ]
        self.statistics = statistics_body(
            package_types,
            {
                ("delivered", wanted.package_type): 12,
                ("dropped", unwanted.package_type): 3,
                REJECTED: 4,
            },
        )


def _paths(examples: _Examples) -> Json:
    decision = {
        "200": _response(
            "The decision.",
            ref("schemas", "DecisionBody"),
            delivered=examples.delivered,
            dropped=examples.dropped,
        ),
        **_problems(404),
    }
    return {
        "/packages": {
            "get": {
                "operationId": "list_packages",
                "tags": ["packages"],
                "summary": "List decisions",
                "description": "The decisions on all packages, or on those of one recipient, in "
                "the order in which they were made. In ascending order the list can be followed "
                "like a feed: request it again with the last `next` to get the decisions made "
                "since then. Every decision appears exactly once.",
                "parameters": [ref("parameters", "of_recipient"), *_PAGE],
                "responses": {
                    "200": _response(
                        "A page of decisions.",
                        ref("schemas", "PackagesPage"),
                        packages=examples.packages,
                    ),
                    **_problems(422),
                },
            },
            "post": {
                "operationId": "send_package",
                "tags": ["packages"],
                "summary": "Send a package",
                "description": "Decides whether to deliver or drop it. If it was sent before, the "
                "response is the first decision.",
                "requestBody": _request(
                    ref("schemas", "Package"),
                    wanted=examples.package,
                    unwanted=examples.unwanted_package,
                ),
                "responses": {
                    "201": {
                        **_response(
                            "Decided now, and recorded.",
                            ref("schemas", "DecisionBody"),
                            "Location",
                            delivered=examples.delivered,
                            dropped=examples.dropped,
                        ),
                        "links": {
                            "decision": {
                                "operationId": "read_package",
                                "parameters": {"package_id": "$response.body#/package_id"},
                            }
                        },
                    },
                    "200": _response(
                        "Decided before; this is the first decision.",
                        ref("schemas", "DecisionBody"),
                        "Idempotent-Replayed",
                        delivered=examples.delivered,
                        dropped=examples.dropped,
                    ),
                    **_problems(400, 403, 408, 409, 413, 415, 422),
                },
            },
        },
        "/packages/batch": {
            "post": {
                "operationId": "send_batch",
                "tags": ["packages"],
                "summary": "Send many packages",
                "description": f"Up to {MAX_BATCH:,} packages, decided in order and in one "
                "transaction. An invalid package does not affect the others.",
                "requestBody": _request(
                    {
                        "type": "array",
                        "maxItems": MAX_BATCH,
                        "items": {
                            "anyOf": [
                                ref("schemas", "Package"),
                                {"description": "Any other item is rejected individually."},
                            ]
                        },
                    },
                    batch=examples.batch,
                ),
                "responses": {
                    "200": _response(
                        "One result for each package, in order.",
                        {
                            "type": "array",
                            "items": {
                                "oneOf": [
                                    ref("schemas", "SendResultBody"),
                                    ref("schemas", "Rejection"),
                                ]
                            },
                        },
                        results=examples.batch_results,
                    ),
                    **_problems(400, 403, 408, 413, 415, 422),
                },
            },
            "get": {
                "operationId": "read_package_named_batch",
                "tags": ["packages"],
                "summary": "Read the decision on the package with the id “batch”",
                "responses": decision,
            },
        },
        "/packages/{package_id}": {
            "parameters": [ref("parameters", "package_id")],
            "get": {
                "operationId": "read_package",
                "tags": ["packages"],
                "summary": "Read the decision on a package",
                "responses": decision,
            },
        },
        "/recipients/{recipient_id}/preferences": {
            "parameters": [ref("parameters", "recipient_id")],
            "get": {
                "operationId": "read_preferences",
                "tags": ["preferences"],
                "summary": "Read a recipient's preferences",
                "description": "The current preferences, including defaults. An unknown "
                "recipient has the defaults.",
                "responses": {
                    "200": _response(
                        "The current preferences.",
                        ref("schemas", "PreferencesBody"),
                        preferences=examples.preferences,
                    ),
                    **_problems(422),
                },
            },
            "put": {
                "operationId": "update_preferences",
                "tags": ["preferences"],
                "summary": "Update a recipient's preferences",
                "description": "An update that is older than the current preferences changes "
                "nothing.",
                "requestBody": _request(ref("schemas", "PreferenceUpdate"), update=examples.update),
                "responses": {
                    "200": _response(
                        "The current preferences, and whether the update was applied.",
                        ref("schemas", "UpdatedPreferencesBody"),
                        applied=examples.updated_preferences,
                    ),
                    **_problems(400, 403, 408, 413, 415, 422),
                },
            },
            "patch": {
                "operationId": "patch_preferences",
                "tags": ["preferences"],
                "summary": "Update some of a recipient's preferences",
                "description": "Like `PUT`, but only for the named preferences. The others are "
                "unchanged.",
                "requestBody": _request(
                    ref("schemas", "PartialPreferenceUpdate"), update=examples.partial_update
                ),
                "responses": {
                    "200": _response(
                        "The current preferences, and whether the update was applied.",
                        ref("schemas", "UpdatedPreferencesBody"),
                        applied=examples.updated_preferences,
                    ),
                    **_problems(400, 403, 408, 413, 415, 422),
                },
            },
        },
        "/recipients/{recipient_id}/preferences/history": {
            "parameters": [ref("parameters", "recipient_id")],
            "get": {
                "operationId": "list_updates",
                "tags": ["preferences"],
                "summary": "List a recipient's preference updates",
                "description": "Every update that was received, with the preferences that it "
                "named, whether it was applied or not. A repeat of current preferences is not "
                "listed again.",
                "parameters": [*_PAGE],
                "responses": {
                    "200": _response(
                        "A page of updates.",
                        ref("schemas", "HistoryPage"),
                        updates=examples.history,
                    ),
                    **_problems(422),
                },
            },
        },
        "/statistics": {
            "get": {
                "operationId": "read_statistics",
                "tags": ["service"],
                "summary": "Read the totals",
                "description": "Delivered plus dropped is the number of distinct packages. "
                "Rejected sends are counted separately.",
                "responses": {
                    "200": _response(
                        "The totals.",
                        ref("schemas", "StatisticsBody"),
                        statistics=examples.statistics,
                    ),
                    **_problems(),
                },
            }
        },
        "/health": {
            "get": {
                "operationId": "is_healthy",
                "tags": ["service"],
                "summary": "Check the health of the service",
                "parameters": [
                    {
                        "name": "type",
                        "in": "query",
                        "description": "`readiness` (or `1`) also checks the database; "
                        "`liveness` (`2`) and `startup` (`3`) only check that the service "
                        "is running. Case is ignored; any other value means readiness.",
                        "schema": {"type": "string", "default": "readiness"},
                        "examples": {
                            name: {"value": name} for name in ("readiness", "liveness", "startup")
                        },
                    }
                ],
                "responses": {
                    "200": _response("The service is healthy.", {"const": True}, healthy=True),
                    **_problems(),
                },
            }
        },
    }


def _of_recipient(schema: Json) -> Json:
    return {
        "name": "recipient_id",
        "in": "query",
        "description": "The recipient whose packages are listed; by default, all recipients.",
        "schema": schema,
    }


_PAGE = [ref("parameters", name) for name in PAGE_PARAMETERS]


def _request(schema: Json, **examples: object) -> Json:
    return {"required": True, "content": content("application/json", schema, examples)}


def _response(description: str, schema: Json, *headers: str, **examples: object) -> Json:
    return {
        "description": description,
        "headers": header_refs(*headers),
        "content": content("application/json", schema, examples),
    }


def _problems(*statuses: int) -> Json:
    """Refer to the problems of these statuses, and of those that all operations share."""
    return {
        str(status): ref("responses", str(status)) for status in sorted({*statuses, 405, 500, 503})
    }
