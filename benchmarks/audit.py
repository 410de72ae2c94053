"""Compares the answers of a service, its statistics and its database.

It reads the database with SQL of its own, so that it shares no mistake with the service.
"""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, create_engine, text
from sqlalchemy.pool import NullPool

# Seconds for the requests that were being processed when wrk hung up.
PATIENCE = 30.0

_SELECT = text("SELECT package_id, status FROM packages WHERE package_id IN :ids").bindparams(
    bindparam("ids", expanding=True)
)
_COUNT = text("SELECT status, package_type, count(*) FROM packages GROUP BY status, package_type")

Totals = dict[tuple[str, str], int]


class Discrepancy(Exception):
    """The answers, the database and the statistics don't agree."""


class Ledger:
    """The answers of a service, to be compared with its database.

    :param statistics: asks the service for its statistics.
    :param recorded: how many packages are there before the first request.
    """

    def __init__(
        self, statistics: Callable[[], dict[str, Any]], database_url: str, recorded: int = 0
    ) -> None:
        self._statistics = statistics
        self._engine = create_engine(database_url, future=True, poolclass=NullPool)
        self._answered = recorded
        self._unanswered = 0

    def enter(self, decisions: Path, unanswered: int) -> None:
        """Add the answers of a run, and find each of its packages in the database.

        :param decisions: the file that :py:func:`.wrk.run_wrk` wrote.
        :param unanswered: how many packages were sent, at most, that got no good answer;
            they may or may not be recorded.
        :raises Discrepancy: unless all are there, with the decision that was answered.
        """
        self._unanswered += unanswered
        with open(decisions, encoding="ascii") as lines, self._engine.connect() as connection:
            while chunk := list(islice(lines, 1000)):
                answered = dict(line.split() for line in chunk)
                self._answered += len(chunk)
                recorded = dict(connection.execute(_SELECT, {"ids": list(answered)}).all())
                if recorded != answered:
                    some = sorted(answered.items() - recorded.items())[:3]
                    raise Discrepancy(f"answered, but not recorded like this: {some}")

    def check(self) -> None:
        """Compare the statistics with the rows, and the rows with the answers.

        :raises Discrepancy: if they don't agree.
        """
        stated, counted = self._state_and_count()
        if stated != counted:
            raise Discrepancy(f"the statistics state {stated}, the rows are {counted}")
        recorded = sum(counted.values())
        if not self._answered <= recorded <= self._answered + self._unanswered:
            raise Discrepancy(
                f"{recorded} packages are recorded, {self._answered} were answered,"
                f" and at most {self._unanswered} more were sent"
            )

    def _state_and_count(self) -> tuple[Totals, Totals]:
        # Totals only grow. If they are the same before and after, nothing was recorded
        # during the count.
        deadline = time.monotonic() + PATIENCE
        after = self._state()
        while time.monotonic() < deadline:
            before = after
            counted = self._count()
            after = self._state()
            if before == after:
                return after, counted
        raise Discrepancy("the statistics keep changing")

    def _state(self) -> Totals:
        statistics = self._statistics()
        if statistics["requests_rejected"]:
            raise Discrepancy(f"requests were rejected: {statistics}")
        by_type: dict[str, dict[str, int]] = statistics["by_type"]
        totals = {
            (status, package_type): number
            for package_type, row in by_type.items()
            for status, number in row.items()
            if number
        }
        sums = statistics["packages_delivered"] + statistics["packages_dropped"]
        if sums != sum(totals.values()):
            raise Discrepancy(f"the statistics contradict themselves: {statistics}")
        return totals

    def _count(self) -> Totals:
        with self._engine.connect() as connection:
            rows = connection.execute(_COUNT)
            return {(status, package_type): number for status, package_type, number in rows}
