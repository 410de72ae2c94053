"""Outages: the first failure of each cause is logged and reported; others are only counted."""

import re
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from logging import Logger

#: An outage ends after this many seconds without a failure.
QUIET_SECONDS = 10.0

#: No more causes of an outage are logged.
MAX_CAUSES = 10

_NUMBERS = re.compile(r"\d+")


@dataclass(slots=True)
class _Outage:
    first: float
    last: float
    count: int = 0
    causes: set[Hashable] = field(default_factory=set)

    def knows(self, cause: Hashable) -> bool:
        """Return whether a cause has been logged, or as many as may be."""
        return cause in self.causes or len(self.causes) >= MAX_CAUSES


def _cause(error: object) -> Hashable:
    """What failures with the same cause have in common: messages may name rows and processes."""
    return type(error), getattr(error, "cause", None) or _NUMBERS.sub("", str(error))


class Outages:
    """The outages of a process, at most one per kind of exception at a time.

    An outage can have several causes, one after another or at once. Each is logged, so that an
    early one doesn't hide the one that lasts.

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
        """Return whether an exception belongs to an outage, and its cause was already logged."""
        kind = next((kind for kind in self._kinds if isinstance(error, kind)), None)
        outage = None if kind is None else self._current.get(kind)
        return (
            outage is not None
            and self._clock() - outage.last < QUIET_SECONDS
            and outage.knows(_cause(error))
        )

    def note_failure(self, error: BaseException, message: str, *values: object) -> None:
        """Log the message if this is the first failure of its cause in an outage; count it."""
        self._end_outages()
        now = self._clock()
        kind = next(kind for kind in self._kinds if isinstance(error, kind))
        outage = self._current.setdefault(kind, _Outage(now, now))
        outage.last = now
        outage.count += 1
        cause = _cause(error)
        if not outage.knows(cause):
            outage.causes.add(cause)
            self._logger.error(message, *values)

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
