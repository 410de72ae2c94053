"""A third and a fourth type of package: nothing is new but their entries in the registry."""

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
    """An application with four types, on a database that was filled when there were two."""
    create_schema(backend.config)
    before = make_app()
    send(before)
    update(before, UPDATE)
    send(before, package_id="pkg-2", package_type="marketing")
    send(before, status=422, package_id="pkg-3", package_type="freight")
    return make_app(package_types=MORE_TYPES)


def later(**preferences: bool) -> dict[str, object]:
    """An update that is newer than the one of before."""
    return UPDATE | {"timestamp": "2142-03-02T12:00:00Z"} | preferences


def test_what_was_decided_before_stands(app: TestApp) -> None:
    """Packages and preferences of before are read, and retries are replayed."""
    assert read(app, "pkg-1").json == DECISION
    assert send(app, status=200).json == DECISION
    assert read(app, "pkg-2").json["status"] == "dropped"
    send(app, status=409, package_type="tax")


def test_statistics_have_a_row_for_each_type(app: TestApp) -> None:
    """New types count from nothing, and totals go on from where they were."""
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
    """Of a type that came later the default is in force, for old recipients and new ones."""
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


def test_sends_know_the_new_types(app: TestApp) -> None:
    """Without a preference the default applies; a type rejected before can be sent now."""
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


def test_a_type_that_is_not_registered_is_told_with_those_that_are(app: TestApp) -> None:
    """A rejection names the registered types."""
    answer = send(app, status=422, package_id="pkg-8", package_type="spam")
    assert problem(answer)["errors"] == [
        {
            "pointer": "#/package_type",
            "detail": "must be one of 'personal', 'marketing', 'freight' or 'tax'",
        }
    ]


def test_clients_that_do_not_know_the_new_types(app: TestApp) -> None:
    """An update that names the old types alone is applied, and leaves the new ones as they were."""
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


def test_a_new_type_can_be_wanted(app: TestApp) -> None:
    """A type unwanted by default is delivered once requested, until it is declined."""
    update(app, later(freight_preference=True))
    assert send(app, package_id="a", package_type="freight").json["status"] == "delivered"
    update(app, UPDATE | {"timestamp": "2142-03-03T12:00:00Z", "freight_preference": False})
    assert send(app, package_id="b", package_type="freight").json["status"] == "dropped"


def test_an_old_type_must_still_be_named(app: TestApp) -> None:
    """An update that names a new type must still name the old ones."""
    body = {"timestamp": "2142-03-02T12:00:00Z", "freight_preference": True}
    assert [error["pointer"] for error in problem(update(app, body, status=422))["errors"]] == [
        "#/personal_preference",
        "#/marketing_preference",
    ]


def test_what_can_not_be_declined(app: TestApp) -> None:
    """An attempt to decline it is 422 and changes nothing; to want it is in order."""
    answer = update(app, later(tax_preference=False), status=422)
    assert problem(answer)["errors"] == [
        {"pointer": "#/tax_preference", "detail": "must be true: this type can't be declined"}
    ]
    assert app.get("/recipients/leela/preferences").json["updated_at"] == "2142-03-01T12:00:00Z"
    assert update(app, later(tax_preference=True)).json["applied"]


def test_an_optional_preference_is_a_boolean_if_it_is_named(app: TestApp) -> None:
    """Left out is one thing, null another."""
    answer = update(app, UPDATE | {"freight_preference": None}, status=422)
    assert problem(answer)["errors"] == [
        {"pointer": "#/freight_preference", "detail": "must be true or false"}
    ]


def test_new_types_are_ordered_on_their_own(app: TestApp) -> None:
    """An update that is too old for one type may be the first for another."""
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


def test_a_type_that_was_declined_while_it_could_be(backend: Backend, make_app: MakeApp) -> None:
    """What was said of a type is without effect once it may no longer be declined."""
    create_schema(backend.config)
    update(make_app(), UPDATE)
    types = PackageTypeRegistry(
        [PACKAGE_TYPES["personal"], PackageType("marketing", declinable=False)]
    )
    app = make_app(package_types=types)
    assert app.get("/recipients/leela/preferences").json["marketing_preference"] is True
    assert send(app, package_type="marketing").json["status"] == "delivered"


def test_a_type_that_was_taken_away(backend: Backend, make_app: MakeApp, app: TestApp) -> None:
    """Without its entry a type can't be sent, and what was decided of it still counts."""
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


def test_the_api_description_shows_them(app: TestApp) -> None:
    """The API description contains every registered type."""
    schemas = app.get("/openapi.json").json["components"]["schemas"]
    assert schemas["Package"]["properties"]["package_type"]["enum"] == list(MORE_TYPES.names)
    fields = schemas["PreferenceUpdate"]["properties"]
    assert {package_type.preference_field for package_type in MORE_TYPES} <= fields.keys()
