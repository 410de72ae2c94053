"""The response to a batch, and the limit of its size."""

from collections.abc import Iterator, Sequence

from pydantic_core import to_json

from galaxy_express.delivery import Conflict, Package, SendOutcome, SendResult
from galaxy_express.web.problems import rejection_problem
from galaxy_express.web.rejections import PackageConflict, RejectedRequest, ValidationFailed
from galaxy_express.web.rendering import send_result_body

#: The limit of a response in bytes, unless twice the size of the request body is more.
MAX_RESPONSE = 1024 * 1024

Result = SendResult | RejectedRequest


def merge_results(
    items: Sequence[Package | RejectedRequest], outcomes: Sequence[SendOutcome]
) -> Iterator[Result]:
    """Merge the outcomes of a batch's packages with its rejected items."""
    remaining = iter(outcomes)
    for item in items:
        outcome = item if isinstance(item, RejectedRequest) else next(remaining)
        yield PackageConflict() if isinstance(outcome, Conflict) else outcome


def render_results(results: Sequence[Result], body_size: int) -> bytes:
    """Render the response to a batch as JSON.

    If it would be too large, rejected items lose their ``errors``, starting with the last item.

    :param body_size: the size of the request body in bytes.
    """
    bodies = [_result_body(result) for result in results]
    content = to_json(bodies)
    excess = len(content) - max(MAX_RESPONSE, 2 * body_size)
    if excess <= 0:
        return content
    for index, result in reversed(list(enumerate(results))):
        if excess > 0 and isinstance(result, ValidationFailed):
            shorter = _result_body(result, with_errors=False)
            excess -= len(to_json(bodies[index])) - len(to_json(shorter))
            bodies[index] = shorter
    return to_json(bodies)


def _result_body(result: Result, with_errors: bool = True) -> object:
    if isinstance(result, RejectedRequest):
        return {"status": "rejected", "problem": rejection_problem(result, with_errors)}
    return send_result_body(result)
