"""A request's body: received within bounds, checked without being decoded, sent on with as few changes as possible."""

import re
from codecs import utf_8_decode
from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from gateway.backends.connection import Buffer
from gateway.backends.vllm import Outgoing
from gateway.exchange import Exchange
from gateway.limits.room import UNCOUNTED_BYTES, Room
from tidegate.errors import BodyTooLarge, ClientGone, InvalidRequest, UnsupportedMediaType
from tidegate.wire.openai import GenerateRequest, decode_fields, decode_request, encode
from tidegate.wire.skim import Skim

MAX_DEPTH = 128
_WINDOW_BYTES = 65_536
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MODEL = re.compile(rb'"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"')
_MOST = {
    "top_k": 2**31 - 1,
    "seed": 2**63 - 1,
    "max_tokens": 2**31 - 1,
    "max_completion_tokens": 2**31 - 1,
    "min_tokens": 2**31 - 1,
}
_NEVER_TOO_LARGE = 10  # digits of the least of these
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


def read_request(raw: bytes, skim: Skim) -> GenerateRequest:
    """The fields we act on; the whole of `raw` is known to be JSON in UTF-8 then.

    Raises:
        InvalidRequest: it is not, is nested too deeply, or names two models.
    """
    if not raw.isascii():
        _check_utf8(raw)
    if skim.may_nest_deeper_than(MAX_DEPTH) and _is_too_deep(raw):
        raise InvalidRequest(f"The body is nested too deeply: about {MAX_DEPTH} levels are allowed.")
    try:
        request = decode_request(raw)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The body is not a valid request: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    if skim.may_repeat(b"model") and _names_model_twice(raw):
        raise InvalidRequest("The body has more than one field `model`.", param="model")
    _check_numbers(request)
    return request


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
    if not ask and not rename:
        exchange.parts = (body,)
    elif not rename and b'"stream_options"' not in body:
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
        content_type=exchange.headers[b"content-type"],
        length=upload.length if upload.more else len(upload.head),
        more=upload.pieces() if upload.more else None,
    )


def _after_brace(body: bytes) -> Buffer:
    return memoryview(body)[body.index(b"{") + 1 :]


def _check_numbers(request: GenerateRequest) -> None:
    """Model servers fail (500) at some numbers that do not fit into what it computes with."""
    for name, most in _MOST.items():
        raw = getattr(request, name)
        if raw is UNSET or len(raw) < _NEVER_TOO_LARGE:
            continue
        digits = bytes(raw).lstrip(b"-")
        if digits.isdigit() and int(digits[:40]) > most:
            raise InvalidRequest(f"The number in `{name}` is too large.", param=name)


def _check_utf8(raw: bytes) -> None:
    """In windows, so that a large body is not held twice."""
    view, at = memoryview(raw), 0
    try:
        while at < len(raw):
            at += utf_8_decode(view[at : at + _WINDOW_BYTES], "strict", at + _WINDOW_BYTES >= len(raw))[1]
    except UnicodeDecodeError as error:
        raise InvalidRequest("The body is not valid UTF-8.") from error


def _is_too_deep(raw: bytes) -> bool:
    brackets = _STRING.sub(b"", raw).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):  # every round takes the innermost pairs away
        shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return bool(brackets)


def _names_model_twice(raw: bytes) -> bool:
    """Whether the outermost object has two fields `model`, however they are spelled: parsers differ in which one counts."""
    inside = sum(len(_MODEL.findall(value)) for value in decode_fields(raw).values())
    return len(_MODEL.findall(raw)) - inside > 1
