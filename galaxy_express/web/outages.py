"""Outages: the first failure is logged and reported, further ones are only counted."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import Logger

#: An outage ends after this many seconds without a failure.
QUIET_SECONDS = 10.0


@dataclass(slots=True)
class _Outage:
    first: float
    last: float
    count: int


class Outages:
    """The outages of a process, at most one per kind of exception at a time.

    :param kinds: the kinds of exceptions that are treated as outages.
    :param clock: returns the time in seconds.
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
        """Return whether an exception belongs to an outage that has already been logged."""
        kind = next((kind for kind in self._kinds if isinstance(error, kind)), None)
        outage = None if kind is None else self._current.get(kind)
        return outage is not None and self._clock() - outage.last < QUIET_SECONDS

    def note_failure(self, error: BaseException, message: str, *values: object) -> None:
        """Log the message if this is the first failure of an outage; otherwise only count it."""
        self._end_outages()
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
        """End the outages that are over, if any."""
        if self._current:
            self._end_outages()

    def _end_outages(self) -> None:
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
