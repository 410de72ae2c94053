"""Baseplate's server timeouts, at less cost: one timer watches all requests."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from baseplate import Baseplate, RequestContext, ServerSpan, SpanObserver
from baseplate.lib import config
from baseplate.observers.timeout import ServerTimeout, TimeoutBaseplateObserver

from galaxy_express.deadlines import Deadline, Deadlines


class TimeoutObserver(TimeoutBaseplateObserver):
    """Raises :py:class:`ServerTimeout` in requests that take too long.

    The settings are those of Baseplate's own observer. The budgets that clients send are ignored,
    as trace headers are.
    """

    def __init__(self, timeout_config: config.ConfigNamespace) -> None:
        super().__init__(timeout_config)
        self._deadlines: dict[timedelta, Deadlines] = {}

    def on_server_span_created(self, context: RequestContext, server_span: ServerSpan) -> None:
        """Give the span a deadline, if its endpoint has a timeout."""
        limit = self.config.by_endpoint.get(server_span.name, self.config.default)
        if limit is config.InfiniteTimespan:
            return
        if limit not in self._deadlines:
            self._deadlines[limit] = Deadlines(limit)
        error = partial(ServerTimeout, server_span.name, limit.total_seconds(), self.config.debug)
        server_span.register(_SpanDeadline(self._deadlines[limit], error))


class _SpanDeadline(SpanObserver):
    """The deadline of a server span."""

    _deadline: Deadline | None = None

    def __init__(self, deadlines: Deadlines, make_error: Callable[[], BaseException]) -> None:
        self._deadlines = deadlines
        self._make_error = make_error

    def on_start(self) -> None:
        self._deadline = self._deadlines.start(self._make_error)

    def on_finish(self, exc_info: Any) -> None:
        if self._deadline is not None:
            self._deadlines.stop(self._deadline)


def share_timer(baseplate: Baseplate) -> None:
    """Replace Baseplate's observer for timeouts, which it only adds under gevent."""
    baseplate.observers = [
        TimeoutObserver(observer.config)
        if isinstance(observer, TimeoutBaseplateObserver)
        else observer
        for observer in baseplate.observers
    ]
