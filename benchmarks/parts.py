"""The service with only some parts of a send, for a profile.

Each entry of ``PARTS`` has the parts of the previous one and one more. The remaining parts are
replaced by patching the service's classes, which is only acceptable in a profile.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from tempfile import TemporaryFile
from typing import Any

from baseplate.lib.config import RawConfig
from pyramid.router import Router

from galaxy_express import make_wsgi_app as make_whole_app
from galaxy_express.delivery import SendOutcome, SendResult, decide
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.desk_client import DeskClient
from galaxy_express.storage.checkpoints import Checkpoints

# About as much as SQLite logs: a page per package, a few more per transaction; and the file is
# overwritten from the start when it is long.
PAGE = 2048
PAGES_MORE = 5
LOG = 40_960 * PAGE

WHOLE = "written by SQLite"


@dataclass(frozen=True)
class Replacement:
    """A method of the service, and its replacement in a profile.

    :raises AttributeError: if the class has no such method.
    :raises TypeError: if the replacement doesn't have the same number of parameters.
    """

    owner: type
    method: str
    function: Callable[..., Any]

    def __post_init__(self) -> None:
        if self.method not in vars(self.owner):
            raise AttributeError(f"{self.owner.__name__} defines no method {self.method}")
        replaced = getattr(self.owner, self.method)
        if len(signature(replaced).parameters) != len(signature(self.function).parameters):
            raise TypeError(f"{self.owner.__name__}.{self.method} has other parameters")

    def apply(self) -> None:
        """Replace the method in this process."""
        setattr(self.owner, self.method, self.function)


def make_wsgi_app(app_config: RawConfig) -> Router:
    """Make the WSGI application; the key ``parts`` names the parts that it has."""
    service_config = dict(app_config)  # the service would reject the key
    for replacement in PARTS[service_config.pop("parts")]:
        replacement.apply()
    return make_whole_app(service_config)


def _decide(request: SendRequest) -> list[SendOutcome]:
    return [
        SendResult(decide(package, True, None, package.timestamp), replayed=False)
        for package in request.packages
    ]


def _decide_all(requests: Sequence[SendRequest]) -> None:
    for request in requests:
        request.outcomes = _decide(request)


class _Log:
    """Simulates SQLite's log: a file that is written and synced in the same way."""

    def __init__(self) -> None:
        self._file: Any = None
        self._written = 0

    def commit(self, requests: Sequence[SendRequest]) -> None:
        if self._file is None:
            self._file = TemporaryFile(dir=".")  # noqa: SIM115 - open while the server runs
        content = bytes(PAGE * (len(requests) + PAGES_MORE))
        os.pwrite(self._file.fileno(), content, self._written % LOG)
        os.fdatasync(self._file.fileno())
        self._written += len(content)
        _decide_all(requests)


_log = _Log()
_NO_LOOK_UP = Replacement(DeskClient, "_find_replay", lambda _client, _package: None)
_NO_QUEUE = Replacement(DeskClient, "_submit", lambda _client, request: _decide(request))
_NO_CHECKPOINTS = Replacement(Checkpoints, "note_commit", lambda _checkpoints: None)
_NO_COMMIT = Replacement(DeliveryDesk, "commit", lambda _desk, requests, _: _decide_all(requests))
_FILE = Replacement(DeliveryDesk, "commit", lambda _desk, requests, _: _log.commit(requests))

#: The replacements, by the name of the last part that isn't replaced.
PARTS: dict[str, tuple[Replacement, ...]] = {
    "parsed, validated and answered": (_NO_LOOK_UP, _NO_QUEUE),
    "with the lookup for retries": (_NO_QUEUE,),
    "queued, and passed to the commit thread": (_NO_CHECKPOINTS, _NO_COMMIT),
    "written to a file and synced": (_NO_CHECKPOINTS, _FILE),
    WHOLE: (),
}
