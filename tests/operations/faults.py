"""The rows of `docs/faults.md`, and what a model server does in each of them."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from tests.stand import STREAM_HEAD, chat_chunk, chunked, json_steps, sse, stream_steps

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
STALL: dict[str, Any] = {"stall": True}
A, FINISH = chat_chunk("a"), chat_chunk(finish="stop")
GOOD = {
    "whole": json_steps({"choices": [{"index": 0, "message": {"content": "good"}, "finish_reason": "stop"}]}),
    "stream": stream_steps(sse(chat_chunk("good"), FINISH, "[DONE]")),
}


@dataclass(frozen=True)
class Row:
    """One row of the first table, as written."""

    fault: str
    answer: str
    status: str
    type: str
    code: str
    retry_after: str
    should_retry: str
    other_replica: str
    blamed: str


def rows() -> list[Row]:
    """The table of what the caller sees."""
    lines = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    cells = [line.split(" | ") for line in lines]
    return [Row(*row) for row in cells if len(row) == 9 and row[0] != "fault"]


def other_faults() -> list[str]:
    """The names in the second table."""
    return re.findall(r"^\| ([a-z]+-[a-z-]+) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)


def error(code: int, kind: str = "BadRequestError") -> dict[str, Any]:
    """An error as vLLM writes it."""
    return {"error": {"message": "as the model server says", "type": kind, "param": None, "code": code}}


def begun(*steps: dict[str, Any]) -> list[dict[str, Any]]:
    """A stream whose first event has been sent."""
    return [{"send": STREAM_HEAD + chunked(sse(A))}, *steps]


def comments(count: int, pause_ms: float) -> list[dict[str, Any]]:
    """Keep-alives, which are not progress."""
    return [step for _ in range(count) for step in ({"sleep_ms": pause_ms}, {"send": chunked(": keep-alive\n\n")})]


def _later(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def steps_of(row: Row) -> list[dict[str, Any]]:
    """What the failing replica does, where it is a matter of a script."""
    if (found := re.fullmatch(r"status-(\d+)", row.fault)) is not None:
        return _STATUSES.get(row.fault) or json_steps(error(int(found[1])), int(found[1]))
    if row.fault == "status-429-retry-after-date":
        return json_steps(error(429), 429, f"retry-after: {_later(60)}\r\n")
    return _SCRIPTS.get((row.fault, row.answer)) or _SCRIPTS[row.fault, ""]


_STATUSES = {
    "status-401": json_steps({"error": "Unauthorized"}, 401),
    "status-404": json_steps(error(404, "NotFoundError"), 404),
    "status-501": json_steps(error(501, "NotImplementedError"), 501),
    "status-422": json_steps({"detail": [{"loc": ["body", "n"], "msg": "too many"}]}, 422),
}
_SCRIPTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("hangs-before-headers", ""): [STALL],
    ("hangs-after-headers", "whole"): [{"send": "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"}, STALL],
    ("hangs-after-headers", "stream"): [{"send": STREAM_HEAD}, STALL],
    ("first-token-too-late", ""): [{"send": STREAM_HEAD}, {"sleep_ms": 3000}, *stream_steps(sse(A, FINISH, "[DONE]"))[1:]],
    ("first-token-too-late-behind-comments", ""): [{"send": STREAM_HEAD}, *comments(60, 100), STALL],
    ("stalls", ""): begun(STALL),
    ("stalls-behind-comments", ""): begun(*comments(60, 100), STALL),
    ("connection-closed-before-an-answer", ""): [{"cut": "fin"}],
    ("connection-cut", "whole"): [{"send": "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"}, {"cut": "fin"}],
    ("connection-cut", "stream"): [{"send": STREAM_HEAD + "9\r\ndata"}, {"cut": "fin"}],
    ("connection-cut", "begun"): begun({"cut": "fin"}),
    ("connection-reset", ""): begun({"cut": "rst"}),
    ("ends-without-done", "stream"): [{"send": STREAM_HEAD + "0\r\n\r\n"}],
    ("ends-without-done", "begun"): begun({"send": chunked(sse(FINISH)) + "0\r\n\r\n"}),
    ("ends-without-finish-reason", ""): begun({"send": chunked(sse("[DONE]")) + "0\r\n\r\n"}),
    ("one-of-two-choices-does-not-finish", ""): begun(
        {"send": chunked(sse(chat_chunk("b", index=1), FINISH, "[DONE]")) + "0\r\n\r\n"}
    ),
    ("nothing-but-done", ""): stream_steps(sse("[DONE]")),
    ("malformed-json", "whole"): json_steps("{not json"),
    ("malformed-json", "stream"): stream_steps("data: {broken\n\n"),
    ("malformed-json", "begun"): begun({"send": chunked("data: {broken\n\n")}),
    ("endless-event", ""): begun({"send": chunked("data: " + "x" * 9000)}, STALL),
    ("not-http", ""): [{"send": "this is not HTTP\r\n\r\n"}, STALL],
    ("answer-too-large", ""): json_steps({"choices": [], "filler": "x" * 40_000}),
    ("redirect", ""): json_steps({}, 307, "location: /elsewhere\r\n"),
    ("error-in-stream", "stream"): stream_steps(sse(error(500, "InternalServerError"), "[DONE]")),
    ("error-in-stream", "begun"): begun({"send": chunked(sse(error(500, "InternalServerError"), "[DONE]")) + "0\r\n\r\n"}),
    ("callers-error-in-stream", "stream"): stream_steps(sse(error(400), "[DONE]")),
    ("callers-error-in-stream", "begun"): begun({"send": chunked(sse(error(400), "[DONE]")) + "0\r\n\r\n"}),
    ("status-503-retry-after", ""): json_steps(error(503), 503, "retry-after: 7\r\n"),
    ("status-429-retry-after-seconds", ""): json_steps(error(429), 429, "retry-after: 7\r\n"),
    ("status-400-after-a-comment", ""): [{"sleep_ms": 400}, *json_steps(error(400), 400)],
    ("status-400-not-json", ""): json_steps("<html>", 400),
    ("answers-before-the-body-is-sent", ""): [*json_steps(error(413), 413), STALL],
    ("callers-time-is-over", ""): [STALL],
    ("callers-time-is-over", "begun"): begun(STALL),
}  # fmt: skip


def expects_error(row: Row, body: dict[str, Any]) -> bool:
    """Whether the error object is the one that the row names."""
    found = body["error"]
    return (found["type"], str(found["code"])) == (row.type, row.code) and bool(json.dumps(found["message"]))
