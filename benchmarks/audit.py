"""Compares the responses of a service, its statistics and its database.

It reads the database with its own SQL, so that it shares no bug with the service.
"""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, create_engine, text
from sqlalchemy.pool import NullPool

# Seconds for the requests that were in progress when wrk disconnected.
WAIT_SECONDS = 30.0

_SELECT = text("SELECT package_id, status FROM packages WHERE package_id IN :ids").bindparams(
    bindparam("ids", expanding=True)
)
_COUNT = text("SELECT status, package_type, count(*) FROM packages GROUP BY status, package_type")

Totals = dict[tuple[str, str], int]


class Discrepancy(Exception):
    """The responses, the database and the statistics don't agree."""


class Ledger:
    """The responses of a service, for comparison with its database.

    :param statistics: requests the statistics of the service.
    :param recorded: the number of packages before the first request.
    """

    def __init__(
        self, statistics: Callable[[], dict[str, Any]], database_url: str, recorded: int = 0
    ) -> None:
        self._statistics = statistics
        self._engine = create_engine(database_url, future=True, poolclass=NullPool)
        self._answered = recorded
        self._unanswered = 0

    def enter(self, decisions: Path, unanswered: int) -> None:
        """Add the responses of a run, and check that its packages are in the database.

        :param decisions: the file that :py:func:`.wrk.run_wrk` wrote.
        :param unanswered: the maximum number of packages that were sent without an expected
            response; they may or may not be recorded.
        :raises Discrepancy: unless all are recorded with the decision in the response.
        """
        self._unanswered += unanswered
        with open(decisions, encoding="ascii") as lines, self._engine.connect() as connection:
            while chunk := list(islice(lines, 1000)):
                answered = dict(line.split() for line in chunk)
                self._answered += len(chunk)
                recorded = dict(connection.execute(_SELECT, {"ids": list(answered)}).all())
                if recorded != answered:
                    some = sorted(answered.items() - recorded.items())[:3]
                    raise Discrepancy(f"returned, but not recorded like this: {some}")

    def check(self) -> None:
        """Compare the statistics with the rows, and the rows with the responses.

        :raises Discrepancy: if they don't agree.
        """
        stated, counted = self._state_and_count()
        if stated != counted:
            raise Discrepancy(f"the statistics are {stated}, but the rows are {counted}")
        recorded = sum(counted.values())
        if not self._answered <= recorded <= self._answered + self._unanswered:
            raise Discrepancy(
                f"{recorded} packages are recorded, {self._answered} were answered,"
                f" and at most {self._unanswered} more were sent"
            )

    def _state_and_count(self) -> tuple[Totals, Totals]:
        # Totals only grow. If they are the same before and after, nothing was recorded
        # during the count.
        deadline = time.monotonic() + WAIT_SECONDS
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
