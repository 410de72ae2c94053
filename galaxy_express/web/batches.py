"""The answer to a batch, and the bound on its size."""

from collections.abc import Iterator, Sequence

from pydantic_core import to_json

from galaxy_express.delivery import Conflict, Package, SendOutcome, SendResult
from galaxy_express.web.problems import rejection_problem
from galaxy_express.web.rejections import PackageConflict, RejectedRequest, ValidationFailed
from galaxy_express.web.schemas import send_result_body

#: An answer may have this many bytes, or twice as many as the body if that is more.
MAX_ANSWER = 1024 * 1024

Result = SendResult | RejectedRequest


def merge_results(
    items: Sequence[Package | RejectedRequest], outcomes: Sequence[SendOutcome]
) -> Iterator[Result]:
    """Put the outcomes of the packages of a batch between its rejected items."""
    remaining = iter(outcomes)
    for item in items:
        outcome = item if isinstance(item, RejectedRequest) else next(remaining)
        yield PackageConflict() if isinstance(outcome, Conflict) else outcome


def render_results(results: Sequence[Result], body_size: int) -> bytes:
    """Render the answer to a batch as JSON.

    Where it would be too large, rejected items have no ``errors``, from the last item on.

    :param body_size: how many bytes the body of the request has.
    """
    bodies = [_result_body(result) for result in results]
    content = to_json(bodies)
    excess = len(content) - max(MAX_ANSWER, 2 * body_size)
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
