"""An agent: the Responses API with a hosted tool server and with file search, streamed; then the whole way in one trace.

The small model never calls a tool by itself, so the first call is forced; the second turn is the model's own.
"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console

from tidegate.local.traces import ancestors, as_tree, read_trace

HANDBOOK = Path(__file__).parent / "handbook"
client = OpenAI()
model = os.environ["TIDEGATE_MODEL"]
spans_file = Path(os.environ["TIDEGATE_SPANS_FILE"])
console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=True)
WAY = [  # from the tool's search in the index back to the caller's request
    ("tidegate-knowledge", "search"),
    ("tidegate-knowledge", "POST /v1/vector_stores/search"),
    ("tidegate-gateway", "call"),
    ("tidegate-gateway", "POST /v1/vector_stores/search"),
    ("mcp-knowledge", "tools/call search"),
    ("tidegate-gateway", "call"),
    ("tidegate-gateway", "tools/call knowledge__search"),
    ("tidegate-agents", "execute_tool knowledge__search"),
    ("tidegate-agents", "POST /v1/responses"),
    ("tidegate-gateway", "call"),
    ("tidegate-gateway", "POST /v1/responses"),
]


def main() -> None:
    """A tool server, file search, a conversation that goes on, the trace."""
    command = [sys.executable, "-m", "tidegate.cli", "ingest", str(HANDBOOK), "--store", "handbook"]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    trace_id = secrets.token_hex(16)
    response_id = use_a_tool_server(trace_id)
    use_file_search(response_id)
    show_trace(trace_id)


def use_a_tool_server(trace_id: str) -> str:
    """The model must search the handbook through the tool server `knowledge`; every step comes as a typed event."""
    tool: Any = {
        "type": "mcp",
        "server_label": "knowledge",
        "allowed_tools": ["search"],
        "require_approval": "never",
    }
    told, final = streamed(
        input="What is the heron list?",
        instructions="Answer briefly.",
        tools=[tool],
        tool_choice={"type": "mcp", "server_label": "knowledge", "name": "search"},
        extra_headers={"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"},
    )
    assert [item.type for item in final.output][:2] == ["mcp_list_tools", "mcp_call"]
    assert {"response.mcp_call_arguments.done", "response.mcp_call.completed"} <= set(told)
    call = final.output[1]
    print(
        f"  called {call.server_label}/{call.name}({call.arguments[:80]}) → {call.status}, {len(call.output)} characters"
    )
    assert (call.server_label, call.name, call.error) == ("knowledge", "search", None)
    return str(final.id)


def use_file_search(previous: str) -> None:
    """The conversation goes on, this time with file search over the store itself."""
    store = next(store for store in client.vector_stores.list() if store.name == "handbook")
    told, final = streamed(
        input="And who may unfreeze the releases?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 2}],
        tool_choice={"type": "file_search"},
        include=["file_search_call.results"],
        previous_response_id=previous,
    )
    assert told.index("response.file_search_call.searching") < told.index("response.file_search_call.completed")
    search = final.output[0]
    print(f"  searched for {search.queries} → {[(result.filename, result.score) for result in search.results]}")
    kept = client.responses.retrieve(final.id)
    assert [item.type for item in kept.output] == [item.type for item in final.output]
    client.responses.delete(final.id)


def streamed(**request: Any) -> tuple[list[str], Any]:
    """The events' types, and the response at its end."""
    told: list[str] = []
    stream = client.responses.create(model=model, max_output_tokens=640, temperature=0, stream=True, **request)
    for event in stream:
        told.append(event.type)
    final = event.response
    kinds = ", ".join(item.type for item in final.output)
    print(f"  {len(told)} events, {final.status}: {kinds}; {final.usage.total_tokens} tokens in all model calls")
    return told, final


def show_trace(trace_id: str) -> None:
    """Waits for the spans, prints them, and checks that both ways are whole: to vLLM, and through the tool to the index."""
    deadline = time.monotonic() + 20
    while True:
        spans = read_trace(spans_file, trace_id)
        ends = {(span["service"], span["name"]) for span in spans}
        if {WAY[0], WAY[-1], ("vllm", "llm_request")} <= ends:
            break
        assert time.monotonic() < deadline, f"these spans arrived: {sorted(ends)}"
        time.sleep(0.25)
    time.sleep(1)
    spans = read_trace(spans_file, trace_id)
    console.print(as_tree(spans, trace_id))
    found = next(span for span in spans if (span["service"], span["name"]) == WAY[0])
    way = [(span["service"], span["name"]) for span in (found, *ancestors(spans, found))]
    assert way == WAY, way
    asked = next(span for span in spans if span["service"] == "vllm")
    above = [span["service"] for span in ancestors(spans, asked)]
    assert above == ["tidegate-gateway"] * 2 + ["tidegate-agents"] * 2 + ["tidegate-gateway"] * 2, above


if __name__ == "__main__":
    main()
