"""Why bytes could not be fetched from outside, as one small tree.

    FetchError
    ├── FetchRefused      the link may not be followed: scheme, port, address, redirect
    ├── FetchUnreachable  no connection came about
    ├── FetchTimedOut     no answer, silence, or too slow altogether
    ├── FetchTooLarge     declared or counted over the limit
    ├── FetchBroken       the answer broke off, or is no proper HTTP
    ├── FetchNotMedia     an answer, but not of a kind that was asked for (an HTML page)
    └── FetchGone         the other side says that there is nothing (any more)

The link itself never stands in a message: it may carry a signature, and messages reach logs and (as the end of a
sentence) callers. ``as_gateway_error`` says what a caller gets when a fetch is part of an API call; ``/imgrslt`` has
its own two texts.
"""

from __future__ import annotations

from bitmesh_proxy.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamTimeout,
)


class FetchError(Exception):
    """A fetch from outside did not give what was asked for."""


class FetchRefused(FetchError):
    """The link, or a redirect of it, leads to where we do not go. Nothing was sent there."""


class FetchUnreachable(FetchError):
    """The name does not resolve, or nothing listens, or TLS failed."""


class FetchTimedOut(FetchError):
    """The connection, the head or the next bytes did not come in time, or the whole took too long."""


class FetchTooLarge(FetchError):
    """The answer is, or says that it is, larger than it may be."""


class FetchBroken(FetchError):
    """The answer ended before its end, or is not what HTTP allows."""


class FetchNotMedia(FetchError):
    """The answer is not a picture, film or sound."""


class FetchGone(FetchError):
    """The other side answered that there is no such thing, or that the link has expired."""


def as_gateway_error(error: FetchError, *, param: str | None = None) -> GatewayError:
    """The error that a caller of the API gets.

    ``param`` names the caller's field when the link came from the caller: then what is wrong with it is the caller's to
    mend (400, 413). Without it the link came from a provider, and it is the provider's side that failed (502, 504), in
    no way that lets another provider be tried: what the link leads to has been made, and is paid already.
    """
    what = "The provider's result" if param is None else f"The link in '{param}'"
    message = f"{what} cannot be fetched: {error}."
    if isinstance(error, FetchTimedOut):
        return UpstreamTimeout(message, param=param)
    if param is not None:
        kind = BodyTooLarge if isinstance(error, FetchTooLarge) else InvalidRequest
        return kind(message, param=param)
    return UpstreamBroken(message)
