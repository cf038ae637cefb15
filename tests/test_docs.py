"""What is generated is fresh, what is documented is true."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pydantic import Field

from benchmarks import footprint, knowledge, neighbour, pan, performance, readme, relay, stage
from benchmarks.hostile_loads import LOADS, Target, scripts
from gateway.routing.replicas import ReplicaState
from guardrails.engine.policy import Policy
from guardrails.engine.requests import Refused, screen_request
from guardrails.engine.streams import StreamScreen
from rag.document import TextBuilder
from tidegate.config import resources
from tidegate.config.load import Document
from tidegate.telemetry.tracing import Tracing
from tidegate.wire.openai import decode_chunk
from tidegate.wire.sse import data_of

ROOT = Path(__file__).parents[1]


def test_the_schema_is_fresh() -> None:
    assert json.loads((ROOT / "docs" / "tidegate.schema.json").read_text()) == Document.model_json_schema()


def test_the_tables_of_figures_are_generated_from_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert readme.table() in text
    assert pan.table() in text
    assert pan.cost_table() in pan.COST_DOCUMENT.read_text()
    assert footprint.table() in text
    assert knowledge.table() in text
    assert relay.table() in text
    text = performance.DOCUMENT.read_text()
    assert performance.figures() in text
    assert performance.profile() in text
    assert performance.limits() in text
    assert neighbour.table() in neighbour.DOCUMENT.read_text()


def test_every_hostile_load_can_be_built() -> None:
    """The benchmark runs in no CI: a change of the stand must not break it unseen."""
    target = Target(1, "key", "store")
    assert len(LOADS) > 20 and all(load.request(target) or load.manner != "ask" for load in LOADS.values())
    assert set(scripts()) >= {"digits", "digit-events", "choices", "flood", "stall"}


def test_the_benchmark_runs_a_valid_production_configuration(tmp_path: Path) -> None:
    """`make bench` runs in no CI: a change of the configuration must not break it unseen."""
    document = stage.configuration(tmp_path, "http://127.0.0.1:1", 4318, "sqlite+aiosqlite:///x.db")
    assert Document.model_validate(document).resources.models[0].name == "fake"


def test_every_setting_says_what_it_is() -> None:
    schema = Document.model_json_schema()
    silent = [
        f"{name}.{key}"
        for name, model in schema["$defs"].items()
        if name.endswith("Settings") and name != "Settings"
        for key, field in model["properties"].items()
        if not field.get("description")
    ]
    assert silent == []


def test_every_guarded_field_is_documented() -> None:
    for page in ("docs/configuration.md", "SECURITY.md"):
        text = (ROOT / page).read_text()
        assert all(f"`{name}`" in text for name in resources.GUARDED_FIELDS), page


def test_links_inside_the_project_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[a-z]*/**/README.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_adr_numbers_are_unique_and_in_order() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    documented = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert targets == documented and len(targets) <= 20


def test_the_command_line_says_what_it_does() -> None:
    done = subprocess.run([sys.executable, "-m", "tidegate.cli", "--help"], capture_output=True, text=True, check=True)
    for command in ("init", "check", "schema", "apply", "serve", "up", "ingest", "journeys", "trace", "usage", "keys"):
        assert command in done.stdout


def example_of(page: str) -> dict[str, Any]:
    """The names that the worked example on a plugin kind's page defines."""
    code = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert code is not None
    defined: dict[str, Any] = {"SpanExporter": SpanExporter, "SpanExportResult": SpanExportResult, "sys": sys}
    defined |= {"TextBuilder": TextBuilder, "MCPServer": MCPServer, "ToolAnnotations": ToolAnnotations}
    defined |= {"Annotated": Annotated, "Field": Field}
    exec(code[1], defined)
    return defined


def test_the_guardrail_example_works() -> None:
    made = example_of("guardrails/README.md")
    guardrail = made["build"](made["Config"](names=["heron", "sluice"]), None)
    policy = Policy("p", (guardrail,), (guardrail,), frozenset(), ("data:",))
    with pytest.raises(Refused):
        screen_request(policy, b'{"messages":[{"content":"about heron"}]}')
    screen = StreamScreen(policy.outputs, 1)
    out: list[bytes] = []
    for piece in ("the hare ", "and the he", "ro", "n came"):
        event = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % piece.encode()
        out += screen.feed(event, decode_chunk(data_of(event)))
    assert b"hare" in b"".join(out) and b"he" + b"ro" not in b"".join(out) and screen.ended


def test_the_routing_examples_work() -> None:
    replicas = [ReplicaState("http://127.0.0.1:1"), ReplicaState("http://10.0.0.1:1")]
    assert example_of("gateway/routing/filters/README.md")["OnlyLocal"]().keep(replicas, 0.0) == replicas[:1]
    assert example_of("gateway/routing/scorers/README.md")["Alphabetical"]().score(replicas, 0.0) == [0.5, 1.0]


def test_the_parser_example_works() -> None:
    parsed = example_of("rag/parsers/README.md")["Subtitles"]().parse(b"1\n00:01\nhigh water\n\n2\n00:02\nlow water")
    assert [parsed.text[section.start : section.end] for section in parsed.sections] == [
        "Subtitle 1\n\nhigh water\n\n", "Subtitle 2\n\nlow water\n\n",
    ]  # fmt: skip


def test_the_tool_server_example_works() -> None:
    async def ask() -> Any:
        async with Client(example_of("mcp_servers/README.md")["build"](None)) as client:
            return await client.call_tool("high_water", {"port": "Delfzijl"})

    assert asyncio.run(ask()).content[0].text == "Delfzijl: at noon"


def test_every_tool_server_has_a_row() -> None:
    page = (ROOT / "mcp_servers" / "README.md").read_text()
    names = {path.stem for path in (ROOT / "mcp_servers").glob("[a-z]*.py")}
    assert names == {"calendar", "knowledge"} == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def test_the_sink_example_works(capsys: pytest.CaptureFixture[str]) -> None:
    tracing = Tracing("test", 1.0, [example_of("tidegate/telemetry/sinks/README.md")["Lines"]()])
    tracing.start("a span", None).end()
    tracing.close()
    assert "a span" in capsys.readouterr().err
