"""The hostile loads of `benchmarks.neighbour`: what one project sends, how often, and on how many connections.

Every load is bounded in connections and in requests a second, so that the result is about the services and not about the
load generator. The fields of `Load` say how a load is sent; `benchmarks.attacker` sends it.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tests.stand import STREAM_HEAD, chat_chunk, chunked, json_steps, sse, stream_steps

Manner = Literal["ask", "hold", "sip", "churn"]
BOUNDARY = "hostile-boundary"
MODEL, STALLED_MODEL, EMBEDDER = "m", "stalled", "all-minilm-l6-v2"
DIGITS = "4000 0001 "
PAN_GROUPS = 12_900
"""129 KB of digit groups: one request, within every limit."""
PAN_PAIRS = 5_200_000
"""10.4 MB of `4 `: the largest body that is allowed."""
LARGE_BYTES = 10_300_000
ANSWER_GROUPS = 12_500
EVENT_GROUPS, EVENTS = 6_000, 10
UPLOAD_BYTES = 3_000_000
STALLED_UPLOAD_BYTES = 1_000_000
BRACKET_DEPTH = 110
HALF_SENT, HALF_SENT_SHARE = 40, 0.84
STALLED_RUNS = 64
IDLE_CONNECTIONS = 6_000
"""More than `DESCRIPTORS`."""
DESCRIPTORS = 4_096
"""The limit under which the gateway runs."""
HUGE_N, CHOICES = 1_000_000_000, 20_000
MESSAGES = 100_000
TOOLS, TOOL_PROPERTIES = 200, 400
EMBEDDING_INPUTS, EMBEDDING_BYTES = 1_000, 8_000
SLOW_READERS = 200
TOOL_CALLS_PER_S = 200
TOOL_ARGUMENT_GROUPS = 100_000
PDF_PAGES, PDF_OPERATORS = 100_000, 1_500_000
REFUSED_PER_S = 500
HEADERS, HEADER_BYTES = 120, 500
TOO_LARGE_HEADERS = 140
PIECES = 500_000
FIELDS, FIELD_BYTES = 60, 65_000
"""`model`, a file and these are the 64 parts that a form may have, more or less."""
CHURN_PER_S = 500
PIPELINED = 32


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load goes: the gateway's port, a key, and a vector store of the attacker's own."""

    port: int
    key: str
    store: str


@dataclass(frozen=True, slots=True)
class Load:
    """One hostile load.

    `ask` sends requests and reads the responses, `hold` keeps connections open after `share` of the request, `sip` reads
    responses a kilobyte at a time, `churn` opens and closes connections.
    """

    request: Callable[[Target], bytes]
    connections: int
    per_s: float
    """Most requests (of `hold` and `sip`: most new connections) a second, over all connections."""
    surface: str | None = None
    """What is measured besides chat and search."""
    manner: Manner = "ask"
    share: float = 1
    project: str = "attacker"


def request(
    target: Target,
    path: str,
    body: bytes,
    *,
    kind: str = "application/json",
    lines: str = "",
    length: int | None = None,
) -> bytes:
    """A request as bytes; `length` is the declared length where it is not the body's."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\nauthorization: Bearer {target.key}\r\n"
    head += f"content-type: {kind}\r\n{lines}"
    if "transfer-encoding" not in lines:
        head += f"content-length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"\r\n" + body


def chat(target: Target, text: str = "hi", **fields: Any) -> bytes:
    """A chat request with further fields."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
    return request(target, "/v1/chat/completions", json.dumps(body).encode())


def form(target: Target, path: str, *parts: bytes, length: int | None = None) -> bytes:
    """A form; parts by `field`."""
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return request(target, path, body, kind=f"multipart/form-data; boundary={BOUNDARY}", length=length)


def field(name: str, value: bytes, filename: str = "") -> bytes:
    """One part of a form."""
    file = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"


def upload(target: Target, name: str, data: bytes, length: int | None = None) -> bytes:
    """A document for the knowledge service."""
    parts = field("purpose", b"assistants"), field("file", data, name)
    return form(target, "/v1/files", *parts, length=length)


def _filled(target: Target, unit: str, before: str, after: str) -> bytes:
    """A chat request of `LARGE_BYTES`, most of which is `unit`s with commas between them."""
    units = ",".join([unit] * (LARGE_BYTES // (len(unit) + 1)))
    body = f'{{"model":"{MODEL}","messages":[{before}{units}{after}}}'
    return request(target, "/v1/chat/completions", body.encode())


def _brackets(target: Target) -> bytes:
    return _filled(target, "[" * BRACKET_DEPTH + "]" * BRACKET_DEPTH, '],"metadata":[', "]")


def _urls(target: Target) -> bytes:
    return _filled(target, '{"url":1}', '{"role":"user","content":[', "]}]")


def _messages(target: Target) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}] * MESSAGES}
    return request(target, "/v1/chat/completions", json.dumps(body).encode())


def _tools(target: Target) -> bytes:
    schema = {
        "type": "object",
        "properties": {
            f"property_{n}": {"type": "string", "description": "A value. " * 8} for n in range(TOOL_PROPERTIES)
        },
    }
    tools = [{"type": "function", "function": {"name": f"tool_{n}", "parameters": schema}} for n in range(TOOLS)]
    return chat(target, tools=tools)


def _embeddings(target: Target) -> bytes:
    text = ("The settlement procedure for card payments. " * (EMBEDDING_BYTES // 44 + 1))[:EMBEDDING_BYTES]
    body = json.dumps({"model": EMBEDDER, "input": [text] * EMBEDDING_INPUTS}).encode()
    return request(target, "/v1/embeddings", body)


def tool_call(target: Target, text: str = "2026-11-30") -> bytes:
    """A call of the calendar's tool by MCP."""
    arguments = {"date": text, "calendar": "DE"}
    params = {"name": "is_business_day", "arguments": arguments}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    lines = "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-06-18\r\n"
    return request(target, "/mcp/calendar", body, lines=lines)


def response(target: Target, text: str = "hi", model: str = MODEL) -> bytes:
    """A run of the Responses API."""
    body = {"model": model, "input": text, "store": False}
    return request(target, "/v1/responses", json.dumps(body).encode())


def search(target: Target, query: str) -> bytes:
    """A search in the project's own store."""
    body = json.dumps({"query": query, "max_num_results": 5}).encode()
    return request(target, f"/v1/vector_stores/{target.store}/search", body)


def _head(count: int) -> Callable[[Target], bytes]:
    def build(target: Target) -> bytes:
        lines = "".join(f"x-{n}: {'a' * HEADER_BYTES}\r\n" for n in range(count))
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
        return request(target, "/v1/chat/completions", body, lines=lines)

    return build


def _pieces(target: Target) -> bytes:
    text = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a" * PIECES}]}).encode()
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    return request(target, "/v1/chat/completions", body, lines="transfer-encoding: chunked\r\n")


def _fields(target: Target) -> bytes:
    value = (DIGITS * (FIELD_BYTES // len(DIGITS))).encode()
    fields = [field(f"field{n}", value) for n in range(FIELDS)]
    return form(
        target, "/v1/audio/transcriptions", field("model", MODEL.encode()), *fields, field("file", b"x", "a.wav")
    )


def pdf(kids: int, content: bytes) -> bytes:
    """A PDF whose page tree names its one page `kids` times; `content` is compressed."""
    packed = zlib.compress(content, 9)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (kids, b"3 0 R " * kids),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R"
        b"/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(packed), packed),
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return out + b"xref\n0 5\n0000000000 65535 f \n" + table + trailer


def _pages(target: Target) -> bytes:
    return upload(target, "pages.pdf", pdf(PDF_PAGES, b"BT /F 9 Tf (high water) Tj ET"))


def _operators(target: Target) -> bytes:
    return upload(target, "operators.pdf", pdf(1, b"BT /F 9 Tf " + b"(high water) Tj " * PDF_OPERATORS + b"ET"))


def _stalled_upload(target: Target) -> bytes:
    """The head and the first third of an upload."""
    begun = upload(target, "a.txt", b"x" * STALLED_UPLOAD_BYTES, UPLOAD_BYTES)
    return begun[: -len(f"--{BOUNDARY}--\r\n") - 2]


LOADS: dict[str, Load] = {
    "control: ordinary chats": Load(chat, 4, 50),
    "pan digits 129 KB, 1 connection": Load(lambda t: chat(t, DIGITS * PAN_GROUPS), 1, 20),
    "pan digits 129 KB, 4 connections": Load(lambda t: chat(t, DIGITS * PAN_GROUPS), 4, 20),
    "pan digits 10 MB": Load(lambda t: chat(t, "4 " * PAN_PAIRS), 1, 2),
    "response of 125 KB of digits": Load(lambda t: chat(t, fake_script="digits"), 4, 20),
    "streams of 60 KB digit events": Load(lambda t: chat(t, stream=True, fake_script="digit-events"), 4, 8, "stream"),
    "three uploads of 3 MB of digits": Load(
        lambda t: upload(t, "a.txt", (DIGITS * (UPLOAD_BYTES // len(DIGITS))).encode()), 3, 3, "upload"
    ),
    "deep brackets 10 MB": Load(_brackets, 2, 2),
    "deep brackets 10 MB, refused with 429": Load(_brackets, 2, 2, project="limited"),
    "10 MB of url objects": Load(_urls, 2, 2),
    "forty half-sent bodies of 10 MB": Load(
        _urls, HALF_SENT, HALF_SENT, manner="hold", share=HALF_SENT_SHARE, project="narrow"
    ),
    "four stalled uploads": Load(_stalled_upload, 4, 20, "upload", "hold"),
    "64 stalled responses": Load(lambda t: response(t, model=STALLED_MODEL), STALLED_RUNS, 64, "response", "hold"),
    "responses with 129 KB of digits": Load(lambda t: response(t, DIGITS * PAN_GROUPS), 4, 20, "response"),
    "searches with 129 KB of digits": Load(lambda t: search(t, DIGITS * PAN_GROUPS), 4, 20),
    "6,000 idle connections": Load(lambda t: b"", IDLE_CONNECTIONS, 3_000, manner="hold"),
    "connections opened and closed": Load(lambda t: b"", 8, CHURN_PER_S, manner="churn"),
    "n of a billion, 20,000 choices": Load(
        lambda t: chat(t, n=HUGE_N, stream=True, fake_script="choices"), 2, 2, "stream"
    ),
    "100,000 messages": Load(_messages, 2, 2),
    "tool schemas 10 MB": Load(_tools, 2, 2),
    "1,000 long embedding inputs": Load(_embeddings, 2, 2, "embedding"),
    "200 slow readers of streams": Load(
        lambda t: chat(t, stream=True, fake_script="flood"), SLOW_READERS, SLOW_READERS, "stream", "sip"
    ),
    "200 tool calls a second": Load(tool_call, 16, TOOL_CALLS_PER_S, "tool"),
    "tool calls with 1 MB of digits": Load(lambda t: tool_call(t, DIGITS * TOOL_ARGUMENT_GROUPS), 4, 4, "tool"),
    "pdf of 100,000 pages": Load(_pages, 2, 2, "upload"),
    "pdf with 24 MB of operators in a stream": Load(_operators, 2, 2, "upload"),
    "refused with 401": Load(chat, 8, REFUSED_PER_S, project="nobody"),
    "refused with 429": Load(chat, 8, REFUSED_PER_S, project="limited"),
    "heads of 64 KB": Load(_head(HEADERS), 4, 100),
    "heads beyond 64 KB": Load(_head(TOO_LARGE_HEADERS), 4, 100),
    "bodies in pieces of one byte": Load(_pieces, 4, 4),
    "forms of 60 fields of 65 KB of digits": Load(_fields, 2, 2),
    "pipelined requests": Load(lambda t: chat(t) * PIPELINED, 4, 4),
}


def scripts() -> dict[str, list[dict[str, Any]]]:
    """What the model server says to the attacker's requests, by `fake_script`."""
    message = {"role": "assistant", "content": DIGITS * ANSWER_GROUPS}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    event = chunked(sse(*[chat_chunk("x" * 1000)] * 40))
    choices = [sse(*[chat_chunk("a", index=index) for index in range(at, at + 100)]) for at in range(0, CHOICES, 100)]
    return {
        "digits": json_steps(whole | {"choices": [choice]}),
        "digit-events": stream_steps(*[sse(chat_chunk(DIGITS * EVENT_GROUPS))] * EVENTS, sse("[DONE]")),
        "choices": stream_steps(*choices, sse("[DONE]")),
        "flood": [{"send": STREAM_HEAD}, *[{"send": event}] * 200],
        "stall": [{"stall": True}],
    }
