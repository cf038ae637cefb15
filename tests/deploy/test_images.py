"""The images' build file: it lints, it names what is there, and what it leaves out stays out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.charts import ROOT, profile, render

CONTAINERFILE = ROOT / "deploy" / "openshift" / "Containerfile"
KINDS = ("gateway", "knowledge", "agents", "mcp")


def test_the_containerfile_lints() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, str(CONTAINERFILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_everything_it_copies_is_there() -> None:
    text = CONTAINERFILE.read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert [kind for kind in KINDS if not (ROOT / source.replace("${KIND}", kind)).exists()] == []


def test_packages_come_by_hash_and_the_last_stage_installs_nothing() -> None:
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install [^;&\n]+", text)
    by_hash = [line for line in installs if "--require-hashes" in line]
    assert len(by_hash) == 2 and len(installs) == 4, "besides: torch, and our own wheel without dependencies"
    last = text[text.rindex("\nFROM ") :]
    assert "RUN" not in last and re.search(r"^USER [1-9]", last, re.MULTILINE)
    assert not re.search(r"@sha256|:latest|FROM [a-z]+[./]", text), "bases are the build's to name"


def test_the_chart_takes_an_image_of_every_kind() -> None:
    containers = [
        container
        for document in render(profile("ha"))
        for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    ]
    images = {container["image"].partition("@")[0] for container in containers}
    assert images == {f"tidegate/{kind}" for kind in KINDS} | {"vllm/vllm-openai"}


@pytest.mark.parametrize("kind", ["gateway", "agents", "mcp"])
def test_only_the_knowledge_image_has_torch_and_a_vector_engine(kind: str) -> None:
    lock = (ROOT / "requirements" / f"{kind}.lock").read_text()
    assert not re.search(r"^(torch|transformers|sentence-transformers|qdrant-edge-py)==", lock, re.MULTILINE)
