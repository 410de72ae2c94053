"""Invariants: random sequences of requests, compared with a model in plain Python."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from webtest import TestApp

from tests.backends import Backend
from tests.functional.client import (
    ANY,
    PACKAGE,
    RECENTLY,
    UPDATE,
    post,
    preferences_of,
    send_batch,
    update,
)

TYPES = ["personal", "marketing"]
TIMESTAMPS = [f"2142-03-01T12:00:0{second}Z" for second in range(3)]
RECIPIENTS = ["leela", "fry"]

packages = st.fixed_dictionaries(
    {
        "timestamp": st.sampled_from(TIMESTAMPS),
        "sender_id": st.sampled_from(["zap", "nixon"]),
        "recipient_id": st.sampled_from(RECIPIENTS),
        "package_id": st.sampled_from("abcd"),
        "package_type": st.sampled_from(TYPES),
    }
)
wrong_items = st.sampled_from([None, 5, {}, PACKAGE | {"package_type": "freight"}])
updates = st.fixed_dictionaries(
    {
        "timestamp": st.sampled_from(TIMESTAMPS),
        "personal_preference": st.booleans(),
        "marketing_preference": st.booleans(),
    }
)
partial_updates = st.builds(
    lambda timestamp, package_type, wanted: {
        "timestamp": timestamp,
        f"{package_type}_preference": wanted,
    },
    st.sampled_from(TIMESTAMPS),
    st.sampled_from(TYPES),
    st.booleans(),
)
# The operations and their bodies.
actions = st.one_of(
    st.tuples(st.just("send"), packages),
    st.tuples(st.just("send"), st.sampled_from([{}, [], PACKAGE | {"sender_id": 5}])),
    st.tuples(st.just("batch"), st.lists(packages | wrong_items, max_size=6)),
    st.tuples(st.just("batch"), st.sampled_from([{}, 5, [1] * 1001])),
    st.tuples(st.sampled_from(RECIPIENTS), updates),
    st.tuples(st.sampled_from(RECIPIENTS), st.sampled_from([{}, UPDATE | {"timestamp": 5}])),
)


@dataclass
class Model:
    """The rules of the service, implemented a second time without a database."""

    decisions: dict[str, dict[str, object]] = field(default_factory=dict)
    preferences: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def send(self, body: Any) -> tuple[int, object]:
        """The expected status of a send, and the decision."""
        if not isinstance(body, dict) or body.get("package_type") not in TYPES:
            status = 422 if isinstance(body, dict) else 400
        elif not isinstance(body["sender_id"], str):
            status = 422
        else:
            return self._decide(body)
        self.counts["rejected"] += 1
        return status, None

    def _decide(self, package: dict[str, str]) -> tuple[int, object]:
        earlier = self.decisions.get(package["package_id"])
        if earlier is None:
            key = package["recipient_id"], package["package_type"]
            chosen_at, wanted = self.preferences.get(key, ("", True))
            status = "delivered" if wanted else "dropped"
            reason = None if wanted else "recipient_declined"
            self.counts[f"{status} {package['package_type']}"] += 1
            self.decisions[package["package_id"]] = package | {
                "status": status,
                "reason": reason,
                "decided_at": RECENTLY,
                "declined_at": None if wanted else chosen_at,
            }
            return 201, self.decisions[package["package_id"]]
        if any(earlier[key] != package[key] for key in package if key != "timestamp"):
            self.counts["rejected"] += 1
            return 409, None
        return 200, earlier

    def send_batch(self, body: object) -> tuple[int, object]:
        """The expected status of a batch; for each item, whether it is replayed, and the
        decision."""
        if not isinstance(body, list) or len(body) > 1000:
            self.counts["rejected"] += 1
            return (422 if isinstance(body, list) else 400), None
        sent = [self.send(item) for item in body]
        return 200, [decision and (status == 200, decision) for status, decision in sent]

    def update(self, recipient_id: str, body: dict[str, Any]) -> tuple[int, object]:
        """The expected status of an update, and whether it is applied."""
        if not isinstance(body.get("timestamp"), str):
            return 422, None
        applied = True
        for package_type in TYPES:
            new = body["timestamp"], body[f"{package_type}_preference"]
            key = recipient_id, package_type
            # At equal timestamps, False wins.
            self.preferences[key] = max(
                new, self.preferences.get(key, new), key=lambda each: (each[0], not each[1])
            )
            applied = applied and self.preferences[key] == new
        return 200, applied

    def statistics(self) -> dict[str, object]:
        """The expected totals."""
        by_type = {
            package_type: {
                status: self.counts[f"{status} {package_type}"]
                for status in ("delivered", "dropped")
            }
            for package_type in sorted(TYPES)
        }
        return {
            "packages_delivered": sum(row["delivered"] for row in by_type.values()),
            "packages_dropped": sum(row["dropped"] for row in by_type.values()),
            "requests_rejected": self.counts["rejected"],
            "by_type": by_type,
        }


def do(app: TestApp, what: str, body: Any) -> tuple[int, object]:
    """Make a request to the application, and return the parts of its response to compare."""
    if what == "send":
        answer = post(app, "/packages", body, ANY)
        return answer.status_int, answer.json if answer.status_int in (200, 201) else None
    if what == "batch":
        answer = post(app, "/packages/batch", body, ANY)
        if answer.status_int != 200:
            return answer.status_int, None
        return 200, [
            None if item["status"] == "rejected" else (item.pop("replayed"), item)
            for item in answer.json
        ]
    answer = update(app, body, what, ANY)
    return answer.status_int, answer.json.get("applied")


@settings(max_examples=60)
@given(sequence=st.lists(actions, max_size=20))
def test_any_sequence_of_requests(
    app: TestApp, app_backend: Backend, sequence: list[tuple[str, Any]]
) -> None:
    """For any sequence of requests, the responses and the totals equal those of the model."""
    app_backend.empty_tables()
    model = Model()
    for what, body in sequence:
        match what:
            case "send":
                expected = model.send(body)
            case "batch":
                expected = model.send_batch(body)
            case _:
                expected = model.update(what, body)
        assert do(app, what, body) == expected
    statistics = app.get("/statistics").json
    assert statistics == model.statistics()
    counted = app_backend.counted()
    assert counted.pop(("rejected", ""), 0) == statistics["requests_rejected"]
    assert counted == app_backend.stored()


def put_or_patch(app: TestApp, body: dict[str, object], recipient_id: str) -> None:
    """Send an update of all preferences, or of some."""
    if len(body) == 3:
        update(app, body, recipient_id)
    else:
        app.patch_json(preferences_of(recipient_id), body)


@settings(max_examples=40)
@given(bodies=st.lists(updates | partial_updates, min_size=1, max_size=6), data=st.data())
def test_updates_in_any_order(
    app: TestApp, app_backend: Backend, bodies: list[dict[str, object]], data: st.DataObject
) -> None:
    """Updates in any order, and repeated any number of times, end in the same state."""
    app_backend.empty_tables()
    repeats = data.draw(st.lists(st.sampled_from(bodies), max_size=4))
    for body in bodies:
        put_or_patch(app, body, "leela")
    for body in data.draw(st.permutations(bodies + repeats)):
        put_or_patch(app, body, "fry")
    leela = app.get("/recipients/leela/preferences").json
    fry = app.get("/recipients/fry/preferences").json
    assert fry == leela | {"recipient_id": "fry"}


def without_times(results: list[Any]) -> list[Any]:
    """The results of batches, without the times at which packages were decided."""
    return [
        {name: value for name, value in result.items() if name != "decided_at"}
        for result in results
    ]


@settings(max_examples=25)
@given(sent=st.lists(packages, max_size=12), data=st.data())
def test_packages_in_batches_of_any_size(
    app: TestApp, app_backend: Backend, sent: list[dict[str, object]], data: st.DataObject
) -> None:
    """Packages get the same decisions in several batches as in one."""
    app_backend.empty_tables()
    together = without_times(send_batch(app, *sent).json)
    totals = app.get("/statistics").json
    app_backend.empty_tables()
    results: list[object] = []
    while len(results) < len(sent):
        size = data.draw(st.integers(1, 5))
        results += send_batch(app, *sent[len(results) : len(results) + size]).json
    assert without_times(results) == together
    assert app.get("/statistics").json == totals
