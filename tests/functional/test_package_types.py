"""Two more package types, which need nothing but their entries in the registry."""

import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import (
    DECISION,
    PACKAGE,
    UPDATE,
    problem,
    read,
    send,
    send_batch,
    update,
)

FREIGHT = PackageType("freight", wanted_by_default=False)
TAX = PackageType("tax", declinable=False)
MORE_TYPES = PackageTypeRegistry([*PACKAGE_TYPES, FREIGHT, TAX])


@pytest.fixture
def app(backend: Backend, make_app: MakeApp) -> TestApp:
    """An application with four types, on a database from the time when there were two."""
    create_schema(backend.config)
    before = make_app()
    send(before)
    update(before, UPDATE)
    send(before, package_id="pkg-2", package_type="marketing")
    send(before, status=422, package_id="pkg-3", package_type="freight")
    return make_app(package_types=MORE_TYPES)


def later(**preferences: bool) -> dict[str, object]:
    """An update that is newer than the earlier one."""
    return UPDATE | {"timestamp": "2142-03-02T12:00:00Z"} | preferences


def test_earlier_decisions_stand(app: TestApp) -> None:
    """Earlier packages and preferences can be read, and retries are replayed."""
    assert read(app, "pkg-1").json == DECISION
    assert send(app, status=200).json == DECISION
    assert read(app, "pkg-2").json["status"] == "dropped"
    send(app, status=409, package_type="tax")


def test_statistics_have_a_row_for_each_type(app: TestApp) -> None:
    """New types start at zero, and the totals of the others continue."""
    assert app.get("/statistics").json == {
        "packages_delivered": 1,
        "packages_dropped": 1,
        "requests_rejected": 1,
        "by_type": {
            "freight": {"delivered": 0, "dropped": 0},
            "marketing": {"delivered": 0, "dropped": 1},
            "personal": {"delivered": 1, "dropped": 0},
            "tax": {"delivered": 0, "dropped": 0},
        },
    }


def test_preferences_have_a_field_for_each_type(app: TestApp) -> None:
    """For existing and new recipients, a new type has its default."""
    assert app.get("/recipients/leela/preferences").json == {
        "recipient_id": "leela",
        "personal_preference": True,
        "marketing_preference": False,
        "freight_preference": False,
        "tax_preference": True,
        "updated_at": "2142-03-01T12:00:00Z",
    }
    assert app.get("/recipients/fry/preferences").json == {
        "recipient_id": "fry",
        "personal_preference": True,
        "marketing_preference": True,
        "freight_preference": False,
        "tax_preference": True,
        "updated_at": None,
    }


def test_new_types_can_be_sent(app: TestApp) -> None:
    """A package of a new type, rejected before, is decided by the default."""
    dropped = send(app, package_id="pkg-3", package_type="freight").json
    assert (dropped["status"], dropped["reason"]) == ("dropped", "recipient_declined")
    assert send(app, package_id="pkg-4", package_type="tax").json["status"] == "delivered"
    assert [
        result["status"]
        for result in send_batch(
            app,
            PACKAGE | {"package_id": "pkg-5", "package_type": "freight"},
            PACKAGE | {"package_id": "pkg-6", "package_type": "tax"},
            PACKAGE | {"package_id": "pkg-7", "package_type": "spam"},
        ).json
    ] == ["dropped", "delivered", "rejected"]
    by_type = app.get("/statistics").json["by_type"]
    assert by_type["freight"] == {"delivered": 0, "dropped": 2}
    assert by_type["tax"] == {"delivered": 2, "dropped": 0}


def test_error_for_an_unregistered_type(app: TestApp) -> None:
    """The error for an unregistered type names the registered types."""
    answer = send(app, status=422, package_id="pkg-8", package_type="spam")
    assert problem(answer)["errors"] == [
        {
            "pointer": "#/package_type",
            "detail": "must be one of 'personal', 'marketing', 'freight' or 'tax'",
        }
    ]


def test_clients_that_do_not_know_the_new_types(app: TestApp) -> None:
    """An update that names only the old types is applied, and doesn't change the new ones."""
    assert update(app, later(freight_preference=True)).json["freight_preference"] is True
    even_later = UPDATE | {"timestamp": "2142-03-03T12:00:00Z"}
    assert update(app, even_later).json == {
        "recipient_id": "leela",
        "personal_preference": True,
        "marketing_preference": False,
        "freight_preference": True,
        "tax_preference": True,
        "updated_at": "2142-03-03T12:00:00Z",
        "applied": True,
    }


def test_new_type_can_be_wanted(app: TestApp) -> None:
    """A type that is unwanted by default is delivered once requested, until it is declined."""
    update(app, later(freight_preference=True))
    assert send(app, package_id="a", package_type="freight").json["status"] == "delivered"
    update(app, UPDATE | {"timestamp": "2142-03-03T12:00:00Z", "freight_preference": False})
    assert send(app, package_id="b", package_type="freight").json["status"] == "dropped"


def test_old_type_must_still_be_named(app: TestApp) -> None:
    """An update that names a new type must still name the old ones."""
    body = {"timestamp": "2142-03-02T12:00:00Z", "freight_preference": True}
    assert [error["pointer"] for error in problem(update(app, body, status=422))["errors"]] == [
        "#/personal_preference",
        "#/marketing_preference",
    ]


def test_type_that_cannot_be_declined(app: TestApp) -> None:
    """An attempt to decline the type is 422 and changes nothing; true is accepted."""
    answer = update(app, later(tax_preference=False), status=422)
    assert problem(answer)["errors"] == [
        {"pointer": "#/tax_preference", "detail": "must be true: this type can't be declined"}
    ]
    assert app.get("/recipients/leela/preferences").json["updated_at"] == "2142-03-01T12:00:00Z"
    assert update(app, later(tax_preference=True)).json["applied"]


def test_optional_preference_must_be_a_boolean(app: TestApp) -> None:
    """An optional preference may be omitted, but not null."""
    answer = update(app, UPDATE | {"freight_preference": None}, status=422)
    assert problem(answer)["errors"] == [
        {"pointer": "#/freight_preference", "detail": "must be true or false"}
    ]


def test_new_types_are_ordered_separately(app: TestApp) -> None:
    """An update may be too old for one type and the first for another."""
    early = UPDATE | {"timestamp": "2142-02-01T12:00:00Z", "freight_preference": True}
    assert update(app, early).json == {
        "recipient_id": "leela",
        "personal_preference": True,
        "marketing_preference": False,
        "freight_preference": True,
        "tax_preference": True,
        "updated_at": "2142-03-01T12:00:00Z",
        "applied": False,
    }


def test_type_declined_before_it_was_mandatory(backend: Backend, make_app: MakeApp) -> None:
    """An earlier decline has no effect once the type can't be declined any more."""
    create_schema(backend.config)
    update(make_app(), UPDATE)
    types = PackageTypeRegistry(
        [PACKAGE_TYPES["personal"], PackageType("marketing", declinable=False)]
    )
    app = make_app(package_types=types)
    assert app.get("/recipients/leela/preferences").json["marketing_preference"] is True
    assert send(app, package_type="marketing").json["status"] == "delivered"


def test_removed_type(backend: Backend, make_app: MakeApp, app: TestApp) -> None:
    """A removed type can't be sent, and its earlier decisions still count."""
    send(app, package_id="a", package_type="tax")
    before = make_app()
    send(before, status=422, package_id="b", package_type="tax")
    assert read(before, "a").json["package_type"] == "tax"
    statistics = before.get("/statistics").json
    assert statistics["packages_delivered"] == 2
    assert statistics["by_type"] == {
        "marketing": {"delivered": 0, "dropped": 1},
        "personal": {"delivered": 1, "dropped": 0},
        "tax": {"delivered": 1, "dropped": 0},
    }


def test_api_description_has_all_types(app: TestApp) -> None:
    """The API description contains every registered type."""
    schemas = app.get("/openapi.json").json["components"]["schemas"]
    assert schemas["Package"]["properties"]["package_type"]["enum"] == list(MORE_TYPES.names)
    fields = schemas["PreferenceUpdate"]["properties"]
    assert {package_type.preference_field for package_type in MORE_TYPES} <= fields.keys()
