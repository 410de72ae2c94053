"""The exceptions for invalid requests.

::

    ClientError
     ├─ CrossSiteRequest          a browser sent it for another site
     ├─ BodyTooSlow               the body didn't arrive in time
     └─ RejectedRequest           counted as rejected, if it is a send
         ├─ UnsupportedEncoding   the body is compressed
         ├─ BodyTooLarge          the body is over its limit
         ├─ MalformedBody         the body can't be parsed
         ├─ ValidationFailed      the request is well-formed, but invalid
         └─ PackageConflict       the package_id belongs to another package
"""

from collections.abc import Sequence

from typing_extensions import TypedDict


class ClientError(Exception):
    """A request that fails because of the client. The message says why."""


class CrossSiteRequest(ClientError):
    """A browser sent the request on behalf of another site's page."""


class BodyTooSlow(ClientError):
    """The body didn't arrive in time."""


class RejectedRequest(ClientError):
    """A request, or an item of a batch, that is rejected because of its content."""


class UnsupportedEncoding(RejectedRequest):
    """The body has a ``Content-Encoding``."""


class BodyTooLarge(RejectedRequest):
    """The body is over the limit of its endpoint."""


class MalformedBody(RejectedRequest):
    """The body isn't unambiguous JSON, or not of the expected top-level type."""


class PackageConflict(RejectedRequest):
    """The ``package_id`` was used before, for a different package."""

    def __init__(self) -> None:
        super().__init__(
            "this package_id was used before, for another sender, recipient or package type"
        )


class FieldError(TypedDict):
    """An invalid field: a JSON pointer as a URI fragment (RFC 6901), and what is wrong."""

    pointer: str
    detail: str


class ParameterError(TypedDict):
    """An invalid query parameter, and what is wrong."""

    parameter: str
    detail: str


class ValidationFailed(RejectedRequest):
    """The request is well-formed, but invalid.

    :param errors: the invalid fields or parameters, or the first ones.
    :param omitted: the number of further errors.
    """

    def __init__(
        self, detail: str, errors: Sequence[FieldError | ParameterError] = (), omitted: int = 0
    ) -> None:
        super().__init__(detail)
        self.errors = list(errors)
        self.omitted = omitted
