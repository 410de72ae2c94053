"""Schemathesis hooks for constraints that JSON Schema can't express."""

from typing import Any

import schemathesis

_UPDATES = {f"{method} /recipients/{{recipient_id}}/preferences" for method in ("PUT", "PATCH")}


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: Any) -> Any:
    """Make positive cases valid: drop a recipient_id from the body, which would have to match the
    path, and cursors, which only the service can create."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    if case.operation.label in _UPDATES and isinstance(case.body, dict):
        case.body.pop("recipient_id", None)
    if case.query:
        case.query.pop("after", None)
    return case
