"""The few structs of Anthropic's Messages API that the gateway acts on; every other field travels as the bytes it came in.

Source: https://docs.anthropic.com/en/api/messages and its page on streaming.
"""

from typing import Any

import msgspec
from msgspec import Struct


class MessageUsage(Struct):
    """`usage` of a message. What was read from the cache, or written to it, is not part of `input_tokens`."""

    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0


class Message(Struct):
    """What we read of a whole message."""

    type: str = ""
    stop_reason: str | None = None
    usage: MessageUsage | None = None
    input_tokens: int | None = None
    """In an answer of `count_tokens`."""


class MessageStart(Message):
    """What we read of the message in `message_start`."""

    content: list[Any] | None = None


class MessageEvent(Struct):
    """What we read of a stream's event."""

    type: str
    index: int = 0
    message: MessageStart | None = None
    content_block: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    usage: MessageUsage | None = None
    error: dict[str, Any] | None = None


decode_message = msgspec.json.Decoder(Message).decode
decode_event = msgspec.json.Decoder(MessageEvent).decode


def encode_named_event(name: str, data: dict[str, Any]) -> bytes:
    """An event with its name, as this API sends them."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode({"type": name, **data}))
