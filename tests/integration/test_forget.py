"""The command that forgets the preferences of one recipient."""

from datetime import UTC, datetime

import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from galaxy_express.ops.forget import forget_recipient
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import UPDATE, preferences_of, read, send, update

FAR = {"timestamp": "9999-12-31T23:59:59Z"}


@pytest.fixture
def service(backend: Backend, make_app: MakeApp) -> TestApp:
    """A service that has accepted updates with timestamps in the far future."""
    create_schema(backend.config)
    app: TestApp = make_app()
    for recipient_id in ("leela", "fry", "a/b 'c' \U0001f469\u200d\U0001f680"):
        update(app, UPDATE | FAR, recipient_id)
    send(app, package_type="marketing")
    return app


@pytest.mark.parametrize("recipient_id", ["leela", "a/b 'c' \U0001f469\u200d\U0001f680"])
def test_recipient_is_forgotten(
    service: TestApp,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipient_id: str,
) -> None:
    """While the service runs, the recipient is reset to the defaults and can opt out again. Other
    recipients and decisions are unchanged."""
    monkeypatch.setenv("RECIPIENT", recipient_id)
    forget_recipient(backend.config)
    assert capsys.readouterr().out == (
        f"Deleted the preferences of recipient {recipient_id!r}, which were:\n"
        "  marketing: declined since 9999-12-31T23:59:59+00:00\n"
        "  personal: wanted since 9999-12-31T23:59:59+00:00\n"
    )
    forgotten = service.get(preferences_of(recipient_id)).json
    assert forgotten["marketing_preference"]
    assert forgotten["updated_at"] is None
    assert service.get(preferences_of("fry")).json["updated_at"] == FAR["timestamp"]
    assert read(service, "pkg-1").json["status"] == "dropped"
    now = datetime.now(UTC).isoformat()
    assert update(service, UPDATE | {"timestamp": now}, recipient_id).json["applied"]


@pytest.mark.parametrize(
    ("recipient_id", "message"),
    [
        ("", "RECIPIENT=leela"),
        ("bender", "Recipient 'bender' has no preferences; nothing was changed"),
        ("Leela", "has no preferences"),
        ("leela%", "has no preferences"),
        ("lee\udce9la", "is not UTF-8"),
    ],
)
def test_no_recipient_is_forgotten(
    service: TestApp,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    recipient_id: str,
    message: str,
) -> None:
    """If no recipient with preferences is named, the command fails with a one-line message."""
    before = backend.contents()
    monkeypatch.setenv("RECIPIENT", recipient_id)
    with pytest.raises(SystemExit, match=message):
        forget_recipient(backend.config)
    assert backend.contents() == before


def test_unavailable_database(
    service: TestApp, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the database is unavailable, the command fails with a one-line message."""
    monkeypatch.setenv("RECIPIENT", "leela")
    with backend.unavailable(), pytest.raises(SystemExit, match="is unavailable"):
        forget_recipient(backend.config)
    assert service.get(preferences_of("leela")).json["updated_at"] == FAR["timestamp"]
