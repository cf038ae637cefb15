"""What a model server says when it refuses, whatever form it says it in."""

from typing import Any

from msgspec import DecodeError

from tidegate.wire.openai import decode_any, encode

_MAX_TOLD = 1000


def error_in(body: bytes, status: int) -> dict[str, Any]:
    """What a refusal says, as OpenAI's error object. Servers write `{"error": {…}}`, `{"error": "…"}` or `{"detail": …}`."""
    try:
        answer = decode_any(body)
    except (DecodeError, RecursionError):
        answer = None
    found = answer.get("error", answer.get("detail")) if isinstance(answer, dict) else None
    if isinstance(found, dict):
        return found
    said = (
        found if isinstance(found, str) else encode(found).decode() if found else f"The model server answered {status}."
    )
    return {"message": said[:_MAX_TOLD], "type": "invalid_request_error", "param": None, "code": "upstream_rejected"}


def is_error_object(body: bytes) -> bool:
    """Whether `body` has the form in which callers expect an error, and may be passed on as it is."""
    try:
        answer = decode_any(body)
    except (DecodeError, RecursionError):
        return False
    return isinstance(answer, dict) and isinstance(answer.get("error"), dict)
