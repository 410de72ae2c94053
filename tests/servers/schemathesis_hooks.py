"""What JSON Schema can't say of requests, for the command ``schemathesis``."""

from typing import Any

import schemathesis

_UPDATES = {f"{method} /recipients/{{recipient_id}}/preferences" for method in ("PUT", "PATCH")}


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: Any) -> Any:
    """Make a request valid that is meant to be: the recipient_id of a body would have to be that
    of the path, and only the service makes cursors."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    if case.operation.label in _UPDATES and isinstance(case.body, dict):
        case.body.pop("recipient_id", None)
    if case.query:
        case.query.pop("after", None)
    return case
