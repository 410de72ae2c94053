"""What JSON Schema can't say of requests, for the command ``schemathesis``."""

from typing import Any
from urllib.parse import unquote

import schemathesis


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: Any) -> Any:
    """A body that is meant to be valid has no other recipient_id than that of the path."""
    if (
        case.operation.label == "PUT /recipients/{recipient_id}/preferences"
        and case.meta is not None
        and case.meta.generation.mode.is_positive
        and isinstance(case.body, dict)
        and "recipient_id" in case.body
    ):
        case.body["recipient_id"] = unquote(case.path_parameters["recipient_id"])
    return case
