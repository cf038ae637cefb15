"""Telemetry sink `otlp`: what is sent arrives at the local receiver, also as a tree."""

import io
import sys
from pathlib import Path

from rich.console import Console

from tests.stand import Process, free_port, wait_until
from tidegate.local.processes import answers
from tidegate.local.traces import ancestors, as_tree, read_trace
from tidegate.telemetry.sinks.otlp import Config, build
from tidegate.telemetry.tracing import Tracing, fail


def test_spans_arrive_and_show_as_a_tree(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "spans.jsonl"
    argv = [sys.executable, "-m", "tidegate.local.receiver", "--port", str(port), "--out", str(out)]
    receiver = Process(argv, tmp_path / "log")
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 10)
        tracing = Tracing("sender", 1.0, [build(Config(endpoint=f"http://127.0.0.1:{port}/v1/traces"), None)])
        parent = tracing.start("parent", None)
        child = tracing.start("child", parent)
        child.set_attribute("gen_ai.request.model", "m")
        fail(child, "why")
        child.end()
        parent.end()
        tracing.close()
        trace_id = f"{parent.get_span_context().trace_id:032x}"
        spans = wait_until(lambda: read_trace(out, trace_id), 5)
    finally:
        receiver.stop()
    by_name = {span["name"]: span for span in spans}
    assert [span["name"] for span in ancestors(spans, by_name["child"])] == ["parent"]
    text = io.StringIO()
    Console(file=text, width=200).print(as_tree(spans, trace_id))
    assert "sender parent" in text.getvalue() and "gen_ai.request.model=m" in text.getvalue()
    assert text.getvalue().index("parent") < text.getvalue().index("child")


def test_a_receiver_that_is_away_holds_nothing_up() -> None:
    tracing = Tracing(
        "sender", 1.0, [build(Config(endpoint=f"http://127.0.0.1:{free_port()}/v1/traces", timeout_s=0.2), None)]
    )
    tracing.start("x", None).end()
