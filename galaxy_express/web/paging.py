"""Pages of a list: their query parameters and cursors."""

import base64
import binascii
import hashlib
import re
from collections import Counter
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from galaxy_express.storage.database import LAST_SEQUENCE
from galaxy_express.storage.queries import Page, PageRequest
from galaxy_express.web.fields import is_identifier
from galaxy_express.web.rejections import ParameterError, ValidationFailed

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
ORDERS = ("desc", "asc")

# How many invalid parameters a response lists, and how many characters of a name it shows.
_MAX_ERRORS = 100
_MAX_NAME = 255

_LIMIT = re.compile(r"[1-9][0-9]{0,2}|1000")
_SEQUENCE_BYTES = 8
_DIGEST_BYTES = 8


class PageQuery(NamedTuple):
    """A request for a page of a list.

    :param list_name: the name of the list.
    :param recipient_id: the recipient whose rows are requested; ``None`` for all.
    """

    list_name: str
    recipient_id: str | None
    page: PageRequest


def parse_page_query(
    query_string: str, list_name: str, recipient_id: str | None = None
) -> PageQuery:
    """Parse the query of a list.

    :param recipient_id: the one in the path. If there is none, a parameter may name it.
    :raises ValidationFailed: listing the parameters that are unknown, repeated, empty or invalid.
    """
    parameters = parse_qsl(query_string, keep_blank_values=True, errors="surrogateescape")
    names = ["order", "limit", "after"]
    if recipient_id is None:
        names.append("recipient_id")
    values = {name: value for name, value in parameters if name in names}
    problems = {
        name: problem
        for name, times in Counter(name for name, _ in parameters).items()
        if (problem := _find_problem(name, times, values))
    }

    order = values.get("order", "desc")
    recipient_id = values.get("recipient_id", recipient_id)
    after = None
    if "after" in values.keys() - problems.keys():
        cursor = _decode(values["after"])
        is_comparable = not problems.keys() & {"order", "recipient_id"}
        if cursor is None or (
            is_comparable
            and cursor.digest != _digest(cursor.sequence, list_name, order, recipient_id)
        ):
            problems["after"] = "is not a valid cursor for this list, order and recipient"
        else:
            after = cursor.sequence
    if problems:
        raise _validation_failed(problems)
    limit = int(values.get("limit", DEFAULT_LIMIT))
    return PageQuery(list_name, recipient_id, PageRequest(order == "asc", after, limit))


def _find_problem(name: str, times: int, values: dict[str, str]) -> str | None:
    if name not in values:
        return "is not a known parameter"
    if times > 1:
        return "is given more than once"
    value = values[name]
    if not value:
        return "is empty"
    if name == "order" and value not in ORDERS:
        return f"must be {' or '.join(ORDERS)}"
    if name == "limit" and not _LIMIT.fullmatch(value):
        return f"must be a whole number from 1 to {MAX_LIMIT:,}"
    if name == "recipient_id" and not is_identifier(value):
        return "is not a valid id"
    return None


def _validation_failed(problems: dict[str, str]) -> ValidationFailed:
    errors = [
        ParameterError(parameter=name[:_MAX_NAME].encode(errors="replace").decode(), detail=problem)
        for name, problem in problems.items()
    ]
    return ValidationFailed(
        "a parameter is invalid" if len(errors) == 1 else "some parameters are invalid",
        errors[:_MAX_ERRORS],
        omitted=max(0, len(errors) - _MAX_ERRORS),
    )


def next_cursor(query: PageQuery, page: Page[Any]) -> str | None:
    """Return the cursor of the next page.

    In ascending order there is always one, since more can be committed at any time.
    """
    if not (query.page.ascending or page.more):
        return None
    last = query.page.after or 0 if page.last is None else page.last
    order = "asc" if query.page.ascending else "desc"
    return _cursor(last, query.list_name, order, query.recipient_id)


def feed_cursor(position: int) -> str:
    """Return the cursor of all decisions in ascending order, from a position on.

    :param position: a sequence number; the first decision is the one after it.
    """
    return _cursor(position, "packages", "asc", None)


def _cursor(sequence: int, list_name: str, order: str, recipient_id: str | None) -> str:
    digest = _digest(sequence, list_name, order, recipient_id)
    return _encode(sequence.to_bytes(_SEQUENCE_BYTES, "big") + digest)


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class _Cursor(NamedTuple):
    sequence: int
    digest: bytes


def _decode(text: str) -> _Cursor | None:
    try:
        content = base64.b64decode(text + "==", b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # Several texts have the same content; only one of them is a cursor.
    if len(content) != _SEQUENCE_BYTES + _DIGEST_BYTES or _encode(content) != text:
        return None
    sequence = int.from_bytes(content[:_SEQUENCE_BYTES], "big")
    return _Cursor(sequence, content[_SEQUENCE_BYTES:]) if sequence <= LAST_SEQUENCE else None


def _digest(sequence: int, list_name: str, order: str, recipient_id: str | None) -> bytes:
    # Detects cursors of another list, order or recipient. It doesn't protect a secret.
    # ascii(), since repr() escapes characters that are unknown to this version of Python.
    content = ascii((sequence, list_name, order, recipient_id)).encode()
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
