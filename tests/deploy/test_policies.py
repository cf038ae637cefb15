"""The policy pack: what the chart renders keeps to it, and each rule is seen to refuse something."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from regopy import Interpreter

from tests.deploy.charts import PROFILES, ROOT, merged, profile, render

PACK = ROOT / "deploy" / "openshift" / "policies" / "security.rego"
Objects = list[dict[str, Any]]


def denied(objects: Objects) -> list[str]:
    engine = Interpreter()
    engine.add_module("security", PACK.read_text())
    engine.set_input_term(json.dumps(objects))
    ((sentences,),) = [result.expressions for result in engine.query("data.tidegate.security.deny").results]
    return sorted(str(sentence) for sentence in sentences)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_keeps_to_every_policy(name: str) -> None:
    for hook in (True, False):
        assert denied(render(merged(profile(name), {"migrations": {"asHook": hook}}))) == []


def of(kind: str, name: str = "") -> Callable[[Objects], dict[str, Any]]:
    return lambda objects: next(d for d in objects if d["kind"] == kind and d["metadata"]["name"].startswith(name))


gateway, route, service = of("Deployment", "tidegate-gateway"), of("Route"), of("Service", "tidegate-gateway")


def pod(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = gateway(objects)["spec"]["template"]["spec"]
    return found


def container(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = pod(objects)["containers"][0]
    return found


def role(rule: dict[str, Any], kind: str = "Role") -> dict[str, Any]:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "r"}, "rules": [rule]}


SECRET = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
WRONGS: dict[str, Callable[[Objects], Any]] = {
    "must say runAsNonRoot": lambda o: pod(o)["securityContext"].pop("runAsNonRoot"),
    "seccomp profile": lambda o: pod(o)["securityContext"]["seccompProfile"].update(type="Unconfined"),
    "runAsUser is for the platform": lambda o: container(o)["securityContext"].update(runAsUser=0),
    "fsGroup is for the platform": lambda o: pod(o)["securityContext"].update(fsGroup=1),
    "hostNetwork shares": lambda o: pod(o).update(hostNetwork=True),
    "of a kind that is not allowed": lambda o: pod(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "must not gain rights": lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation"),
    "is privileged": lambda o: container(o)["securityContext"].update(privileged=True),
    "must drop all": lambda o: container(o)["securityContext"]["capabilities"].update(add=["NET_RAW"]),
    "must be read-only": lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False),
    "named by digest": lambda o: container(o).update(image="tidegate/gateway:latest"),
    "limit its memory": lambda o: container(o)["resources"].pop("limits"),
    "has no size": lambda o: pod(o)["volumes"].append({"name": "x", "emptyDir": {}}),
    "takes a secret from the environment": lambda o: container(o).update(env=[SECRET]),
    "where every child": lambda o: container(o).update(envFrom=[{"secretRef": {"name": "s"}}]),
    "needs the token": lambda o: pod(o).pop("automountServiceAccountToken"),
    "the default account": lambda o: pod(o).pop("serviceAccountName"),
    "not from outside by itself": lambda o: service(o)["spec"].update(type="NodePort"),
    "by TLS alone": lambda o: route(o)["spec"]["tls"].update(insecureEdgeTerminationPolicy="Allow"),
    "and no secrets": lambda o: o.append(role({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})),
    "rights outside": lambda o: o.append(
        role({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}, "ClusterRole")
    ),
    "no network policy denies": lambda o: of("NetworkPolicy", "tidegate-deny")(o)["spec"].update(ingress=[{}]),
}


@pytest.mark.parametrize("sentence", WRONGS)
def test_every_policy_refuses_something(sentence: str) -> None:
    objects = copy.deepcopy(render(profile("small")))
    WRONGS[sentence](objects)
    assert [found for found in denied(objects) if sentence in found], denied(objects)


def test_every_policy_has_its_case() -> None:
    """As many as the pack has rules: none is there that was never seen to refuse."""
    assert PACK.read_text().count("\ndeny contains ") == len(WRONGS) - 1, "runAsUser and fsGroup are one rule"
