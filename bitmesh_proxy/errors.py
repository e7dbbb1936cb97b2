"""The one tree of errors that callers can meet.

    GatewayError
    ├── InvalidRequest            400  malformed or invalid, names the field in ``param``
    │   ├── ValidationFailed      422  every failing field at once (the Bitmesh surface)
    │   ├── MissingParameter      400
    │   ├── BodyTimeout           408
    │   ├── ExpectationFailed     417
    │   ├── HeadTooLarge          431
    │   ├── VersionNotSupported   505  of HTTP
    │   ├── ContextLengthExceeded 400
    │   ├── UnsupportedParameter  400  no offer of the model takes the field
    │   ├── UnsupportedValue      400  none takes this value of it
    │   ├── PreviousResponseNotFound 400  it is unknown, another account's, or was not stored
    │   └── InvalidEncryptedContent  400  it was not sealed here, or not for this account
    ├── AuthenticationFailed      401
    ├── InsufficientBalance       402
    │   └── BudgetExceeded        402
    ├── PermissionDenied          403
    ├── NotFound                  404
    │   └── ModelNotFound         404
    ├── MethodNotAllowed          405
    ├── Conflict                  409
    │   └── StillRunning          409
    ├── BodyTooLarge              413
    ├── UnsupportedMediaType      415
    ├── RateLimited               429  knows when to come back
    │   └── TooManyConcurrent     429
    ├── InternalError             500
    ├── Unavailable               503  knows when to come back, unless waiting is of no use
    └── UpstreamError             502
        ├── ProviderRefused       the provider's own status and message
        ├── UpstreamUnreachable   502  nothing was sent, another offer may be tried
        ├── UpstreamBroken        502  the answer broke off, or was not what the protocol allows
        └── UpstreamTimeout       504

Callers match ``code``, which never changes; ``message`` may be improved at any time. How an error looks on
the wire is decided in ``web/error_formats.py`` alone. The cause of an error goes to the log, never to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final


class CallerLeft(Exception):
    """The caller hung up. Not an error: an outcome, recorded as 499; there is nobody to answer."""


def forget_way(error: BaseException) -> None:
    """Let go of the frames that an error, and what caused it, came through: to be called where it ends.

    They hold the bodies that were worked on, and often the error itself. Such a circle lives until the collector of
    garbage comes by, which is seldom: refusals then hold gigabytes.
    """
    met: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        each = errors.pop()
        if each is not None and id(each) not in met:
            met.add(id(each))
            each.__traceback__ = None
            errors += (each.__cause__, each.__context__)


class GatewayError(Exception):
    """Anything that ends a call with an error answer."""

    status: int = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: Mapping[str, str] = headers or {}


class InvalidRequest(GatewayError):
    """The request is malformed, or a field of it is."""

    status = 400
    code = "invalid_value"


class ValidationFailed(InvalidRequest):
    """One or more fields failed; ``fields`` maps each (``messages.0.role``) to its messages, in rule order."""

    status = 422
    code = "validation_failed"

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        super().__init__("Validation failed", param=next(iter(fields), None))
        self.fields = fields


class MissingParameter(InvalidRequest):
    """A field that is required is not there."""

    code = "missing_required_parameter"


class BodyTimeout(InvalidRequest):
    """The body did not arrive within the time that the setting allows."""

    status = 408
    code = "request_timeout"


class ExpectationFailed(InvalidRequest):
    """The ``Expect`` header wants something else than ``100-continue``."""

    status = 417
    code = "expectation_failed"


class HeadTooLarge(InvalidRequest):
    """The request's headers are larger, all together, than the setting allows."""

    status = 431
    code = "request_headers_too_large"


class VersionNotSupported(InvalidRequest):
    """The request's line names a version of HTTP that is not spoken here."""

    status = 505
    code = "http_version_not_supported"


class ContextLengthExceeded(InvalidRequest):
    """The conversation is longer than the model takes."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """The field is good, but no offer of this model can do anything with it (a mask, tools, an input picture)."""

    code = "unsupported_parameter"


class UnsupportedValue(InvalidRequest):
    """The field is one that the model takes, but not with this value (a size, a length, a count)."""

    code = "unsupported_value"


class PreviousResponseNotFound(InvalidRequest):
    """The response to go on from is unknown, another account's, or was not stored."""

    code = "previous_response_not_found"


class InvalidEncryptedContent(InvalidRequest):
    """Sealed content that was not sealed here, not for this account, or was changed since."""

    code = "invalid_encrypted_content"


class AuthenticationFailed(GatewayError):
    """No key, or one that is unknown, expired, switched off, or wrongly used."""

    status = 401
    code = "invalid_api_key"


class InsufficientBalance(GatewayError):
    """The account cannot pay the upper estimate of this call. No call was made."""

    status = 402
    code = "insufficient_balance"


class BudgetExceeded(InsufficientBalance):
    """The key has used up its budget of this day or month. No call was made."""

    code = "budget_exceeded"


class PermissionDenied(GatewayError):
    """The key is good but may not do this."""

    status = 403
    code = "permission_denied"


class NotFound(GatewayError):
    """No such route, job, response or file, or not this caller's."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The catalogue has no such model, or none that this key may use."""

    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The route exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class Conflict(GatewayError):
    """The same idempotency key was used for something else, or for a stream that cannot be replayed."""

    status = 409
    code = "idempotency_conflict"


class StillRunning(Conflict):
    """What is to be deleted is still being made."""

    code = "still_running"


class BodyTooLarge(GatewayError):
    """The body, or one part of it, is over its limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(GatewayError):
    """The content type is not one that this route reads."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(GatewayError):
    """A bucket is empty. ``retry_after_s`` says when one unit will be there again."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, headers=headers)
        self.retry_after_s = retry_after_s


class TooManyConcurrent(RateLimited):
    """The key has as many calls under way as it may have."""

    code = "concurrency_limit_exceeded"


class InternalError(GatewayError):
    """A fault of ours."""


#: See ``Unavailable``.
SOON_S: Final = 1.0
LATER_S: Final = 5.0
MUCH_LATER_S: Final = 30.0


class Unavailable(GatewayError):
    """The service cannot take this call now: draining, database not writable, no healthy offer.

    ``retry_after_s`` says when another try may do better. ``SOON_S``: something is full or waited for that moves on by
    itself, many times a second. ``LATER_S``, where nothing else is said: there is trouble, and this is how long we
    ourselves wait before we try again at most (settlements), and more than a restart takes. ``MUCH_LATER_S``: the disk
    is full, and somebody has to make room; more than a minute would be no use, as OpenAI's clients then go by their
    own pause of a second. None: to ask the same again is in vain, until the configuration is another, or would be
    charged again.
    """

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float | None = LATER_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamError(GatewayError):
    """The provider's side failed."""

    status = 502
    code = "upstream_error"


class ProviderRefused(UpstreamError):
    """The provider answered with an error status.

    ``status`` is what the caller gets: the provider's own, except that a 401, 402 or 403 about *our* credential is
    turned into 502 by the dialect. ``body`` is the provider's JSON if it sent any (``None`` for HTML and the like);
    ``retry_after_s`` is filled from whatever header or field the provider uses.
    """

    code = "provider_error"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: Mapping[str, object] | None = None,
        provider_status: int | None = None,
        provider_code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.body = body
        self.provider_status = provider_status if provider_status is not None else status
        self.provider_code = provider_code
        self.retry_after_s = retry_after_s

    @property
    def may_fail_over(self) -> bool:
        """Is this the offer's trouble (then the next offer may do better) and not the request's?"""
        return self.provider_status in (401, 402, 403, 404, 408, 429) or self.provider_status >= 500


class UpstreamUnreachable(UpstreamError):
    """No connection came about; nothing was sent."""

    code = "upstream_unreachable"


class UpstreamBroken(UpstreamError):
    """The provider broke off, or answered what its protocol does not allow (an HTML page, half a JSON).

    ``is_too_large``: it answered more than this service takes, and whoever asks again gets no less.
    """

    code = "upstream_broken"

    def __init__(self, message: str, *, param: str | None = None, is_too_large: bool = False) -> None:
        super().__init__(message, param=param)
        self.is_too_large = is_too_large


class UpstreamTimeout(UpstreamError):
    """The provider did not answer, or fell silent, for longer than the setting allows."""

    status = 504
    code = "upstream_timeout"
