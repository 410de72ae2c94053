"""Reads the body of a request, and checks its encoding, size and completeness."""

from baseplate.observers.timeout import ServerTimeout
from pyramid.request import Request

from galaxy_express.web.rejections import (
    BodyTooLarge,
    BodyTooSlow,
    MalformedBody,
    UnsupportedEncoding,
)

MAX_BODY = 64 * 1024
MAX_BATCH_BODY = 1024 * 1024

_IDENTITY = {"", "identity"}  # the encodings that change nothing


def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request.

    :param limit: its maximum size in bytes.
    :raises RejectedRequest: if it is compressed, over the limit, or incomplete.
    :raises BodyTooSlow: if it doesn't arrive before the timeout of the request.
    """
    encodings = request.environ.get("HTTP_CONTENT_ENCODING")
    if encodings and not _IDENTITY.issuperset(map(str.strip, encodings.lower().split(","))):
        raise UnsupportedEncoding("the body must not be compressed or otherwise encoded")
    length = request.content_length
    if length is None or length <= limit:
        try:
            body: bytes = request.environ["wsgi.input"].read(limit + 1)
        except (TimeoutError, ServerTimeout) as error:
            raise BodyTooSlow("the body did not arrive in time") from error
        except OSError as error:
            raise MalformedBody("the connection was lost before the body ended") from error
        except ValueError as error:
            raise MalformedBody(f"the chunks of the body can't be read: {error}") from error
        if length is not None and len(body) < length:
            raise MalformedBody("the body ended early")
        if len(body) <= limit:
            return body
    raise BodyTooLarge(f"the body is larger than {limit:,} bytes")
