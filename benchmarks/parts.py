"""The service with no more than some parts of what a send takes, for a profile.

Each of ``PARTS`` has what those before it have, and something more. What is left out is
replaced in the service's own classes: nothing but a profile has a use for that.
"""

import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile
from typing import Any

from baseplate.lib.config import RawConfig
from pyramid.router import Router

from galaxy_express import make_wsgi_app as make_whole_app
from galaxy_express.delivery import SendOutcome, SendResult, decide
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.desk_client import DeskClient
from galaxy_express.storage.checkpoints import Checkpoints

# About what SQLite logs: a page for each package, a few more for the rest of a transaction,
# and from the beginning again when it has logged a lot.
PAGE = 2048
PAGES_MORE = 5
LOG = 40_960 * PAGE

WHOLE = "written by SQLite"


def make_wsgi_app(app_config: RawConfig) -> Router:
    """Make the WSGI application; the key ``parts`` has the name of what is left in it."""
    PARTS[app_config["parts"]]()
    return make_whole_app(app_config)


def _decide(request: SendRequest) -> list[SendOutcome]:
    return [SendResult(decide(package, True), replayed=False) for package in request.packages]


def _decide_all(requests: Sequence[SendRequest]) -> None:
    for request in requests:
        request.outcomes = _decide(request)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


def _answer() -> None:
    _replace(DeskClient, "_find_replay", lambda _client, _package: None)
    _look_up()


def _look_up() -> None:
    _replace(DeskClient, "_submit", lambda _client, request: _decide(request))


def _queue() -> None:
    _replace(Checkpoints, "note_commit", lambda _checkpoints: None)
    _replace(DeliveryDesk, "commit", lambda _desk, requests: _decide_all(requests))


def _sync() -> None:
    _queue()
    log = TemporaryFile(dir=".")  # noqa: SIM115 - open for as long as the server runs
    written = 0

    def commit(desk: DeliveryDesk, requests: Sequence[SendRequest]) -> None:
        nonlocal written
        content = bytes(PAGE * (len(requests) + PAGES_MORE))
        os.pwrite(log.fileno(), content, written % LOG)
        os.fdatasync(log.fileno())
        written += len(content)
        _decide_all(requests)

    _replace(DeliveryDesk, "commit", commit)


def _leave_nothing_out() -> None:
    pass


#: What leaves out all other parts, by the name of the last one that is there.
PARTS: dict[str, Callable[[], None]] = {
    "read, checked and answered": _answer,
    "looked up, for a retry": _look_up,
    "queued, and handed to the thread that commits": _queue,
    "written to a file and synced": _sync,
    WHOLE: _leave_nothing_out,
}
