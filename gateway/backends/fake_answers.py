"""What the fake upstream says when nobody has scripted it: a plain answer for every path that callers may reach."""

import json
from typing import Any

import msgspec

PROMPT_TOKENS = 10


class FakeRequest(msgspec.Struct):
    """What the fake reads of a request."""

    model: str = "fake"
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    fake_script: str | None = None
    fake_pace_ms: float = 0
    fake_text: str = "tok "


class Answers:
    """Answers as bytes on the wire; prepared once per shape, so that benchmarks measure the gateway."""

    def __init__(self) -> None:
        self._prepared: dict[tuple[object, ...], bytes] = {}

    def whole(self, request: FakeRequest, tokens: int, path: str) -> bytes:
        """A whole answer, head and body."""
        key = ("whole", request.model, tokens, request.fake_text, path)
        if key not in self._prepared:
            body = json.dumps(_said(path, request, tokens)).encode()
            self._prepared[key] = head(200, "application/json", len(body)) + body
        return self._prepared[key]

    def events(self, request: FakeRequest, tokens: int, path: str) -> list[bytes]:
        """A stream's HTTP chunks: what begins it, one per token, what ends it."""
        if path == "/v1/messages":
            return self._message_events(request, tokens)
        key = ("events", request.model, request.fake_text, path)
        if key not in self._prepared:
            text = request.fake_text
            said = {"text": text} if path == "/v1/completions" else {"delta": {"content": text}}
            self._prepared[key] = http_chunk(_event(request, path, {"index": 0, **said, "finish_reason": None}))
        last: dict[str, Any] = {"text": ""} if path == "/v1/completions" else {"delta": {}}
        out = [self._prepared[key]] * tokens
        out.append(http_chunk(_event(request, path, {"index": 0, **last, "finish_reason": "length"})))
        if (request.stream_options or {}).get("include_usage"):
            out.append(http_chunk(_event(request, path, None, _usage(tokens))))
        out.append(http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return out

    def _message_events(self, request: FakeRequest, tokens: int) -> list[bytes]:
        message = {**_message(request, ""), "content": [], "stop_reason": None}
        start = {"type": "text", "text": ""}
        piece = _named("content_block_delta", index=0, delta={"type": "text_delta", "text": request.fake_text})
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens}
        return [
            http_chunk(_named("message_start", message=message) + _named("content_block_start", index=0, content_block=start)),
            *[http_chunk(piece)] * tokens,
            http_chunk(_named("content_block_stop", index=0)),
            http_chunk(_named("message_delta", delta={"stop_reason": "max_tokens"}, usage=usage)),
            http_chunk(_named("message_stop")) + b"0\r\n\r\n",
        ]  # fmt: skip


def head(status: int, content_type: str, length: int | None) -> bytes:
    """A response head; `length` None means chunked."""
    body = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 {status} Fake\r\ncontent-type: {content_type}\r\n{body}\r\n\r\n".encode()


def http_chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


_NO_PATH = b'{"error":{"message":"Not Found","type":"NotFoundError","param":null,"code":404}}'
NOT_FOUND = head(404, "application/json", len(_NO_PATH)) + _NO_PATH
STREAMED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages"})


def is_known(path: str) -> bool:
    """Whether there is an answer for `path`."""
    return path in STREAMED or path.removeprefix("/v1").removeprefix("/v2") in _FIXED


def _said(path: str, request: FakeRequest, tokens: int) -> dict[str, Any]:
    text = request.fake_text * tokens
    if path == "/v1/messages":
        return _message(request, text) | {"usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens}}
    if path in ("/v1/chat/completions", "/v1/completions"):
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        said = {"text": text} if path == "/v1/completions" else {"message": {"role": "assistant", "content": text}}
        head_of = {"id": "chatcmpl-fake", "object": _object(path), "created": 1, "model": request.model}
        return head_of | {"choices": [choice | said], "usage": _usage(tokens)}
    return _FIXED[path.removeprefix("/v1").removeprefix("/v2")]


_PROMPT = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
_HEARD = {"text": "tok tok", "usage": {"type": "duration", "seconds": 1}}
_RANK = {"index": 0, "document": {"text": "d"}, "relevance_score": 0.5}
_FIXED: dict[str, dict[str, Any]] = {
    "/messages/count_tokens": {"input_tokens": PROMPT_TOKENS},
    "/embeddings": {"object": "list", "data": [{"index": 0, "embedding": [0.25]}], "model": "m", "usage": _PROMPT},
    "/rerank": {"id": "rerank-fake", "model": "m", "usage": {"total_tokens": PROMPT_TOKENS}, "results": [_RANK]},
    "/score": {"id": "score-fake", "object": "list", "data": [{"index": 0, "score": 0.5}], "usage": _PROMPT},
    "/tokenize": {"count": 1, "max_model_len": 2048, "tokens": [1]},
    "/detokenize": {"prompt": "tok"},
    "/audio/transcriptions": _HEARD,
    "/audio/translations": _HEARD,
}


def _usage(tokens: int) -> dict[str, int]:
    total = PROMPT_TOKENS + tokens
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": total}


def _message(request: FakeRequest, text: str) -> dict[str, Any]:
    return {
        "id": "msg-fake",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": 0},
    }


def _event(
    request: FakeRequest, path: str, choice: dict[str, Any] | None, usage: dict[str, int] | None = None
) -> bytes:
    chunk = {"id": "chatcmpl-fake", "object": _object(path, ".chunk"), "created": 1, "model": request.model}
    body: dict[str, Any] = {**chunk, "choices": [choice] if choice else []} | ({"usage": usage} if usage else {})
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _named(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def _object(path: str, suffix: str = "") -> str:
    return "text_completion" if path == "/v1/completions" else f"chat.completion{suffix}"
