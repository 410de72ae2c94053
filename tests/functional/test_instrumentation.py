"""Spans and metrics of requests, compared with those of Baseplate's own integration."""

from collections.abc import Iterator
from typing import Any

import pytest
from baseplate import Baseplate, BaseplateObserver, RequestContext, Span, SpanObserver
from baseplate.frameworks.pyramid import BaseplateConfigurator
from prometheus_client import REGISTRY
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPGone
from pyramid.request import Request
from pyramid.response import Response
from webtest import TestApp

from galaxy_express.web.instrumentation import InstrumentedConfigurator
from tests.conftest import MakeApp

REQUESTS = [
    ("GET", "/text", b""),
    ("HEAD", "/text", b""),
    ("POST", "/text", b"some content"),
    ("GET", "/stream", b""),
    ("GET", "/items/one", b""),
    ("GET", "/items/two", b""),
    ("GET", "/gone", b""),
    ("PUT", "/error", b"{}"),
    ("GET", "/unknown", b""),
    ("GET", "/text", b""),
]


class Recorder(BaseplateObserver):
    """Records the events that an observer of server spans receives."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def on_server_span_created(self, context: RequestContext, server_span: Span) -> None:
        """Record a span."""
        self.spans.append({"name": server_span.name})
        server_span.register(_SpanRecorder(self.spans[-1]))


class _SpanRecorder(SpanObserver):
    def __init__(self, record: dict[str, Any]) -> None:
        self._record = record

    def on_start(self) -> None:
        self._record["started"] = True

    def on_set_tag(self, key: str, value: Any) -> None:
        self._record[key] = value

    def on_finish(self, exc_info: Any) -> None:
        self._record["error"] = exc_info and exc_info[0]


def _fail(request: Request) -> Response:
    raise ArithmeticError


def _raise_gone(request: Request) -> Response:
    raise HTTPGone


def _stream(request: Request) -> Response:
    return Response(app_iter=iter([b"one", b"two"]))


def make_application(
    integration: type[BaseplateConfigurator], observer: BaseplateObserver
) -> TestApp:
    """Make an application with views of every kind."""
    baseplate = Baseplate()
    baseplate.register(observer)
    config = Configurator()
    config.include(integration(baseplate).includeme)
    config.commit()  # so that both applications have the same response to an unknown path
    config.add_notfound_view(lambda _: Response("unknown", status=404))
    for path, view in {
        "/text": lambda _: Response("text"),
        "/stream": _stream,
        "/items/{name}": lambda request: Response(request.matchdict["name"]),
        "/gone": _raise_gone,
        "/error": _fail,
    }.items():
        config.add_route(path, path)
        config.add_view(view, route_name=path)
    return TestApp(config.make_wsgi_app())


def observe(integration: type[BaseplateConfigurator]) -> tuple[dict[Any, float], list[Any]]:
    """Make the requests; return the increase of each series, and the spans."""
    recorder = Recorder()
    app = make_application(integration, recorder)
    before = dict(series())
    for method, path, body in REQUESTS:
        request = app.RequestClass.blank(path, method=method, body=body)
        try:
            app.do_request(request, status="*")
        except ArithmeticError:
            assert path == "/error"
    grown = {key: value - before.get(key, 0) for key, value in series()}
    return {key: value for key, value in grown.items() if value}, recorder.spans


def series() -> Iterator[tuple[Any, float]]:
    """The series of ``http_server_*``, except those that depend on the clock."""
    for family in REGISTRY.collect():
        if family.name.startswith("http_server_"):
            for sample in family.samples:
                if not sample.name.endswith(("_created", "latency_seconds_sum", "_bucket")):
                    yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value


def test_metrics_equal_those_of_baseplate() -> None:
    """The series, labels and values equal those of Baseplate's integration."""
    metrics, _ = observe(InstrumentedConfigurator)
    assert metrics == observe(BaseplateConfigurator)[0]
    assert len(metrics) > 20


def test_spans_equal_those_of_baseplate() -> None:
    """Observers get the same events for each span, and also the end of the spans of HEAD."""
    _, spans = observe(InstrumentedConfigurator)
    _, expected = observe(BaseplateConfigurator)
    expected[1]["error"] = None
    assert spans == expected
    assert [span.get("error") for span in spans].count(ArithmeticError) == 1


@pytest.mark.parametrize("path", ["/stream", "/text"])
def test_span_ends_when_the_response_is_sent(path: str) -> None:
    """The span and its timeout last until the last chunk of the response is consumed."""
    recorder = Recorder()
    app = make_application(InstrumentedConfigurator, recorder)
    application: Any = app.app
    pieces = iter(application(app.RequestClass.blank(path).environ, lambda *_: None))
    next(pieces)
    assert "error" not in recorder.spans[0]
    list(pieces)
    assert recorder.spans[0]["error"] is None


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/packages/a", "/packages/{package_id}"),
        ("/packages/a%2Fb", "/packages/{package_id}"),
        ("/recipients/leela/preferences", "/recipients/{recipient_id}/preferences"),
        ("/statistics", "/statistics"),
        ("/nowhere", "404"),
    ],
)
def test_endpoint_labels_are_path_templates(make_app: MakeApp, path: str, endpoint: str) -> None:
    """The label of an endpoint is its path as in the documentation."""
    app = make_app()
    before = dict(series())
    app.get(path, status="*")
    grown = {
        dict(labels)["http_endpoint"]
        for key, value in series()
        if value != before.get(key)
        for labels in [key[1]]
    }
    assert grown == {endpoint}


def test_unknown_methods_share_a_label(make_app: MakeApp) -> None:
    """Unknown methods share one label."""
    app = make_app()
    before = dict(series())
    for method in ("BREW", "WHEN"):
        environ = app.RequestClass.blank("/statistics", method=method).environ
        list(app.app(environ, lambda *_: None))
    grown = {key[1] for key, value in series() if value != before.get(key)}
    assert {dict(labels)["http_method"] for labels in grown} == {"unknown"}
