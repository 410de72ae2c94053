"""Strict JSON: UTF-8, no duplicate keys, no NaN."""

import codecs
import json

from galaxy_express.web.rejections import MalformedBody

_UTF16_AND_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def parse_json(body: bytes) -> object:
    """Parse a body.

    :raises MalformedBody: if it isn't valid JSON.
    """
    if not body:
        raise MalformedBody("the body is empty")
    if body.startswith(codecs.BOM_UTF8):
        raise MalformedBody("the body begins with a byte order mark, which JSON must not have")
    if body.startswith(_UTF16_AND_32):
        raise MalformedBody("the body is not UTF-8: it begins with a byte order mark of UTF-16/32")
    try:
        return _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise MalformedBody(f"the body is not JSON: {error.msg} ({position})") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except ValueError:  # from int()
        raise MalformedBody("the body has a number with too many digits") from None


def _reject_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise MalformedBody("the body has an object with a duplicate key")
    return members


def _reject_constant(name: str) -> object:
    raise MalformedBody(f"the body has {name}, which is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_reject_duplicates, parse_constant=_reject_constant)
