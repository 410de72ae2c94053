"""Fills a running service with made-up packages (``make demo``).

Senders send packages and resend some of them; some reuse an id, or send invalid requests.
Recipients change their preferences, and some of their updates arrive late. The demo only uses
the HTTP API. It has its own recipients and ids, so that it doesn't affect others.
"""

import argparse
import json
import random
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import LocationParseError
from urllib3.util import Retry, Url, parse_url

from galaxy_express.ops.command import CommandParser
from galaxy_express.ops.output import write

Json = dict[str, Any]

# Ids can be any text; some of these need to be percent-encoded in a path.
_COMPANIES = (
    "slurm-loyalty-club",
    "Big Apple Robots (lease/return)",
    "lunar-park-tickets",
    "Glurmo & Daughters, tentacle care",
    "vergon-6 dark matter outlet",
)
_PEOPLE = (
    "kif",
    "amy/mars",
    "zoidberg (please write)",
    "hermes #36",
    "calculon",
    "scruffy",
    "lrrr 👑",
    "nibbler 🐾",
    "Ἑρμῆς",
    "宇宙人",
)
_PREFERENCE = "_preference"


class Service:
    """The HTTP API of a running service.

    :param url: its URL, such as ``http://localhost:9090``.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # connect directly, not through a proxy
        # Every request can be retried safely, after the time in Retry-After.
        retry = Retry(10, connect=0, status_forcelist=[503], allowed_methods=None)
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, HTTPAdapter(max_retries=retry))

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request, and retry it while the response is 503.

        :param body: raw bytes, or a value to send as JSON; ``None`` for no body.
        :returns: the body of the response, whatever its status.
        :raises SystemExit: with a one-line message, if there is no response from Galaxy Express.
        """
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            response = self._session.request(method, self._url + path, data=content, timeout=30)
            return response.json()
        except requests.exceptions.RetryError:
            sys.exit(f"The service at {self._url} remains unavailable; see its log.")
        except requests.exceptions.InvalidJSONError:
            self._reject()
        except requests.exceptions.RequestException:
            sys.exit(f"No service responds at {self._url}; start it with: make run")

    def package_types(self) -> list[str]:
        """The names of the types that can be sent.

        :raises SystemExit: as :py:meth:`request` does.
        """
        preferences = self.request("GET", "/recipients/anyone/preferences")
        fields = preferences if isinstance(preferences, dict) else ()
        names = [name.removesuffix(_PREFERENCE) for name in fields if name.endswith(_PREFERENCE)]
        if not names:
            self._reject()
        return names

    def _reject(self) -> NoReturn:
        sys.exit(f"The service at {self._url} is not Galaxy Express.")


class Traffic:
    """Random actions of senders and recipients.

    :param rng: chooses the actions.
    """

    def __init__(self, service: Service, rng: random.Random) -> None:
        self._service = service
        self._rng = rng
        self._types = service.package_types()
        self._prefix = f"GX-{secrets.token_hex(3)}"
        self._count = 0
        self._sent: deque[Json] = deque(maxlen=200)

    def act(self) -> int:
        """Perform a random action.

        :returns: the number of submitted packages.
        """
        actions = {
            self._send: 60,
            self._retry: 10,
            self._reuse_id: 2,
            self._send_invalid: 2,
            self._send_malformed: 1,
            self._send_batch: 2,
            self._update_preferences: 6,
        }
        (action,) = self._rng.choices(list(actions), list(actions.values()))
        return action()

    def _send(self) -> int:
        package = self._new_package()
        self._sent.append(package)
        return self._submit(package)

    def _retry(self) -> int:
        return self._submit(self._sent_package())

    def _reuse_id(self) -> int:
        return self._submit(
            self._new_package() | {"package_id": self._sent_package()["package_id"]}
        )

    def _send_invalid(self) -> int:
        return self._submit(self._invalid_package())

    def _send_malformed(self) -> int:
        return self._submit(json.dumps(self._new_package())[:60].encode())

    def _submit(self, package: Json | bytes) -> int:
        self._service.request("POST", "/packages", package)
        return 1

    def _send_batch(self) -> int:
        packages = [self._new_package() for _ in range(self._rng.randrange(10, 40))]
        self._sent.extend(packages)
        batch = [*packages, self._sent_package(), self._invalid_package()]
        self._service.request("POST", "/packages/batch", batch)
        return len(batch)

    def _update_preferences(self) -> int:
        path = f"/recipients/{quote(self._rng.choice(_PEOPLE), safe='')}/preferences"
        current = self._service.request("GET", path)
        update = {name: value for name, value in current.items() if name.endswith(_PREFERENCE)}
        update[self._rng.choice(list(update))] = self._rng.random() < 0.7
        delay = timedelta(days=self._rng.choice([0, 0, 0, 1]))
        update["timestamp"] = (datetime.now(UTC) - delay).isoformat()
        self._service.request("PUT", path, update)
        return 0

    def _new_package(self) -> Json:
        self._count += 1
        package_type = self._rng.choice(self._types)
        senders = _COMPANIES if package_type == "marketing" else _PEOPLE
        return {
            "timestamp": datetime.now(UTC).isoformat(),
            "sender_id": self._rng.choice(senders),
            "recipient_id": self._rng.choice(_PEOPLE),
            "package_id": f"{self._prefix}-{self._count:05}",
            "package_type": package_type,
        }

    def _sent_package(self) -> Json:
        return self._rng.choice(self._sent or [self._new_package()])

    def _invalid_package(self) -> Json:
        invalid_fields: tuple[Json, ...] = (
            {"timestamp": "three weeks from Tuesday"},
            {"sender_id": ""},
            {"recipient_id": 1729},
            {"package_type": "contraband"},
            {"insurance": "none"},
        )
        return self._new_package() | self._rng.choice(invalid_fields)


class Feed:
    """The decisions for one recipient from now on, in order."""

    def __init__(self, service: Service, recipient_id: str) -> None:
        self._service = service
        self._path = f"/packages?order=asc&limit=1000&recipient_id={quote(recipient_id, safe='')}"
        self._after = ""
        self.read()

    def read(self) -> list[Json]:
        """Read up to the end of the feed.

        :returns: the decisions since the last call.
        """
        decisions: list[Json] = []
        while True:
            page = self._service.request("GET", self._path + self._after)
            self._after = f"&after={page['next']}"
            decisions += page["packages"]
            if not page["packages"]:
                return decisions


def _describe(decisions: list[Json]) -> Iterator[str]:
    dropped = [decision for decision in decisions if decision["status"] == "dropped"]
    yield (
        f"The feeds of the demo's recipients show {len(decisions):,} new decisions; "
        f"{len(dropped):,} packages were dropped."
    )
    for decision in dropped[-1:]:
        yield (
            f"The last one was {decision['package_id']}, because {decision['recipient_id']} "
            f"declined {decision['package_type']} on {decision['declined_at']}."
        )


def _report(statistics: Json) -> Iterator[str]:
    yield f"{'type':<20} {'delivered':>12} {'dropped':>12}"
    for name, totals in statistics["by_type"].items():
        yield f"{name:<20} {totals['delivered']:>12,} {totals['dropped']:>12,}"
    delivered, dropped = statistics["packages_delivered"], statistics["packages_dropped"]
    yield f"{'total':<20} {delivered:>12,} {dropped:>12,}"
    yield f"{'rejected requests':<20} {statistics['requests_rejected']:>12,}"


def _url(text: str) -> str:
    try:
        parsed = parse_url(text)
    except LocationParseError:
        parsed = Url()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise argparse.ArgumentTypeError(f"{text} is not a URL like http://localhost:9090")
    return text


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def main() -> None:
    """Run the demo with the options of the command line. Ctrl-C ends it early, with the totals.

    :raises SystemExit: with a one-line message, if the service doesn't respond.
    """
    parser = CommandParser(
        prog="demo",
        description="Fill a running service with made-up packages.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("service", type=_url, help="the URL of the service")
    for option, default, help_text in (
        ("--packages", 3000, "the minimum number of packages to submit"),
        ("--seconds", 30, "the duration in seconds"),
    ):
        parser.add_argument(
            option, type=_positive_integer, default=default, metavar="N", help=help_text
        )
    arguments = parser.parse_args()

    service = Service(arguments.service)
    traffic = Traffic(service, random.Random())
    feeds = [Feed(service, recipient_id) for recipient_id in _PEOPLE]
    submitted = 0
    start = time.monotonic()
    with suppress(KeyboardInterrupt):
        while submitted < arguments.packages:
            submitted += traffic.act()
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{submitted:,} of {arguments.packages:,} packages")
            due = start + arguments.seconds * min(1, submitted / arguments.packages)
            time.sleep(max(0, due - time.monotonic()))
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    decisions = [decision for feed in feeds for decision in feed.read()]
    statistics = service.request("GET", "/statistics")
    lines = [f"Submitted {submitted:,} packages.", *_describe(decisions), *_report(statistics), ""]
    write("\n".join(lines))


if __name__ == "__main__":
    main()
