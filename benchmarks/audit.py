"""That what was answered is what is recorded, and that the statistics say so."""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, func, select
from sqlalchemy.pool import NullPool

from galaxy_express.models import Package

# Seconds for the requests that were under way when wrk hung up to come to an end.
PATIENCE = 30.0

Totals = dict[tuple[str, str], int]


class Discrepancy(Exception):
    """What was answered, what is recorded and what the statistics say don't agree."""


class Ledger:
    """What a service has answered, to be compared with its database, read directly.

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
        """Take down what came of a run, and find each of its packages in the database.

        :param decisions: the file that :py:func:`.wrk.run_wrk` wrote.
        :param unanswered: how many packages were sent, at the most, to which there was no
            good answer; they may or may not be recorded.
        :raises Discrepancy: unless all are there, with the decision that was answered.
        """
        self._unanswered += unanswered
        with open(decisions, encoding="ascii") as lines, self._engine.connect() as connection:
            while chunk := list(islice(lines, 1000)):
                answered = dict(line.split() for line in chunk)
                self._answered += len(chunk)
                query = select(Package.package_id, Package.status)
                rows = connection.execute(query.where(Package.package_id.in_(answered)))
                recorded = dict(rows.all())
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
                f" and at most {self._unanswered} were sent in vain"
            )

    def _state_and_count(self) -> tuple[Totals, Totals]:
        # Totals only grow. If they are the same before and after, nothing has come
        # between them and the count.
        deadline = time.monotonic() + PATIENCE
        after = self._state()
        while time.monotonic() < deadline:
            before = after
            counted = self._count()
            after = self._state()
            if before == after:
                return after, counted
        raise Discrepancy("the statistics don't come to rest")

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
        groups = (Package.status, Package.package_type)
        with self._engine.connect() as connection:
            rows = connection.execute(select(*groups, func.count()).group_by(*groups))
            return {(status, package_type): number for status, package_type, number in rows}
