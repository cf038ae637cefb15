"""Other people's eyes: schemathesis makes requests out of our OpenAPI page, and none of them ends in a 500."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agents_stand import Bench, says
from tests.knowledge_stand import Knowledge
from tests.stand import Fake

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]
SCHEMATHESIS = Path(sys.executable).parents[2] / ".venv-conformance" / "bin" / "schemathesis"


@pytest.fixture
def bench(tmp_path: Path, fake: Fake, knowledge: Knowledge) -> Any:
    made = Bench(tmp_path, fake, knowledge)
    yield made
    made.script(says("nothing"))
    made.script()
    made.close()


def test_no_request_made_from_our_openapi_page_ends_in_a_500(bench: Bench) -> None:
    argv = [SCHEMATHESIS, "run", f"{bench.gateway.url}/openapi.json", "--checks", "not_a_server_error"]
    argv += ["--header", f"Authorization: Bearer {bench.gateway.key}", "--seed", "1", "--max-examples", "5"]
    argv += ["--phases", "examples,coverage,fuzzing", "--no-shrink", "--request-timeout", "20", "--no-color"]
    argv += ["--warnings", "off", "--generation-deterministic", "--continue-on-failure", "--max-time", "90"]
    done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=300)
    print(done.stdout[-6000:])
    defects = [
        line
        for part in (bench.gateway.process, bench.process)
        for line in part.text().splitlines()
        if '"defect"' in line
    ]
    assert defects == []
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
