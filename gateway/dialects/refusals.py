"""What a model server says when it refuses, whatever form it says it in."""

from http import HTTPStatus
from typing import Any

from gateway.exchange import Exchange
from guardrails.engine.answers import screen_error
from tidegate.wire.openai import UNREADABLE, decode_any, encode

_MAX_TOLD = 1000
_MAX_BODY_BYTES = 16_384
_WITHHELD = {
    "message": "The model server refused the request. Its message holds what the policy of this project does not let pass.",
    "type": "invalid_request_error",
    "param": None,
    "code": "upstream_rejected",
}
_DEFINED = frozenset(status.value for status in HTTPStatus)


def client_status(status: int) -> int:
    """The status of a refusal as clients know it: one that HTTP does not define is read as 400 (RFC 9110 section 15)."""
    return status if status in _DEFINED else 400


def error_in(body: bytes, status: int) -> dict[str, Any]:
    """What a refusal says, as OpenAI's error object. Servers write `{"error": {…}}`, `{"error": "…"}` or `{"detail": …}`.

    Only plain members are taken over; `message` and `type` are always strings.
    """
    answer = _decoded(body)
    found = answer.get("error", answer.get("detail")) if isinstance(answer, dict) else None
    plain = {"message": f"The model server answered {status}.", "type": "invalid_request_error", "param": None}
    if isinstance(found, dict):
        return plain | {"code": None} | plain_members(found)
    return plain | {"code": "upstream_rejected"} | ({"message": _text_of(found)[:_MAX_TOLD]} if found else {})


def plain_members(error: dict[str, Any]) -> dict[str, Any]:
    """The members of an error object that are no containers; `message` and `type` only where they are strings."""
    return {
        name: value
        for name, value in error.items()
        if isinstance(value, str) or (name not in ("message", "type") and not isinstance(value, dict | list))
    }


def shown_error(exchange: Exchange, error: dict[str, Any]) -> dict[str, Any]:
    """`error` as the client may read it: without its words where a guardrail finds something in them."""
    return _WITHHELD if _has_finding(exchange, error) else error


def read_refusal(exchange: Exchange, body: bytes, status: int) -> tuple[dict[str, Any], bool]:
    """What the body of a refusal says, as OpenAI's error object; and whether the client may read the body as it is."""
    if len(body) > _MAX_BODY_BYTES:
        return error_in(b"", status), False
    error = error_in(body, status)
    if _has_finding(exchange, [_decoded(body), error]):
        return _WITHHELD, False
    return error, is_error_object(body)


def _has_finding(exchange: Exchange, said: Any) -> bool:
    policy = exchange.policy
    if policy is None or not policy.outputs:
        return False
    try:
        verdicts = screen_error(policy, said)
    except RecursionError:
        return True
    exchange.verdicts = [*exchange.verdicts, *verdicts]
    return bool(verdicts)


def is_error_object(body: bytes) -> bool:
    """Whether `body` has the form in which callers expect an error, and may be passed on as it is."""
    answer = _decoded(body)
    error = answer.get("error") if isinstance(answer, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str) and isinstance(error.get("type"), str)


def _decoded(body: bytes) -> Any:
    try:
        return decode_any(body)
    except UNREADABLE:
        return None


def _text_of(found: Any) -> str:
    if isinstance(found, str):
        return found
    try:
        return encode(found).decode()
    except UNREADABLE:
        return "The model server's error cannot be read."
