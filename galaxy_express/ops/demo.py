"""A demonstration: fills a running service with believable packages (``make demo``).

Senders send, hear nothing, and send again; some reuse an id, or send nonsense. Recipients
change their minds, and some of their letters are late. All of it goes over HTTP, and all
that is known of the service is its API.
"""

import argparse
import json
import math
import random
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

Json = dict[str, Any]

# An id is any text, so some of these are not what a programmer would choose.
_COMPANIES = [
    "slurm-loyalty-club",
    "Big Apple Robots (lease/return)",
    "lunar-park-tickets",
    "Glurmo & Daughters, tentacle care",
    "vergon-6 dark matter outlet",
    "the 11:30 PM shopping hour",
]
_PEOPLE = [
    "zap",
    "kif",
    "leela",
    "fry",
    "bender",
    "amy/mars",
    "zoidberg (please write)",
    "hermes #36",
    "the professor",
    "mother of calculon",
    "lrrr 👑",
    "nibbler 🐾",
    "Ἑρμῆς",
    "宇宙人",
]

_BAR = 40


class Service:
    """The service as its clients reach it.

    :param url: where it is, like ``http://localhost:9090``.
    :raises ValueError: if it isn't such a URL.
    """

    _ATTEMPTS = 10

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url} is not a URL like http://localhost:9090")
        self._url = url
        self._host, self._port = parts.hostname, parts.port or 80

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request, again if the service says that it may be sent again later.

        :param body: bytes as they are, or a value to be sent as JSON; ``None`` for no body.
        :returns: the value of the answer, whatever its status.
        :raises SystemExit: with a sentence, if there is no answer that will do.
        """
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        for _ in range(self._ATTEMPTS):
            status, retry_after, answer = self._exchange(method, path, content)
            if status != HTTPStatus.SERVICE_UNAVAILABLE:
                return answer
            time.sleep(retry_after)
        raise SystemExit(f"The service at {self._url} stays unavailable; its log says why.")

    def _exchange(self, method: str, path: str, content: bytes | None) -> tuple[int, float, Any]:
        try:
            with closing(HTTPConnection(self._host, self._port, timeout=30)) as connection:
                connection.request(method, path, content)
                response = connection.getresponse()
                retry_after = float(response.headers.get("Retry-After", 1))
                return response.status, retry_after, json.loads(response.read())
        except OSError as error:
            raise SystemExit(
                f"Nothing answers at {self._url} ({error}); start it with: make run"
            ) from error
        except (HTTPException, ValueError) as error:
            raise self._not_ours() from error

    def package_types(self) -> list[str]:
        """The names of the types that can be sent.

        :raises SystemExit: as :py:meth:`ask` does, and if this is another service.
        """
        # Those in the statistics may be of the past.
        preferences = self.ask("GET", "/recipients/anyone/preferences")
        ending = "_preference"
        names = [field.removesuffix(ending) for field in preferences if field.endswith(ending)]
        if not names:
            raise self._not_ours()
        return names

    def _not_ours(self) -> SystemExit:
        return SystemExit(f"What answers at {self._url} is not Galaxy Express.")


class Traffic:
    """Senders and recipients who go about their business.

    :param chance: decides what they do next.
    """

    def __init__(self, service: Service, chance: random.Random) -> None:
        self._service = service
        self._chance = chance
        self._types = service.package_types()
        self._ids = f"GX-{secrets.token_hex(3)}"
        self._count = 0
        self._sent: deque[Json] = deque(maxlen=200)

    def go_on(self) -> int:
        """Let someone do something.

        :returns: how many packages were submitted by it.
        """
        (act,) = self._chance.choices(
            [
                self._send,
                self._send_again,
                self._reuse_an_id,
                self._send_nonsense,
                self._send_half,
                self._send_batch,
                self._update_preferences,
            ],
            weights=[60, 10, 2, 2, 1, 2, 6],
        )
        return act()

    def _send(self) -> int:
        package = self._package()
        self._sent.append(package)
        return self._submit(package)

    def _send_again(self) -> int:
        return self._submit(self._earlier_package())

    def _reuse_an_id(self) -> int:
        return self._submit(self._package() | {"package_id": self._earlier_package()["package_id"]})

    def _send_nonsense(self) -> int:
        return self._submit(self._nonsense())

    def _send_half(self) -> int:
        return self._submit(json.dumps(self._package())[:60].encode())

    def _submit(self, package: Json | bytes) -> int:
        self._service.ask("POST", "/packages", package)
        return 1

    def _send_batch(self) -> int:
        batch = [self._package() for _ in range(self._chance.randrange(10, 40))]
        self._sent.extend(batch)
        batch += [self._earlier_package(), self._nonsense()]
        self._service.ask("POST", "/packages/batch", batch)
        return len(batch)

    def _update_preferences(self) -> int:
        path = f"/recipients/{quote(self._chance.choice(_PEOPLE), safe='')}/preferences"
        in_force = self._service.ask("GET", path)
        update = {name: value for name, value in in_force.items() if name.endswith("_preference")}
        update[self._chance.choice(list(update))] = self._chance.random() < 0.7
        written = _now() - timedelta(days=self._chance.choice([0, 0, 0, 1]))
        self._service.ask("PUT", path, update | {"timestamp": written.isoformat()})
        return 0

    def _package(self) -> Json:
        self._count += 1
        package_type = self._chance.choice(self._types)
        senders = _COMPANIES if package_type == "marketing" else _PEOPLE
        return {
            "timestamp": _now().isoformat(),
            "sender_id": self._chance.choice(senders),
            "recipient_id": self._chance.choice(_PEOPLE),
            "package_id": f"{self._ids}-{self._count:05}",
            "package_type": package_type,
        }

    def _earlier_package(self) -> Json:
        return self._chance.choice(self._sent or [self._package()])

    def _nonsense(self) -> Json:
        nonsense: list[Json] = [
            {"timestamp": "three weeks from Tuesday"},
            {"sender_id": ""},
            {"recipient_id": 1729},
            {"package_type": "contraband"},
            {"insurance": "none"},
        ]
        return self._package() | self._chance.choice(nonsense)


def _now() -> datetime:
    return datetime.now(UTC) + timedelta(days=42_369)  # out there it is 116 years later


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal: what is yielded draws it."""
    is_terminal = sys.stderr.isatty()

    def draw(done: int) -> None:
        if is_terminal:
            filled = "#" * (_BAR * done // total)
            sys.stderr.write(f"\r[{filled:.<{_BAR}}] {done:,} of {total:,} packages")
            sys.stderr.flush()

    try:
        yield draw
    finally:
        if is_terminal:
            sys.stderr.write("\n")


def _moment(share: float) -> float:
    """When a share of the packages has been sent, as a share of the time; there are two
    rush hours."""
    return share + 0.7 * math.sin(4 * math.pi * share) / (4 * math.pi)


def _describe(statistics: Json) -> Iterator[str]:
    yield f"{'type':<20} {'delivered':>12} {'dropped':>12}"
    for name, totals in statistics["by_type"].items():
        yield f"{name:<20} {totals['delivered']:>12,} {totals['dropped']:>12,}"
    delivered, dropped = statistics["packages_delivered"], statistics["packages_dropped"]
    yield f"{'in total':<20} {delivered:>12,} {dropped:>12,}"
    yield f"{'rejected requests':<20} {statistics['requests_rejected']:>12,}"


def _service(text: str) -> Service:
    try:
        return Service(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def main() -> None:
    """Run the demonstration, as the command line says; an interrupt ends it early.

    :raises SystemExit: with a sentence, if the service isn't there or goes away.
    """
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("service", type=_service, help="where it is, as a URL")
    for option, default, meaning in (
        ("--packages", 3000, "how many to submit, or a few more"),
        ("--seconds", 30, "how long that may take"),
    ):
        meaning = f"{meaning} ({default} if nothing is said)"
        parser.add_argument(
            option, type=_positive_integer, default=default, metavar="N", help=meaning
        )
    arguments = parser.parse_args()

    service: Service = arguments.service
    traffic = Traffic(service, random.Random())
    submitted = 0
    start = time.monotonic()
    with suppress(KeyboardInterrupt), _progress(arguments.packages) as draw:
        while submitted < arguments.packages:
            submitted += traffic.go_on()
            share = min(1, submitted / arguments.packages)
            draw(min(submitted, arguments.packages))
            due = start + arguments.seconds * _moment(share)
            time.sleep(max(0, due - time.monotonic()))
    statistics = service.ask("GET", "/statistics")
    sys.stdout.write("\n".join([f"Submitted {submitted:,} packages.", *_describe(statistics), ""]))


if __name__ == "__main__":
    main()
