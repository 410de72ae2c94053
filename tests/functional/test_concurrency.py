"""Concurrent requests to one application, as under a gevent server."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from gevent.pool import Pool
from webtest import TestApp, TestResponse

from tests.backends import Backend
from tests.functional.client import ANY, PACKAGE, UPDATE, read, send, send_batch, totals, update


def run_concurrently(requests: Iterable[Callable[[], TestResponse]]) -> list[TestResponse]:
    """Make all requests concurrently, and return the responses in the same order."""
    return list(Pool().map(lambda request: request(), requests))


def test_concurrent_sends_of_one_package(app: TestApp) -> None:
    """If a package is sent concurrently, one send gets 201, the others 200 with the same body."""
    answers = run_concurrently([partial(send, app, ANY)] * 50)
    assert Counter(answer.status_int for answer in answers) == {201: 1, 200: 49}
    assert len({answer.body for answer in answers}) == 1
    assert all(
        ("Idempotent-Replayed" in answer.headers) == (answer.status_int == 200)
        for answer in answers
    )
    assert totals(app) == (1, 0, 0)


def test_concurrent_sends_of_one_id(app: TestApp) -> None:
    """If different packages are sent concurrently with one id, one send succeeds."""
    answers = run_concurrently([partial(send, app, ANY, sender_id=str(n)) for n in range(20)])
    assert Counter(answer.status_int for answer in answers) == {201: 1, 409: 19}
    (first,) = (answer for answer in answers if answer.status_int == 201)
    assert read(app, "pkg-1").body == first.body
    assert totals(app) == (1, 0, 19)


def test_concurrent_requests_of_all_kinds(app: TestApp, app_backend: Backend) -> None:
    """Sends, rejections, batches and updates that share a transaction get the right responses."""
    sends = [partial(send, app, package_id=f"s{n}") for n in range(30)]
    rejections = [partial(send, app, 422, sender_id="")] * 5
    batches = [
        partial(send_batch, app, PACKAGE | {"package_id": f"b{n}"}, {}, PACKAGE) for n in range(5)
    ]
    updates = [partial(update, app, UPDATE, f"r{n}") for n in range(10)]
    answers = run_concurrently([*batches, *sends, *rejections, *updates])
    sent = answers[5:35]
    assert [answer.json["package_id"] for answer in sent] == [f"s{n}" for n in range(30)]
    assert [answer.json[0]["package_id"] for answer in answers[:5]] == [f"b{n}" for n in range(5)]
    assert [answer.json["recipient_id"] for answer in answers[40:]] == [f"r{n}" for n in range(10)]
    assert totals(app) == (36, 0, 10)
    assert app_backend.stored() == {("delivered", "personal"): 36}


def test_requests_are_processed_in_order(app: TestApp) -> None:
    """Requests of all kinds are processed in the order of their arrival."""
    requests: list[Callable[[], TestResponse]] = []
    for number in range(20):
        changes = {
            "timestamp": f"2142-03-01T12:00:{number:02}Z",
            "personal_preference": number % 2 == 0,
        }
        requests += [
            partial(update, app, UPDATE | changes),
            partial(send, app, package_id=str(number)),
        ]
    answers = run_concurrently(requests)
    assert [answer.json["status"] for answer in answers[1::2]] == ["delivered", "dropped"] * 10
