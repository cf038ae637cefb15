"""Records what a real vLLM answers: `python -m tests.golden.record http://127.0.0.1:8101`, model `smollm2`.

Each file in this folder holds a request and the answer as it came, to be played back by the fake upstream.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.stand import http

FOLDER = Path(__file__).parent
HI = [{"role": "user", "content": "Name a colour and say why."}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": PARAMETERS}}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "c", "schema": {"type": "object", "properties": {"c": {"type": "string"}}}},
}
USAGE = {"stream_options": {"include_usage": True}}
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
LONG = "word " * 3000

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HI, "max_tokens": 12}),
    "chat-logprobs": (CHAT, {"messages": HI, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}),
    "chat-tool": (CHAT, {"messages": HI, "max_tokens": 24, "tools": [TOOL], "tool_choice": "required"}),
    "chat-token-ids": (CHAT, {"messages": HI, "max_tokens": 4, "return_token_ids": True}),
    "chat-stream": (CHAT, {"messages": HI, "max_tokens": 12, "stream": True}),
    "chat-stream-usage": (CHAT, {"messages": HI, "max_tokens": 12, "stream": True, **USAGE}),
    "chat-stream-usage-continuous": (
        CHAT,
        {
            "messages": HI,
            "max_tokens": 6,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    ),
    "chat-stream-logprobs": (
        CHAT,
        {"messages": HI, "max_tokens": 5, "stream": True, "logprobs": True, "top_logprobs": 2, **USAGE},
    ),
    "chat-stream-two-choices": (
        CHAT,
        {"messages": HI, "max_tokens": 6, "n": 2, "temperature": 0.7, "stream": True, **USAGE},
    ),
    "chat-stream-tool": (
        CHAT,
        {"messages": HI, "max_tokens": 24, "stream": True, "tools": [TOOL], "tool_choice": "required", **USAGE},
    ),
    "chat-stream-json": (CHAT, {"messages": HI, "max_tokens": 20, "stream": True, "response_format": SCHEMA, **USAGE}),
    "chat-stream-stop": (CHAT, {"messages": HI, "max_tokens": 30, "stream": True, "stop": ["a"], **USAGE}),
    "chat-stream-token-ids": (
        CHAT,
        {"messages": HI, "max_tokens": 4, "stream": True, "return_token_ids": True, **USAGE},
    ),
    "completion": (COMPLETIONS, {"prompt": "One two", "max_tokens": 6, "logprobs": 2}),
    "completion-stream": (COMPLETIONS, {"prompt": "One two", "max_tokens": 6, "stream": True, **USAGE}),
    "completion-stream-echo": (
        COMPLETIONS,
        {"prompt": ["One two", "Three"], "max_tokens": 3, "stream": True, "echo": True, "logprobs": 1, **USAGE},
    ),
    "message": (MESSAGES, {"messages": HI, "max_tokens": 8}),
    "message-stream": (MESSAGES, {"messages": HI, "max_tokens": 8, "stream": True}),
    "message-stream-tool": (
        MESSAGES,
        {
            "messages": HI,
            "max_tokens": 24,
            "stream": True,
            "tools": [{"name": "weather", "input_schema": PARAMETERS, "strict": True}],
            "tool_choice": {"type": "any"},
        },
    ),
    "count-tokens": ("/v1/messages/count_tokens", {"messages": HI}),
    "tokenize": ("/tokenize", {"prompt": "One two three"}),
    "detokenize": ("/detokenize", {"tokens": [1, 2, 300]}),
    "error-too-long": (CHAT, {"messages": [{"role": "user", "content": LONG}], "max_tokens": 5}),
    "error-too-long-stream": (CHAT, {"messages": [{"role": "user", "content": LONG}], "max_tokens": 5, "stream": True}),
    "error-bad-field": (CHAT, {"messages": HI, "max_tokens": -1}),
    "error-bad-type": (CHAT, {"messages": "no list"}),
    "error-message": (MESSAGES, {"messages": HI}),
}


def main() -> None:
    """Asks for every case and writes it down."""
    for name, (path, body) in CASES.items():
        asked = {"model": "smollm2", "temperature": 0, **body}
        if path not in (CHAT, COMPLETIONS, MESSAGES):
            asked.pop("temperature")
        answer = http.post(f"{sys.argv[1]}{path}", json=asked, timeout=120)
        kept = asked if len(json.dumps(asked)) < 2000 else {"model": "smollm2", "stream": asked.get("stream", False)}
        found = {
            "path": path,
            "request": kept,
            "status": answer.status_code,
            "content_type": answer.headers["content-type"],
            "body": answer.text,
        }
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
