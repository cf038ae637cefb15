"""What a model server says when it refuses, whatever form it says it in."""

from http import HTTPStatus
from typing import Any

from tidegate.wire.openai import UNREADABLE, decode_any, encode

_MAX_TOLD = 1000
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
