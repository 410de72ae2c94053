"""Child spans of requests, made only if an observer sees them."""

from baseplate import Span, SpanObserver


def child_span(parent: Span, name: str) -> Span | None:
    """Return a new child of a span; ``None`` if none of the span's observers would see it.

    Baseplate copies the context of the request for each child span, which costs more than some
    of the operations that have one.
    """
    for observer in parent.observers:
        if type(observer).on_child_span_created is not SpanObserver.on_child_span_created:
            return parent.make_child(name)
    return None
