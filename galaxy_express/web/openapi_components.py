"""The components of the API description that are the same for all package types."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from galaxy_express.web.paging import DEFAULT_LIMIT, MAX_LIMIT, ORDERS
from galaxy_express.web.problems import Problem, problem
from galaxy_express.web.rejections import FieldError, ParameterError

#: A part of an OpenAPI document.
Json = dict[str, Any]


def ref(kind: str, name: str) -> Json:
    """Refer to a component, such as the schema with this name."""
    return {"$ref": f"#/components/{kind}/{name}"}


def header_refs(*names: str) -> Json:
    """Refer to the headers of these names, and to those that all responses have."""
    return {name: ref("headers", name) for name in (*names, "Cache-Control", "X-Request-ID")}


def content(media_type: str, schema: Json, examples: Mapping[str, object]) -> Json:
    """Describe a body.

    :param examples: the values by the name of the example.
    """
    values = {name: {"value": value} for name, value in examples.items()}
    return {media_type: {"schema": schema, "examples": values}}


#: The parameters of pages.
PAGE_PARAMETERS: Json = {
    "order": {
        "name": "order",
        "in": "query",
        "description": "`desc`: newest first. `asc`: oldest first.",
        "schema": {"enum": [*ORDERS], "default": ORDERS[0]},
    },
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "The maximum number of items.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LIMIT,
            "default": DEFAULT_LIMIT,
        },
    },
    "after": {
        "name": "after",
        "in": "query",
        "description": "The `next` of the previous page, requested with the same other parameters.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    },
}


def _problem(
    status: HTTPStatus, description: str, *headers: str, **details: str | Problem
) -> tuple[int, Json]:
    """Describe a problem response.

    :param details: the detail or the whole example, by the name of the example.
    """
    examples = {
        name: {
            **(problem(status, detail) if isinstance(detail, str) else detail),
            "request_id": "9f8e7d6c5b4a3921",
        }
        for name, detail in details.items()
    }
    response = {
        "description": description,
        "headers": header_refs(*headers),
        "content": content("application/problem+json", ref("schemas", "Problem"), examples),
    }
    return status.value, response


#: The problem responses by status.
PROBLEMS = dict(
    [
        _problem(
            HTTPStatus.BAD_REQUEST,
            "The body is malformed: it is not UTF-8, not JSON, or not of the "
            "expected top-level type.",
            empty="the body is empty",
        ),
        _problem(
            HTTPStatus.FORBIDDEN,
            "A browser sent the request on behalf of another site's page.",
            cross_site="pages of other sites must not send this request",
        ),
        _problem(
            HTTPStatus.NOT_FOUND,
            "There is no such package.",
            unknown=problem(
                HTTPStatus.NOT_FOUND, "there is no package with this id", code="package_not_found"
            ),
        ),
        _problem(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "The path does not support this method.",
            "Allow",
            method="this path only supports GET, HEAD",
        ),
        _problem(
            HTTPStatus.REQUEST_TIMEOUT,
            "The body did not arrive in time. The connection is closed.",
            slow="the body did not arrive in time",
        ),
        _problem(
            HTTPStatus.CONFLICT,
            "The `package_id` was used before, for a different package.",
            conflict="this package_id was used before, for another sender, recipient or package "
            "type",
        ),
        _problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "The body is over the limit: 64 KiB, or 1 MiB for a batch.",
            large="the body is larger than 65,536 bytes",
        ),
        _problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body has a `Content-Encoding` other than `identity`.",
            "Accept-Encoding",
            compressed="the body must not be compressed or otherwise encoded",
        ),
        _problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "Well-formed, but invalid. `errors` lists the invalid fields or parameters.",
            fields=problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "some fields are invalid",
                [
                    FieldError(
                        pointer="#/timestamp",
                        detail="must be an RFC 3339 timestamp with an offset, "
                        "like 2142-03-01T12:00:00Z",
                    ),
                    FieldError(pointer="#/package_id", detail="is required"),
                ],
            ),
            recipient="the recipient_id in the path is invalid",
            batch="a batch must have at most 1,000 items, not 1,001",
            parameter=problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "a parameter is invalid",
                [
                    ParameterError(
                        parameter="limit", detail="must be a whole number from 1 to 1,000"
                    )
                ],
            ),
        ),
        _problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "An unexpected error occurred in the service.",
            internal="the service failed unexpectedly",
        ),
        _problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The database is locked, full, unreachable or not set up, or the service is overloaded "
            "or shutting down. A retry is safe.",
            "Retry-After",
            database="the database is unavailable; a retry is safe",
            setup="the database is not set up (make migratedb); a retry is safe",
            shutdown="the service is shutting down",
        ),
    ]
)

_CODES = [
    *("malformed", "invalid", "package_conflict", "package_not_found", "path_not_found"),
    *("method_not_allowed", "cross_site", "body_too_slow", "body_too_large"),
    *("unsupported_encoding", "unavailable", "overloaded", "timed_out", "internal"),
]

#: The schemas of bodies that have no model.
BODIES = {
    "Rejection": {
        "type": "object",
        "description": "The result for a rejected item of a batch.",
        "properties": {"status": {"const": "rejected"}, "problem": ref("schemas", "Problem")},
        "required": ["status", "problem"],
    },
    "Problem": {
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"enum": _CODES, "description": "A stable code, for programs to compare."},
            "detail": {"type": "string"},
            "request_id": {
                "type": "string",
                "description": "The X-Request-ID of the response. The problem of a batch item "
                "has none.",
            },
            "errors": {
                "type": "array",
                "items": {
                    "oneOf": [ref("schemas", "FieldError"), ref("schemas", "ParameterError")]
                },
            },
        },
        "required": ["type", "title", "status", "code", "detail"],
    },
    "FieldError": {
        "type": "object",
        "description": "What is wrong with a field of the body; `pointer` is a JSON pointer.",
        "properties": {
            "pointer": {"type": "string", "format": "uri-reference"},
            "detail": {"type": "string"},
        },
        "required": ["pointer", "detail"],
    },
    "ParameterError": {
        "type": "object",
        "description": "What is wrong with a query parameter.",
        "properties": {"parameter": {"type": "string"}, "detail": {"type": "string"}},
        "required": ["parameter", "detail"],
    },
}

#: The headers of responses.
HEADERS = {
    "Location": {
        "description": "The path of the decision.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotent-Replayed": {
        "description": "The package was decided before.",
        "required": True,
        "schema": {"const": "true"},
    },
    "Retry-After": {
        "description": "How long to wait before trying again, in seconds.",
        "required": True,
        "schema": {"type": "integer"},
    },
    "X-Request-ID": {
        "description": "The request id, which is also logged: the X-Request-ID of the request if "
        "it is valid, otherwise a new one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Cache-Control": {
        "description": "Responses must not be cached.",
        "required": True,
        "schema": {"const": "no-store"},
    },
    "Accept-Encoding": {
        "description": "The supported encoding of a body.",
        "required": True,
        "schema": {"const": "identity"},
    },
    "Allow": {
        "description": "The methods that the path supports.",
        "required": True,
        "schema": {"type": "string"},
    },
}
