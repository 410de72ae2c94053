"""The API description is valid, complete and accurate."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from baseplate.server import SERVER_STATE, ServerLifecycle
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from webtest import TestApp, TestRequest, TestResponse

from galaxy_express import __version__
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry
from galaxy_express.web.openapi import describe_api
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import (
    PACKAGE,
    RECENTLY,
    post,
    preferences_of,
    problem,
    read,
    send,
    send_batch,
    update,
)

JSON = "application/json"
PROBLEM = "application/problem+json"

EXPRESS = PackageType("express", declinable=False)
GIFT = PackageType("gift", wanted_by_default=False)
OBLIGATORY = PackageTypeRegistry([EXPRESS])


@pytest.fixture
def description(app: TestApp) -> dict[str, Any]:
    """The API description that the service returns."""
    answer = app.get("/openapi.json")
    assert answer.headers["Content-Type"] == JSON
    body: dict[str, Any] = answer.json
    return body


REGISTRIES = pytest.mark.parametrize(
    "package_types",
    [PACKAGE_TYPES, PackageTypeRegistry([*PACKAGE_TYPES, EXPRESS, GIFT]), OBLIGATORY],
    ids=["of today", "more", "only one"],
)


def test_description_has_the_version_and_the_server(make_app: MakeApp) -> None:
    """The version is the package's, and the server URL is the path prefix, if there is one."""
    description = make_app().get("/openapi.json").json
    assert description["info"]["version"] == __version__
    assert description["servers"] == [{"url": "/"}]
    behind_proxy = make_app({"http.path_prefix": "/express"}).get("/openapi.json").json
    assert behind_proxy["servers"] == [{"url": "/express"}]


@REGISTRIES
def test_description_is_valid(package_types: PackageTypeRegistry) -> None:
    """The description is valid OpenAPI 3.1 for any package types."""
    description = describe_api(package_types)
    assert description["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(description).validate()


def operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All operations, by method and path."""
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield f"{method.upper()} {path}", operation


def contents(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas with their examples, by location."""
    named = [
        *operations(description),
        ("problem", {"responses": description["components"]["responses"]}),
    ]
    for where, operation in named:
        bodies = {"request": operation.get("requestBody", {})} | operation["responses"]
        for name, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                yield f"{where} {name} {media_type}", content


@REGISTRIES
def test_all_bodies_have_examples(package_types: PackageTypeRegistry) -> None:
    """Every request and response body has an example, and each example matches its schema."""
    description = describe_api(package_types)
    count = 0
    for where, content in contents(description):
        assert content["examples"], where
        schema = content["schema"] | {"components": description["components"]}
        for name, example in content["examples"].items():
            errors = list(OAS31Validator(schema).iter_errors(example["value"]))
            assert not errors, (where, name)
            count += 1
    assert count > 20


@pytest.mark.parametrize(
    ("operation", "statuses"),
    [
        ("POST /packages", "200 201 400 403 405 408 409 413 415 422 500 503"),
        ("POST /packages/batch", "200 400 403 405 408 413 415 422 500 503"),
        ("GET /packages/batch", "200 404 405 500 503"),
        ("GET /packages/{package_id}", "200 404 405 500 503"),
        ("PUT /recipients/{recipient_id}/preferences", "200 400 403 405 408 413 415 422 500 503"),
        ("GET /recipients/{recipient_id}/preferences", "200 405 422 500 503"),
        ("GET /statistics", "200 405 500 503"),
        ("GET /health", "200 405 500 503"),
    ],
)
def test_every_status_is_described(operation: str, statuses: str) -> None:
    """Each operation lists exactly the statuses that it can return."""
    found = dict(operations(describe_api(PACKAGE_TYPES)))[operation]
    assert " ".join(sorted(found["responses"])) == statuses


def test_every_operation_is_described(description: dict[str, Any], app: TestApp) -> None:
    """There is an operation for each method that a path lists in ``Allow``."""
    for path in description["paths"]:
        allowed = app.delete(path, status=405).headers["Allow"].split(", ")
        described = {method.upper() for method in description["paths"][path]} - {"PARAMETERS"}
        assert described == set(allowed) - {"HEAD"}


def recently(decision: dict[str, Any]) -> dict[str, Any]:
    """The decision of an example, with a current time of decision."""
    return decision | {"decided_at": RECENTLY}


def test_example_requests_return_the_example_responses(
    description: dict[str, Any], app: TestApp, app_backend: Backend
) -> None:
    """Sending the example requests returns the example responses."""
    found = dict(operations(description))

    def request(operation: str, name: str) -> Any:
        return found[operation]["requestBody"]["content"][JSON]["examples"][name]["value"]

    def answer(operation: str, status: int, name: str) -> Any:
        content = found[operation]["responses"][str(status)]["content"][JSON]
        return content["examples"][name]["value"]

    put, get = (f"{method} /recipients/{{recipient_id}}/preferences" for method in ("PUT", "GET"))
    assert update(app, request(put, "update")).json == answer(put, 200, "applied")
    assert app.get(preferences_of("leela")).json == answer(get, 200, "preferences")

    wanted, unwanted = (request("POST /packages", name) for name in ("wanted", "unwanted"))
    for status in (201, 200):
        for package, decision in ((wanted, "delivered"), (unwanted, "dropped")):
            sent = send(app, status, **package)
            assert sent.json == recently(answer("POST /packages", status, decision))
    for package, decision in ((wanted, "delivered"), (unwanted, "dropped")):
        decided = read(app, package["package_id"])
        assert decided.json == recently(answer("GET /packages/{package_id}", 200, decision))
    listed = answer("GET /packages", 200, "packages")
    assert app.get("/packages").json == {
        "packages": [recently(decision) for decision in listed["packages"]],
        "next": None,
    }
    patch = "PATCH /recipients/{recipient_id}/preferences"
    app_backend.empty_tables()
    patched = app.patch_json(preferences_of("leela"), request(patch, "update")).json
    assert patched["applied"] is True
    history = answer("GET /recipients/{recipient_id}/preferences/history", 200, "updates")
    assert app.get(f"{preferences_of('leela')}/history").json == {
        "updates": [update | {"received_at": RECENTLY} for update in history["updates"]],
        "next": None,
    }

    app_backend.empty_tables()
    update(app, request(put, "update"))
    send(app, **unwanted)
    results = send_batch(app, *request("POST /packages/batch", "batch"))
    expected = answer("POST /packages/batch", 200, "results")
    assert results.json == [*map(recently, expected[:2]), expected[2]]
    assert app.get("/health").json is answer("GET /health", 200, "healthy")


class ProblemTriggers:
    """Triggers each problem that has an example; the methods are named after the examples."""

    def __init__(
        self, make_app: MakeApp, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create_schema(backend.config)
        self._app: TestApp = make_app({"database.lock_timeout": "50 milliseconds"})
        self._backend = backend
        self._monkeypatch = monkeypatch

    def empty_400(self) -> TestResponse:
        """A send without a body."""
        return post(self._app, "/packages", b"", 400)

    def cross_site_403(self) -> TestResponse:
        """A send from a page of another site."""
        headers = {"Sec-Fetch-Site": "cross-site"}
        return self._app.post_json("/packages", PACKAGE, headers=headers, status=403)

    def slow_408(self) -> TestResponse:
        """A body that doesn't arrive in time."""

        class Slow(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                raise TimeoutError

        request = TestRequest.blank("/packages", method="POST")
        request.environ["wsgi.input"] = Slow()
        return self._app.do_request(request, status=408)

    def compressed_415(self) -> TestResponse:
        """A compressed body."""
        headers = {"Content-Encoding": "gzip"}
        return self._app.post("/packages", "", headers=headers, status=415)

    def unknown_404(self) -> TestResponse:
        """A package that nobody sent."""
        return read(self._app, "pkg-1", 404)

    def method_405(self) -> TestResponse:
        """A method that no path supports."""
        return self._app.delete("/statistics", status=405)

    def conflict_409(self) -> TestResponse:
        """One id for two packages."""
        send(self._app)
        return send(self._app, 409, sender_id="nibbler")

    def large_413(self) -> TestResponse:
        """A body one byte over the limit."""
        return post(self._app, "/packages", b" " * (64 * 1024 + 1), 413)

    def fields_422(self) -> TestResponse:
        """A package with an invalid field and a missing one."""
        package = {name: value for name, value in PACKAGE.items() if name != "package_id"}
        return post(self._app, "/packages", package | {"timestamp": "tomorrow"}, 422)

    def recipient_422(self) -> TestResponse:
        """A recipient with an invalid id."""
        return self._app.get(preferences_of(" "), status=422)

    def batch_422(self) -> TestResponse:
        """A batch with one item too many."""
        return send_batch(self._app, *range(1001), status=422)

    def parameter_422(self) -> TestResponse:
        """A page size over the limit."""
        return self._app.get("/packages?limit=1001", status=422)

    def internal_500(self) -> TestResponse:
        """An unhandled exception."""
        self._backend.reject_inserts("packages")
        return send(self._app, 500)

    def database_503(self) -> TestResponse:
        """A database that another process has locked."""
        with self._backend.locked():
            return send(self._app, 503)

    def setup_503(self) -> TestResponse:
        """A database without a table."""
        self._backend.rows("DROP TABLE counters")
        return self._app.get("/statistics", status=503)

    def shutdown_503(self) -> TestResponse:
        """A service that is shutting down."""
        self._monkeypatch.setattr(SERVER_STATE, "state", ServerLifecycle.SHUTTING_DOWN)
        return self._app.get("/health", status=503)


PROBLEMS = [
    (status, name)
    for status, response in describe_api(PACKAGE_TYPES)["components"]["responses"].items()
    for name in response["content"][PROBLEM]["examples"]
]


@pytest.mark.parametrize(("status", "name"), PROBLEMS)
def test_problems_match_their_examples(
    make_app: MakeApp,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    name: str,
) -> None:
    """Each problem that is triggered equals its example, and has the described headers."""
    response = describe_api(PACKAGE_TYPES)["components"]["responses"][status]
    example = response["content"][PROBLEM]["examples"][name]["value"]
    make_mistake: Callable[[], TestResponse] = getattr(
        ProblemTriggers(make_app, backend, monkeypatch), f"{name}_{status}"
    )
    answer = make_mistake()
    assert problem(answer) == {key: example[key] for key in example if key != "request_id"}
    assert set(response["headers"]) <= set(answer.headers)


def test_registered_type_is_described(make_app: MakeApp) -> None:
    """A type that is added to the registry is in the description without further changes."""
    app = make_app(package_types=PackageTypeRegistry([*PACKAGE_TYPES, EXPRESS, GIFT]))
    schemas = app.get("/openapi.json").json["components"]["schemas"]
    package_type = schemas["Package"]["properties"]["package_type"]
    assert package_type["enum"] == ["personal", "marketing", "express", "gift"]

    update = schemas["PreferenceUpdate"]
    assert update["properties"]["gift_preference"] == {"type": "boolean"}
    assert update["properties"]["express_preference"] == {"type": "boolean", "const": True}
    assert set(update["required"]) == {"timestamp", "personal_preference", "marketing_preference"}

    preferences = {"personal", "marketing", "express", "gift"}
    for name in ("PreferencesBody", "UpdatedPreferencesBody"):
        assert {f"{type_}_preference" for type_ in preferences} <= set(schemas[name]["required"])
    by_type = schemas["StatisticsBody"]["properties"]["by_type"]
    assert set(by_type["required"]) == set(by_type["properties"]) == preferences


def test_optional_fields_have_no_default() -> None:
    """Optional fields have no default that clients might send and the service would reject."""
    update = describe_api(PACKAGE_TYPES)["components"]["schemas"]["PreferenceUpdate"]
    assert all("default" not in field for field in update["properties"].values())
    assert "recipient_id" not in update["required"]
