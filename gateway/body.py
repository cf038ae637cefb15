"""A request's body: received within bounds, checked without being decoded, sent on with as few changes as possible."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from gateway.backends.connection import Buffer
from gateway.backends.vllm import Outgoing
from gateway.exchange import Exchange
from gateway.limits.room import UNCOUNTED_BYTES, Room
from tidegate.errors import BodyTooLarge, ClientGone, UnsupportedMediaType
from tidegate.wire.openai import decode_fields, encode

_USAGE = msgspec.Raw(b'{"include_usage":true}')


def check_content_type(headers: Mapping[bytes, bytes]) -> None:
    """The body must say that it is JSON, and not be compressed.

    Raises:
        UnsupportedMediaType: it does not.
    """
    content_type = headers.get(b"content-type", b"")
    if content_type != b"application/json":
        content_type = content_type.partition(b";")[0].strip().lower()
    if content_type != b"application/json" or b"content-encoding" in headers:
        raise UnsupportedMediaType("The body must be JSON: send `content-type: application/json`, uncompressed.")


async def receive_body(exchange: Exchange, most: int, room: Room) -> bytes:
    """The whole body; `exchange.held_bytes` is its part of the `room`.

    Raises:
        BodyTooLarge: longer than `most` bytes.
        Overloaded, RateLimited: there is no room for it.
        ClientGone: it will not come.
    """
    call, parts, size = exchange.call, [], 0
    if (body := call.whole_body()) is not None:  # nearly always it has come with its head
        if len(body) > most:
            raise BodyTooLarge(f"The body is larger than the {most} bytes allowed.")
        if len(body) > UNCOUNTED_BYTES:
            exchange.held_bytes += room.hold(exchange.known_principal(), len(body))
        return body
    while (message := await call.receive())["type"] == "http.request":
        part: bytes = message["body"]
        exchange.held_bytes += room.hold(exchange.known_principal(), len(part))
        parts.append(part)
        size += len(part)
        if size > most:
            raise BodyTooLarge(f"The body is larger than the {most} bytes allowed.")
        if not message["more_body"]:
            return part if len(parts) == 1 else b"".join(parts)
    raise ClientGone("the caller hung up before the body was complete")


def prepare(exchange: Exchange, upstream_model: str) -> None:
    """Sets `exchange.parts`: usage is asked for, and the model's name may differ behind the door; all else stays."""
    if exchange.upload is not None:
        if exchange.request is not None and upstream_model != exchange.request.model:
            exchange.upload.rename(upstream_model)
        return
    request, body = exchange.request, exchange.body
    assert request is not None  # noqa: S101
    options = request.stream_options
    exchange.asked_for_usage = bool(options and options.include_usage)
    ask = exchange.stream and exchange.operation.dialect.counts_on_request and not exchange.asked_for_usage
    rename = upstream_model != request.model
    found = exchange.inspection
    if not ask and not rename:
        exchange.parts = (body,)
    elif found is not None and found.spans is not None and body is found.body:
        exchange.parts = _spliced(body, found.spans, encode(upstream_model) if rename else None, ask=ask)
    elif not rename and options is UNSET:
        exchange.parts = (b'{"stream_options":{"include_usage":true},', _after_brace(body))
    else:
        fields = decode_fields(body)
        if rename:
            fields["model"] = msgspec.Raw(encode(upstream_model))
        if ask:
            fields["stream_options"] = _USAGE
        exchange.parts = (encode(fields),)


def outgoing(exchange: Exchange) -> Outgoing:
    """What is sent to a model server now; a form can be sent once, unless all of it is here."""
    upload = exchange.upload
    if upload is None:
        length = sum(map(len, exchange.parts))
        return Outgoing(exchange.path, exchange.parts, exchange.request_id, stream=exchange.stream, length=length)
    return Outgoing(
        exchange.path,
        (upload.head,),
        exchange.request_id,
        stream=exchange.stream,
        content_type=upload.content_type,
        length=upload.length if upload.more else len(upload.head),
        more=upload.pieces() if upload.more else None,
    )


def _spliced(
    body: bytes, spans: Mapping[str, tuple[int, int]], model: bytes | None, *, ask: bool
) -> tuple[Buffer, ...]:
    """A large body in pieces, with new values in place; nothing of it is decoded or copied."""
    changes = [] if model is None else [(*spans["model"], model)]
    parts: list[Buffer] = []
    view, at = memoryview(body), 0
    if ask and "stream_options" in spans:
        changes.append((*spans["stream_options"], bytes(_USAGE)))
    elif ask:
        parts, at = [b'{"stream_options":%s,' % bytes(_USAGE)], body.index(b"{") + 1
    for start, end, value in sorted(changes):
        parts += [view[at:start], value]
        at = end
    return (*parts, view[at:])


def _after_brace(body: bytes) -> Buffer:
    return memoryview(body)[body.index(b"{") + 1 :]
