"""Outages: the first failure is logged and reported, the others are counted."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import Logger

#: How many seconds without a failure end an outage.
QUIET_SECONDS = 10.0


@dataclass(slots=True)
class _Outage:
    first: float
    last: float
    count: int


class Outages:
    """The outages of a process, one for each kind of exception at a time.

    :param kinds: the exceptions that are outages.
    :param clock: the time in seconds.
    """

    def __init__(
        self,
        logger: Logger,
        kinds: Iterable[type[BaseException]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._kinds = tuple(kinds)
        self._clock = clock
        self._current: dict[type[BaseException], _Outage] = {}

    def is_known(self, error: object) -> bool:
        """Whether the exception belongs to an outage that was logged already."""
        kind = next((kind for kind in self._kinds if isinstance(error, kind)), None)
        outage = None if kind is None else self._current.get(kind)
        return outage is not None and self._clock() - outage.last < QUIET_SECONDS

    def note_failure(self, error: BaseException, message: str, *values: object) -> None:
        """Log the message, if this is the first failure of an outage; count it otherwise."""
        self._end_those_that_are_over()
        now = self._clock()
        kind = next(kind for kind in self._kinds if isinstance(error, kind))
        outage = self._current.get(kind)
        if outage is None:
            self._current[kind] = _Outage(now, now, 1)
            self._logger.error(message, *values)
        else:
            outage.last = now
            outage.count += 1

    def note_success(self) -> None:
        """End the outages that are over, if there are any."""
        if self._current:
            self._end_those_that_are_over()

    def _end_those_that_are_over(self) -> None:
        now = self._clock()
        for kind, outage in list(self._current.items()):
            if now - outage.last >= QUIET_SECONDS:
                del self._current[kind]
                self._logger.info(
                    "%s is over: %s failed requests in %.1f s",
                    kind.__name__,
                    outage.count,
                    outage.last - outage.first,
                )
