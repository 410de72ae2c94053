"""Child spans: made only if an observer sees them."""

from baseplate import Baseplate, ServerSpan, Span, SpanObserver

from galaxy_express.tracing import child_span


class ChildRecorder(SpanObserver):
    """Records the names of child spans."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_child_span_created(self, span: Span) -> None:
        """Record a child span."""
        self.names.append(span.name)


def server_span() -> ServerSpan:
    """The span of a request."""
    baseplate = Baseplate()
    span = baseplate.make_server_span(baseplate.make_context_object(), "read")
    assert isinstance(span, ServerSpan)
    return span


def test_observed_child_span() -> None:
    """An observer of child spans gets one."""
    parent, recorder = server_span(), ChildRecorder()
    parent.register(SpanObserver())
    parent.register(recorder)
    child = child_span(parent, "database.read")
    assert child is not None
    assert recorder.names == ["database.read"]


def test_unobserved_child_span() -> None:
    """If no observer would see a child span, none is made."""
    parent = server_span()
    parent.register(SpanObserver())
    assert child_span(parent, "database.read") is None
