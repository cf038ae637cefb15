"""The contract with clients and with vLLM: the same verdict direct and through the gateway, and nothing reachable besides.

`docs/conformance.md` lists what differs on purpose, and what a model this small fails by itself.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from anthropic import Anthropic
from openai import OpenAI

from gateway.api.routes import ROUTES
from tests.golden.record import CASES
from tests.live.contract import ANTHROPIC, OPENAI, shape, verdict
from tests.live.stack import ROOT, Up
from tests.stand import http
from tidegate.local.stack import Running

pytestmark = pytest.mark.live
PAGE = (ROOT / "docs" / "conformance.md").read_text()
SUITES = ROOT / "tests" / "live" / "suites"
ENVIRONMENT = ROOT / ".venv-conformance"


def listed(heading: str) -> set[str]:
    """The names in the list or table below a heading of the page."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^(?:- |\| )`([^`]+)`", section, re.MULTILINE))


def without(value: Any, name: str) -> Any:
    """A shape without one field."""
    if isinstance(value, dict):
        return {key: without(item, name) for key, item in value.items() if key != name}
    return [without(item, name) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def vllm(up: Up, running: Running) -> str:
    return f"http://127.0.0.1:{up.vllm_port}"


@pytest.mark.parametrize("case", OPENAI, ids=lambda case: case.__name__)
def test_openais_client_sees_the_same(running: Running, vllm: str, case: Callable[[OpenAI], Any]) -> None:
    with OpenAI(base_url=f"{vllm}/v1", api_key="none", max_retries=0, timeout=120) as direct:
        expected = verdict(lambda: case(direct))
    with OpenAI(base_url=running.base_url, api_key=running.api_key, max_retries=0, timeout=120) as through:
        found = verdict(lambda: case(through))
    if case.__name__ in listed("Differences on purpose"):
        for name in ("system_fingerprint", "code"):
            expected, found = without(expected, name), without(found, name)
    assert found == expected


@pytest.mark.parametrize("case", ANTHROPIC, ids=lambda case: case.__name__)
def test_anthropics_client_sees_the_same(running: Running, vllm: str, case: Callable[[Anthropic], Any]) -> None:
    with Anthropic(base_url=vllm, api_key="none", max_retries=0, timeout=120) as direct:
        expected = verdict(lambda: case(direct))
    base_url = running.base_url.removesuffix("/v1")
    with Anthropic(base_url=base_url, api_key=running.api_key, max_retries=0, timeout=120) as through:
        assert verdict(lambda: case(through)) == expected


def test_openais_client_for_node_sees_the_same(running: Running, vllm: str) -> None:
    (ENVIRONMENT / "chat.mjs").write_text((SUITES / "chat.mjs").read_text())  # beside its node_modules

    def run(url: str, key: str) -> Any:
        env = {"PATH": os.environ["PATH"], "SUITE_URL": url, "SUITE_KEY": key}
        done = subprocess.run(
            ["node", "chat.mjs"], cwd=ENVIRONMENT, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    expected = run(f"{vllm}/v1", "none")
    assert run(running.base_url, running.api_key) == expected and len(expected) == 8


def test_langchains_standard_tests_have_the_same_verdicts(running: Running, vllm: str, tmp_path: Path) -> None:
    def run(name: str, url: str, key: str) -> dict[str, str]:
        report = tmp_path / f"{name}.xml"
        argv = [str(ENVIRONMENT / "bin" / "python"), "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
        argv += ["-c", "/dev/null", "--rootdir", str(tmp_path), "--junitxml", str(report), "-o", "asyncio_mode=auto"]
        for scope in ("test", "fixture"):  # the client keeps its connections between tests
            argv += ["-o", f"asyncio_default_{scope}_loop_scope=session"]
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SUITE_URL": url, "SUITE_KEY": key}
        argv.append(str(SUITES / "langchain_chat.py"))
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert report.exists(), done.stdout + done.stderr
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {str(case.get("name")): case[0].tag if len(case) else "passed" for case in cases}

    direct, through = run("direct", f"{vllm}/v1", "none"), run("gateway", running.base_url, running.api_key)
    others = {name: result for name, result in through.items() if result != "passed"}
    print(json.dumps(others, indent=1))
    assert through == direct
    assert sum(result == "passed" for result in through.values()) >= 20
    assert others.keys() <= listed("LangChain's standard tests: what does not pass")


def test_every_path_of_the_running_vllm_is_served_or_shut_off_on_purpose(running: Running, vllm: str) -> None:
    """A path that a new vLLM brings must be decided upon, here and on the page."""
    log = (ROOT / ".tidegate" / "logs" / "vllm.log").read_text()
    lines = re.findall(r"Route: (\S+), Methods: (.+)$", log, re.MULTILINE)
    table = {(method, path) for path, methods in lines for method in methods.split(", ") if method != "HEAD"}
    documented = http.get(f"{vllm}/openapi.json").json()["paths"].keys()
    assert documented <= {path for _, path in table} and len(table) > 25
    served = {(route.method, re.sub(r":\w+\}", "}", route.path)) for route in ROUTES} | {("GET", "/openapi.json")}
    shut = {
        (method, path) for entry in listed("Paths of vLLM that are shut off") for method, path in [entry.split(" ")]
    }
    assert table - served - shut == set(), "undecided"
    assert shut & served == set()
    headers, base = {"authorization": f"Bearer {running.api_key}"}, running.base_url.removesuffix("/v1")
    for method, path in sorted(shut):
        answer = http.request(
            method, base + path.replace("{response_id}", "resp_1"), headers=headers, json={"model": "smollm2"}
        )
        assert answer.status_code in (404, 405), (method, path, answer.text)


NINES = b"9" * 400
ABSURD = (
    b'"top_k":2147483648', b'"top_k":-2147483649', b'"seed":9223372036854775808',
    b'"max_tokens":' + NINES, b'"max_tokens":1e400', b'"max_tokens":-1', b'"seed":' + NINES, b'"temperature":1e999',
    b'"temperature":-1e999', b'"top_p":1e-999', b'"top_k":' + NINES, b'"presence_penalty":1e308', b'"n":0', b'"n":-1',
    b'"n":' + NINES, b'"stop_token_ids":[' + NINES + b"]", b'"logit_bias":{"99999999999999999999":1}', b'"min_tokens":-1',
    b'"logprobs":true,"top_logprobs":999999999', b'"prompt_logprobs":999999999', b'"truncate_prompt_tokens":' + NINES,
)  # fmt: skip


@pytest.mark.parametrize("field", ABSURD, ids=lambda field: field[:40].decode())
def test_absurd_numbers_are_the_callers_fault_and_hurt_nobody(running: Running, field: bytes) -> None:
    headers = {"authorization": f"Bearer {running.api_key}", "content-type": "application/json"}

    def post(more: bytes) -> Any:
        body = b'{"model":"smollm2","messages":[{"role":"user","content":"Hi"}],' + more + b"}"
        return http.post(f"{running.base_url}/chat/completions", content=body, headers=headers, timeout=60)

    answer = post(b'"max_completion_tokens":2,' + field)
    assert answer.status_code in (200, 400), answer.text
    assert answer.status_code == 200 or answer.json()["error"]["message"]
    assert post(b'"max_tokens":2').status_code == 200


@pytest.mark.parametrize("name", CASES)
def test_the_recorded_answers_are_still_what_vllm_says(vllm: str, name: str) -> None:
    golden = json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text())
    path, body = CASES[name]
    answer = http.post(f"{vllm}{path}", json={"model": "smollm2", **body}, timeout=120)
    assert (answer.status_code, answer.headers["content-type"]) == (golden["status"], golden["content_type"])

    def forms(text: str) -> list[Any]:
        events = re.findall(r"^data: (\{.*)$", text, re.MULTILINE) or [text]
        first, last = json.loads(events[0]), json.loads(events[-1])
        if "stream" in name:  # whether the last chunk carries text is a matter of timing
            last = without(last, "delta")
        return [shape(first), shape(last), text.rstrip().splitlines()[-1] == "data: [DONE]"]

    assert forms(answer.text) == forms(golden["body"])
