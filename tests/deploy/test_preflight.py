"""`tidegate preflight`: what it says of clusters and services, by what they answer."""

import copy
import json
import os
import stat
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.deploy.charts import ROOT, merged, profile, render
from tidegate.cli import app
from tidegate.errors import ConfigError, OperatorError
from tidegate.preflight.api import CommandLine, Forbidden
from tidegate.preflight.finding import Finding, Status
from tidegate.preflight.plan import Plan, quantity
from tidegate.preflight.run import Targets, look
from tidegate.preflight.vllm import flags, metrics

RECORDED = yaml.safe_load((Path(__file__).parent / "preflight.yaml").read_text())
ANSWERS: dict[str, Any] = RECORDED["answers"]
CASES: list[dict[str, Any]] = RECORDED["cases"]
LLM = "/api/v1/namespaces/llm"
QUOTAS, LIMITS = f"{LLM}/resourcequotas", f"{LLM}/limitranges"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
NAMED_CLASS = {"knowledge": {"storage": {"storageClass": "fast"}}, "gateway": {"journal": {"storageClass": "fast"}}}


class Recorded:
    """A cluster that answers as it was told."""

    def __init__(self, answers: dict[str, Any], denied: tuple[str, ...] = ()) -> None:
        self._answers = answers
        self._denied = denied

    def get(self, path: str) -> dict[str, Any] | None:
        answer = self._answers.get(path)
        if answer == "hidden":
            raise Forbidden(path)
        return copy.deepcopy(answer)

    def may_create(self, group: str, resource: str, namespace: str) -> bool:
        assert namespace == "llm"
        return f"{resource}.{group}" not in self._denied


@cache
def manifests(name: str, more: str = "{}") -> str:
    """What `helm template` prints; `more` are values as JSON."""
    return yaml.dump_all(render(merged(profile(name), json.loads(more))), Dumper=yaml.CSafeDumper)


def looked(
    name: str,
    changes: dict[str, Any] | None = None,
    *,
    values: dict[str, Any] | None = None,
    denied: tuple[str, ...] = (),
) -> list[Finding]:
    answers = {**ANSWERS, **(changes or {})}
    return list(look(Targets(manifests(name, json.dumps(values or {})), "llm"), Recorded(answers, denied)))


def quota(**hard: str) -> dict[str, Any]:
    keys = {key.replace("__", "/").replace("_", "."): value for key, value in hard.items()}
    item = {"metadata": {"name": "compute"}, "spec": {"hard": keys}, "status": {"used": dict.fromkeys(keys, "0")}}
    return {QUOTAS: {"items": [item]}}


def limit(**more: Any) -> dict[str, Any]:
    item = {"metadata": {"name": "sizes"}, "spec": {"limits": [{"type": "Pod"}, {"type": "Container", **more}]}}
    return {LIMITS: {"items": [item]}}


@pytest.mark.parametrize("name", ["dev", "small", "ha", "airgap"])
def test_a_cluster_in_order_passes(name: str) -> None:
    found = looked(name)
    assert [each for each in found if each.status is not Status.OK] == []
    assert {"version", "namespace", "kinds", "permissions", "quota", "limits", "storage"} <= {
        each.check for each in found
    }


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
def test_what_is_wrong_is_said_with_what_to_do(case: dict[str, Any]) -> None:
    found = looked(case["profile"], case["answers"])
    matching = [each for each in found if each.check == case["check"] and case["said"] in each.what]
    assert [each.status for each in matching] == [case["status"]], [
        each for each in found if each.status is not Status.OK
    ]
    assert all(each.remedy for each in matching)
    assert {each.check for each in found if each.status is Status.FAILED} <= {case["check"]}


def test_a_class_that_is_named_must_be_there() -> None:
    assert all(each.status is Status.OK for each in looked("ha", values=NAMED_CLASS))
    found = looked("ha", {CLASSES: {"items": [{"metadata": {"name": "slow"}}]}}, values=NAMED_CLASS)
    assert [each.what for each in found if each.status is Status.FAILED] == ["there is no storage class fast"]


def test_what_may_not_be_created_is_named() -> None:
    found = looked("ha", denied=("roles.rbac.authorization.k8s.io", "secrets.", "routes.route.openshift.io"))
    (denied,) = [each.what for each in found if each.status is Status.FAILED]
    assert denied == "you may not create roles.rbac.authorization.k8s.io, routes.route.openshift.io, secrets"


def test_a_default_for_containers_answers_a_quota() -> None:
    answers = quota(limits_cpu="100") | limit(default={"cpu": "2"})
    assert all(each.status is Status.OK for each in looked("small", answers))


def test_an_upgrade_takes_what_the_release_has_already() -> None:
    tight = quota(requests_cpu="9300m", pods="9")
    used = {"requests.cpu": "9300m", "pods": "8"}
    tight[QUOTAS]["items"][0]["status"]["used"] = used
    assert any(each.status is Status.FAILED for each in looked("small", tight))
    running = [each for each in render(profile("small")) if each["kind"] in ("Deployment", "StatefulSet")]
    for kind in ("Deployment", "StatefulSet"):
        items = [each for each in running if each["kind"] == kind]
        tight[f"/apis/apps/v1/namespaces/llm/{kind.lower()}s"] = {"items": items}
    failed = [each.what for each in looked("small", tight) if each.status is Status.FAILED]
    assert failed == ["quota compute leaves 9.2 requests.cpu; 9.3 are needed"]  # the job that migrates is new


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        (3, "3"),
        ("1Gi", "1073741824"),
        ("1.5G", "1500000000"),
        ("1e3", "1000"),
        ("64Mi", "67108864"),
    ],
)
def test_quantities_are_numbers(text: object, number: str) -> None:
    assert quantity(text) == quantity(number) and str(float(quantity(text))) == str(float(number))


@pytest.mark.parametrize("text", ["", "many", "1Xi", "..", "-"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity(text)


def test_manifests_of_another_form_are_unknown_and_not_a_crash() -> None:
    odd = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\napiVersion: v1\nkind: Secret\n"
    found = list(look(Targets(odd, "llm"), Recorded(ANSWERS)))
    assert {each.status for each in found} == {Status.OK, Status.UNKNOWN}


@pytest.mark.parametrize("text", ["", "a: [b", "- 1", "just words", "---\n---\n"])
def test_manifests_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="manifests"):
        Plan.read(text)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (Targets(), "nothing to look at"),
        (Targets(manifests="kind: A\napiVersion: v1"), "--namespace"),
        (Targets(vllm_help="--model"), "--manifests says what is wanted"),
    ],
)
def test_what_cannot_be_looked_at_is_said(targets: Targets, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        list(look(targets, Recorded({})))


def test_options_that_vllm_does_not_know_are_named() -> None:
    wanted = Plan.read(manifests("ha")).vllm_flags
    assert {"--served-model-name", "--port", "--shutdown-timeout", "--tensor-parallel-size"} <= wanted
    known = "usage: vllm serve [options]\n  --model MODEL\n" + "\n".join(f"  {name} VALUE" for name in sorted(wanted))
    assert flags(wanted, known).status is Status.OK
    found = flags(wanted, known.replace("--shutdown-timeout", "--something"))
    assert found.status is Status.FAILED and "--shutdown-timeout" in found.what
    assert "not the help" in flags(wanted, "command not found").what


def test_metrics_that_a_version_of_vllm_does_not_emit_are_named() -> None:
    wanted = Plan.read(manifests("small")).vllm_metrics
    assert "vllm:kv_cache_usage_perc" in wanted and len(wanted) > 8
    scraped = "".join(f"# TYPE {name.removesuffix('_bucket')} gauge\n" for name in sorted(wanted))
    assert metrics(wanted, scraped, "here").status is Status.OK
    found = metrics(wanted, scraped.replace("kv_cache_usage_perc", "gpu_cache_usage_perc"), "here")
    assert found.status is Status.WARNING and found.what == "here does not emit vllm:kv_cache_usage_perc"


OC = """#!{python}
import json, sys
arguments = [each for each in sys.argv[1:] if not each.startswith("--request-timeout=")]
answers = json.load(open({answers!r}))
if arguments[:2] == ["create", "--raw"]:
    asked = json.load(sys.stdin)["spec"]["resourceAttributes"]
    assert arguments[2:] == ["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "-f", "-"] and asked["verb"] == "create"
    print(json.dumps({{"status": {{"allowed": asked["resource"] != "secrets"}}}}))
    sys.exit()
assert arguments[:2] == ["get", "--raw"]
path = arguments[2]
if path in {hidden!r}:
    sys.exit('Error from server (Forbidden): nodes is forbidden: User "dev" cannot list resource "nodes"')
if path in {broken!r}:
    sys.exit("Unable to connect to the server: dial tcp: lookup api.example.internal: no such host")
if path not in answers:
    sys.exit("Error from server (NotFound): the server could not find the requested resource")
print(json.dumps(answers[path]))
"""


def install_oc(folder: Path, monkeypatch: pytest.MonkeyPatch, hidden: list[str], broken: list[str]) -> None:
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    script = OC.format(python=sys.executable, answers=str(folder / "answers.json"), hidden=hidden, broken=broken)
    (folder / "oc").write_text(script)
    (folder / "oc").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_command_asks_the_cluster_that_oc_is_logged_in_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_oc(tmp_path, monkeypatch, ["/api/v1/nodes"], [])
    (tmp_path / "all.yaml").write_text(manifests("ha"))
    command = ["preflight", "--manifests", str(tmp_path / "all.yaml"), "-n", "llm"]
    done = CliRunner().invoke(app, [*command, "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 1 and not said["passed"]
    assert said["counts"] == {"ok": said["counts"]["ok"], "warning": 0, "unknown": 1, "failed": 1}
    assert {each["check"] for each in said["findings"] if each["status"] != "ok"} == {"permissions", "gpus"}
    shown = CliRunner().invoke(app, command).stdout
    assert "✗ permissions: you may not create secrets → ask for" in shown and "? gpus: you may not look" in shown
    assert "b3Blbi1zZXNhbWU" not in shown + done.stdout, "a secret's value was shown"
    done = CliRunner().invoke(app, ["preflight", "--manifests", "-", "-n", "llm"], input=manifests("small"))
    assert done.exit_code == 0 and "✓ permissions: you may create all of it" in done.stdout


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_oc(tmp_path, monkeypatch, [], ["/version"])
    with pytest.raises(OperatorError, match="the Kubernetes API does not answer: Unable to connect to the server"):
        list(look(Targets(manifests("small"), "llm")))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OperatorError, match="neither `oc` nor `kubectl`"):
        CommandLine()


def test_the_guide_names_every_check() -> None:
    guide = (ROOT / "docs" / "operations" / "install.md").read_text()
    found = {each.check for each in looked("ha")}
    assert not [check for check in sorted(found) if f"`{check}`" not in guide]
