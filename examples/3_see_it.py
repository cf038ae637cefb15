"""See a request: its trace from the caller to the model server and back, its metrics, its usage row.

The trace is printed from what arrived at the local OTLP receiver, not from what we meant to send.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console

from tidegate.local.traces import ancestors, as_tree, read_trace

client = OpenAI()
model = os.environ["TIDEGATE_MODEL"]
key_id = os.environ["TIDEGATE_KEY_ID"]
spans_file = Path(os.environ["TIDEGATE_SPANS_FILE"])
console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=True)


def main() -> None:
    """One traced request, then what it left behind."""
    traced_request(secrets.token_hex(16))  # fills the model server's prefix cache for the one that counts
    trace_id = secrets.token_hex(16)
    request_id = traced_request(trace_id)
    show_trace(trace_id)
    show_metrics()
    show_usage(request_id)


def traced_request(trace_id: str) -> str:
    """A request that belongs to a trace of the caller's."""
    answer = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": "Good morning. " * 90}],  # long enough for vLLM's prefix cache
        max_tokens=8,
        extra_body={"min_tokens": 8},
        extra_headers={"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01", "x-request-id": "journey-3"},
    )
    assert answer.headers["x-request-id"] == "journey-3"
    return answer.headers["x-tidegate-request-id"]


def show_trace(trace_id: str) -> None:
    """Waits for the spans and checks that the model server's is below our dispatch span."""
    deadline = time.monotonic() + 20
    while not any(span["service"] == "vllm" for span in read_trace(spans_file, trace_id)):
        assert time.monotonic() < deadline, "the model server's span did not arrive within 20 s"
        time.sleep(0.25)
    time.sleep(1)
    spans = read_trace(spans_file, trace_id)
    console.print(as_tree(spans, trace_id))
    theirs = next(span for span in spans if span["service"] == "vllm")
    above = [span["name"] for span in ancestors(spans, theirs)]
    assert above == ["dispatch", f"chat {model}"], above
    assert any(span["name"] == "screen_input" for span in spans)


def show_metrics() -> None:
    """A few of the metrics on the management port."""
    with urllib.request.urlopen(os.environ["TIDEGATE_MANAGEMENT_URL"] + "/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for line in text.splitlines():
        if re.match(r"tidegate_(requests|tokens|guardrail_verdicts)_total", line):
            console.print(f"  {line}", highlight=False, markup=False)
    assert f'tidegate_requests_total{{model="{model}",outcome="ok"' in text


def show_usage(request_id: str) -> None:
    """The request's row, and the sums by key, once the journal has been shipped."""
    deadline = time.monotonic() + 15
    while (row := usage_row(request_id)) is None:
        assert time.monotonic() < deadline, "the usage row did not arrive within 15 s"
        time.sleep(0.5)
    assert row["outcome"] == "ok" and row["usage_source"] == "reported" and row["key_id"] == key_id
    assert row["input_tokens"] > 100 and row["output_tokens"] == 8 and row["cached_tokens"] >= 128
    print(f"  usage row: in {row['input_tokens']}, out {row['output_tokens']}, cached {row['cached_tokens']}")
    print(tidegate("usage"))


def usage_row(request_id: str) -> dict[str, Any] | None:
    """The usage row of a request, if it has arrived in the database."""
    rows = [json.loads(line) for line in tidegate("usage", "--rows", "100", "--json").splitlines()]
    return next((row for row in rows if row["request_id"] == request_id), None)


def tidegate(*arguments: str) -> str:
    """What the command line prints."""
    command = [sys.executable, "-m", "tidegate.cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


if __name__ == "__main__":
    main()
