"""What a chunk of a stream says, and chunks that say less, or only that a choice has ended."""

from collections.abc import Iterator
from typing import Any

from guardrails.engine.logprobs import tokens_of
from guardrails.engine.policy import KEY, strings
from tidegate.wire.openai import ChunkChoice, decode_any, encode
from tidegate.wire.sse import data_of, encode_event

Path = tuple[str | int, ...]
"""Where a text stands inside a choice."""
LOGPROBS: Path = ("logprobs",)
MEETING_CHARS = 640
"""How far the place where two texts meet can matter: more than the digits of one number may take."""


def pieces_of(choice: ChunkChoice) -> Iterator[tuple[Path, str]]:
    """The texts that a chunk adds to a choice."""
    delta = choice.delta
    if choice.text is not None:
        yield (), choice.text
    if delta is not None and len(delta) == 1 and isinstance(content := delta.get("content"), str):
        yield ("content",), content  # nearly every chunk; the walk costs three times as much
    elif delta is not None:
        for path, text in strings(delta):
            if path[-1:] != (KEY,) or not text.replace("_", "").isalpha():
                yield _channel_path(path, delta), text
    if choice.logprobs:
        yield LOGPROBS, tokens_of(choice.logprobs)


def _channel_path(path: Path, said: Any) -> Path:
    """The path, with a tool call's place in the list replaced by the index it says it has."""
    if len(path) > 1 and path[0] == "tool_calls" and isinstance(path[1], int):
        call = said["tool_calls"][path[1]]
        index = call.get("index") if isinstance(call, dict) else None
        return ("tool_calls", index if isinstance(index, int) else path[1], *path[2:])
    return path


def without_choices(event: bytes, blocked: set[int]) -> bytes:
    """A chunk without the blocked choices; empty if nothing of it is left."""
    data = data_of(event)
    if not data:
        return event
    chunk = decode_any(data)
    choices = chunk.get("choices") or []
    kept = [choice for choice in choices if choice.get("index", 0) not in blocked]
    if len(kept) == len(choices):
        return event
    if not kept:
        return b""
    chunk["choices"] = kept
    return encode_event(encode(chunk))


def last_chunk(template: bytes, index: int) -> bytes:
    """The chunk that ends a choice by `content_filter`, like `template` in all else."""
    data = data_of(template)
    chunk = decode_any(data) if data else {}
    over: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": "content_filter"}
    if chunk.get("object") == "text_completion":
        over["text"] = ""
    else:
        over["delta"] = {}
    kept = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
    return encode_event(encode({**kept, "choices": [over]}))
