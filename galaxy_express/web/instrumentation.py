"""Baseplate's server span and ``http_server_*`` metrics for each request, at less cost.

Baseplate's own integration looks up the labels of six metrics per request, and sets tags that no
observer reads, which takes half the time of a small request. This one produces the same spans and
metrics, and caches the lookups.
"""

import re
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from baseplate import Span, SpanObserver
from baseplate.frameworks.pyramid import (
    ACTIVE_REQUESTS,
    REQUEST_LATENCY,
    REQUEST_SIZE,
    REQUESTS_TOTAL,
    RESPONSE_SIZE,
    BaseplateConfigurator,
    RequestFactory,
    SpanFinishingAppIterWrapper,
)
from baseplate.lib.prometheus_metrics import getHTTPSuccessLabel
from prometheus_client import Counter, Histogram
from pyramid.config import Configurator
from pyramid.events import ApplicationCreated, ContextFound
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW

#: The dotted name of the tween, for tweens that are placed over or under it.
TWEEN = "galaxy_express.web.instrumentation.tween_factory"

_METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}


class InstrumentedConfigurator(BaseplateConfigurator):
    """Baseplate's integration into Pyramid, with our own tween.

    Trace headers and edge contexts of requests are ignored, which is also the default of
    Baseplate's integration.
    """

    def includeme(self, config: Configurator) -> None:
        """Set up the request factory, the server span and the metrics."""
        endpoints: dict[tuple[str, str], _Endpoint] = {}

        def begin(event: ContextFound) -> None:
            request = event.request
            route = request.matched_route
            method = request.method if request.method in _METHODS else "UNKNOWN"
            key = method, "404" if route is None else route.pattern
            if key not in endpoints:
                endpoints[key] = _Endpoint(*key)
            request.measurement = endpoints[key], time.perf_counter()
            endpoints[key].active.inc()
            if route is not None:
                span = self.baseplate.make_server_span(request, route.name)
                if _has_tag_reader(span):
                    span.set_tag("protocol", "http")
                    span.set_tag("http.url", request.url)
                    span.set_tag("http.method", request.method)
                    span.set_tag("peer.ipv4", request.remote_addr)
                span.start()

        def attach(event: ApplicationCreated) -> None:
            event.app.baseplate = self.baseplate

        config.set_request_factory(RequestFactory(self.baseplate))
        config.add_subscriber(begin, ContextFound)
        config.add_subscriber(attach, ApplicationCreated)
        config.add_tween(TWEEN, over=EXCVIEW)


def tween_factory(
    handler: Callable[[Request], Response], registry: Registry
) -> Callable[[Request], Response]:
    """Make a tween that finishes the server span and counts the request."""

    def instrumentation_tween(request: Request) -> Response:
        request.measurement = None
        try:
            response = handler(request)
        except BaseException:
            if request.span is not None:
                request.span.finish(exc_info=sys.exc_info())
            if request.measurement is not None:
                _count_failure(request)
            raise
        if request.span is not None:
            _finish_span(request.span, response)
        if request.measurement is not None:
            _count_response(request, response)
        return response

    return instrumentation_tween


def _has_tag_reader(span: Span) -> bool:
    return any(type(o).on_set_tag is not SpanObserver.on_set_tag for o in span.observers)


def _finish_span(span: Span, response: Response) -> None:
    if _has_tag_reader(span):
        span.set_tag("http.response_length", response.content_length)
        span.set_tag("http.status_code", response.status_code)
    # Open until the response is sent, so that the timeout also applies to slow readers.
    length = response.content_length
    response.app_iter = _SpanFinishingAppIter(span, response.app_iter)
    response.content_length = length


class _SpanFinishingAppIter(SpanFinishingAppIterWrapper):
    """Finishes the span even if the iteration doesn't reach the end: for HEAD, or if the client has
    disconnected. Otherwise its timeout would end another request of the same connection."""

    def close(self) -> None:
        super().close()
        self.span.finish()


class _Outcome(NamedTuple):
    """The metrics of an endpoint for one response code."""

    requests: Counter
    latency: Histogram
    request_size: Histogram
    response_size: Histogram


class _Endpoint:
    """The metrics of one method of an endpoint, looked up once.

    :param method: one of a bounded set.
    :param pattern: the pattern of the route, whose placeholders may have regular expressions.
    """

    def __init__(self, method: str, pattern: str) -> None:
        template = re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", pattern)
        self._labels = {"http_method": method.lower(), "http_endpoint": template}
        self._outcomes: dict[object, _Outcome] = {}
        self.active = ACTIVE_REQUESTS.labels(**self._labels)

    def outcome(self, code: int | str) -> _Outcome:
        """Return the metrics for a response code; it is empty for an exception."""
        if code not in self._outcomes:
            success = getHTTPSuccessLabel(code) if isinstance(code, int) else "false"
            labels = {**self._labels, "http_success": success}
            self._outcomes[code] = _Outcome(
                REQUESTS_TOTAL.labels(**labels, http_response_code=str(code)),
                REQUEST_LATENCY.labels(**labels),
                REQUEST_SIZE.labels(**labels),
                RESPONSE_SIZE.labels(**labels),
            )
        return self._outcomes[code]


def _count_failure(request: Request) -> None:
    _count(request, "")


def _count_response(request: Request, response: Response) -> None:
    outcome = _count(request, response.status_code)
    if response.content_length is not None:
        outcome.response_size.observe(response.content_length)


def _count(request: Request, code: int | str) -> _Outcome:
    endpoint, started = request.measurement
    outcome: _Outcome = endpoint.outcome(code)
    endpoint.active.dec()
    outcome.requests.inc()
    outcome.latency.observe(time.perf_counter() - started)
    if request.content_length is not None:
        outcome.request_size.observe(request.content_length)
    return outcome
