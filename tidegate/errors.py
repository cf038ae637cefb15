"""Every error Tidegate raises on purpose, and the one function that renders it.

TidegateError
├── ClientError                 the caller can fix it
│   ├── InvalidRequest          400
│   ├── ContentFiltered         400, code content_filter
│   ├── Unauthenticated         401
│   ├── Forbidden               403
│   ├── NotFound                404
│   │   └── ModelNotFound       404, code model_not_found
│   ├── MethodNotAllowed        405
│   ├── BodyTimeout             408
│   │   └── HeadTimeout         408
│   ├── BodyTooLarge            413
│   ├── UnsupportedMediaType    415
│   ├── HeadTooLarge            431
│   └── RateLimited             429, with retry-after
├── UpstreamError               502, a model server failed us
│   ├── UpstreamUnavailable     503, nothing was generated
│   │   ├── UpstreamBusy        429, it has no room
│   │   └── ServiceUnavailable  503, another service of the platform
│   ├── UpstreamBroken          502, the answer cannot be used
│   │   └── AnswerTooLarge      502
│   ├── UpstreamTimeout         504
│   │   └── DeadlineExceeded    504, the caller's own limit
│   ├── UpstreamRejected        the status it gave: the caller's fault, in its words
│   └── UpstreamMisconfigured   502, it does not accept our credentials
├── Overloaded                  503, this process has no room
│   ├── JournalFull             503, it cannot write down what it would do
│   ├── LimitsAway              503, it cannot see what others allow
│   └── Stopping                503, it is about to end
├── ClientGone                  the caller hung up; nothing is sent
└── OperatorError               the platform team must act
    ├── ConfigError
    ├── UnknownPlugin
    └── StoreError
"""

import json
from enum import Enum
from typing import Any, ClassVar


class TidegateError(Exception):
    """Base of all our errors; class attributes decide how an error looks on the wire and in the log."""

    status: ClassVar[int] = 500
    """HTTP status code."""
    type: ClassVar[str] = "server_error"
    """OpenAI's `error.type`."""
    code: ClassVar[str | None] = "internal_error"
    """OpenAI's `error.code`."""
    retryable: ClassVar[bool] = False
    """Sent as `x-should-retry`, which OpenAI's clients obey."""
    log_level: ClassVar[str] = "error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.error_code = code or self.code

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Extra response headers; subclasses add theirs."""
        return [("x-should-retry", "true" if self.retryable else "false")]


class ClientError(TidegateError):
    """The caller can fix it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    log_level = "info"


class InvalidRequest(ClientError):
    """The request is malformed or asks for something that is not allowed."""


class ContentFiltered(ClientError):
    """A guardrail refused the request."""

    code = "content_filter"


class Unauthenticated(ClientError):
    """No key, or not a key of ours."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names the scheme, as RFC 9110 section 11.6.1 asks."""
        return [*super().headers, ("www-authenticate", "Bearer")]


class Forbidden(ClientError):
    """The key is good but may not do this."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ClientError):
    """No such thing, or not the caller's to see."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The model does not exist, or the key may not use it: the two look the same on purpose."""

    code = "model_not_found"


class MethodNotAllowed(ClientError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Adds `allow`."""
        return [*super().headers, ("allow", self.allow)]


class BodyTimeout(ClientError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class HeadTimeout(BodyTimeout):
    """The head did not arrive in time."""


class HeadTooLarge(ClientError):
    """The head of the request has too many fields or bytes."""

    status = 431
    code = "request_head_too_large"


class BodyTooLarge(ClientError):
    """The body exceeds the caller's limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaType(ClientError):
    """Only JSON is accepted here."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(ClientError):
    """A limit of the project is used up for now."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Adds `retry-after`."""
        return [*super().headers, *_retry_after(self.retry_after_s)]


class Again(Enum):
    """Whether a request may be tried once more, as long as no event of its answer has reached the caller."""

    NEVER = 0
    """It would end the same way."""
    ONCE = 1
    """The request itself may be what brings model servers down, so it meets one other at most."""
    FREELY = 2
    """The model server has not begun to work on it."""


class UpstreamError(TidegateError):
    """A model server failed us."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    retryable = True
    log_level = "warning"
    again: ClassVar[Again] = Again.ONCE
    blames_replica: ClassVar[bool] = True
    """Whether it counts against the replica's health."""
    pause_s: ClassVar[float | None] = None
    """The caller's wait before another try, where it is worth one and the model server has not said."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s
        """What the model server asked for."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Adds `retry-after`: what the model server asked for, else what this kind of error is worth."""
        return [*super().headers, *_retry_after(self.retry_after_s or self.pause_s)]


class UpstreamUnavailable(UpstreamError):
    """No replica could take the request; nothing was generated."""

    status = 503
    code = "upstream_unavailable"
    again = Again.FREELY
    pause_s = 1.0


class UpstreamBusy(UpstreamUnavailable):
    """The model servers have no room for this request now."""

    status = 429
    type = "rate_limit_error"
    code = "upstream_busy"
    blames_replica = False


class ServiceUnavailable(UpstreamUnavailable):
    """Another service of the platform (documents, agents) does not answer."""

    code = "service_unavailable"


class UpstreamBroken(UpstreamError):
    """A replica's answer was cut or malformed."""

    code = "upstream_broken"


class AnswerTooLarge(UpstreamBroken):
    """A replica's or a service's answer is larger than what is passed on."""

    code = "answer_too_large"
    again = Again.NEVER
    blames_replica = False


class UpstreamTimeout(UpstreamError):
    """A replica was silent for too long."""

    status = 504
    code = "upstream_timeout"


class DeadlineExceeded(UpstreamTimeout):
    """The time that the caller gave is over."""

    code = "deadline_exceeded"
    retryable = False
    log_level = "info"
    again = Again.NEVER
    blames_replica = False


class UpstreamRejected(UpstreamError):
    """The model server refused what the caller sent, and says why."""

    code = "upstream_rejected"
    retryable = False
    log_level = "info"
    again = Again.NEVER
    blames_replica = False

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message")))
        self.status = status  # type: ignore[misc]
        self.error = error
        """OpenAI's error object as the model server wrote it."""


class UpstreamMisconfigured(UpstreamError):
    """The model server does not accept the gateway's credentials, which is nothing that a caller can mend."""

    code = "upstream_misconfigured"
    retryable = False
    log_level = "error"
    again = Again.NEVER


class Overloaded(TidegateError):
    """This gateway process has no room; another, or a second later, may."""

    status = 503
    code = "overloaded"
    retryable = True
    log_level = "warning"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Adds `retry-after`."""
        return [*super().headers, ("retry-after", "1")]


class JournalFull(Overloaded):
    """What is done could not be metered, so it is not done; another gateway's disk may have room."""

    code = "journal_full"
    log_level = "critical"


class LimitsAway(Overloaded):
    """Limits cannot be counted at the moment, and the operator wants nothing to pass uncounted."""

    code = "limits_unavailable"


class Stopping(Overloaded):
    """This process is being stopped or replaced; another serves the request, or the next process does."""

    code = "stopping"
    log_level = "info"


class ClientGone(TidegateError):
    """The caller hung up. Never rendered: nobody is there to read it."""

    status = 499
    code = "client_gone"
    log_level = "info"


class OperatorError(TidegateError):
    """The platform team must act; the message says how."""

    log_level = "critical"


class ConfigError(OperatorError):
    """The configuration is wrong; the message names file, line and the nearest valid name."""


class UnknownPlugin(OperatorError):
    """A configured plugin does not exist or does not load."""


class StoreError(OperatorError):
    """The database is missing, unreachable or at the wrong revision."""


def _retry_after(seconds: float | None) -> list[tuple[str, str]]:
    """The header, in whole seconds, rounded up."""
    return [] if seconds is None else [("retry-after", str(max(1, int(seconds + 0.999))))]


def error_object(error: TidegateError) -> dict[str, dict[str, Any]]:
    """The OpenAI error object of `error`."""
    if isinstance(error, UpstreamRejected):
        return {"error": error.error}
    return {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.error_code},
    }


def render(error: TidegateError) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers but for the length, and JSON body of `error`; the only place an error becomes an answer."""
    body = json.dumps(error_object(error)).encode()
    return error.status, [("content-type", "application/json"), *error.headers], body


def render_event(error: TidegateError) -> bytes:
    """`error` as an SSE event, for streams whose 200 has already been sent."""
    return b"data: " + json.dumps(error_object(error)).encode() + b"\n\n"
