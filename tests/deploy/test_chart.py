"""The chart renders in every profile, to what Kubernetes takes and restricted-v2 allows; a wrong value stops with a sentence."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from helm_python import HelmError, lint

from tests.deploy import upgrades
from tests.deploy.charts import CHART, ELSEWHERE, NEEDED, PROFILES, configurations, merged, pod_of, profile, render
from tidegate.config.load import load
from tidegate.telemetry.names import METRICS

SCHEMAS = Path(__file__).parent / "schemas"
"""Of kinds that are not Kubernetes's own: as far as the chart uses them, and no further."""


def test_the_chart_lints() -> None:
    assert lint(str(CHART), NEEDED)["errors"] == []


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_what_kubernetes_takes(name: str) -> None:
    found = render(profile(name))
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    assert len(set(names)) == len(names) > 15
    for document in found:
        if document["apiVersion"].startswith(ELSEWHERE):
            jsonschema.validate(document, json.loads((SCHEMAS / f"{document['kind']}.json").read_text()))
        else:
            kubernetes_validate.validate(document, "1.31", strict=True)


def test_a_gateway_of_the_gateway_api_may_stand_before_it() -> None:
    values = merged(
        profile("small"),
        {
            "route": {"enabled": False},
            "httpRoute": {"enabled": True, "hostnames": ["llm.example.internal"], "parentRefs": [{"name": "front"}]},
        },
    )
    found = [document for document in render(values) if document["kind"] in ("Route", "HTTPRoute")]
    assert [document["kind"] for document in found] == ["HTTPRoute"]
    jsonschema.validate(found[0], json.loads((SCHEMAS / "HTTPRoute.json").read_text()))


def test_migrations_may_be_a_job_like_any_other() -> None:
    first = render(merged(profile("small"), {"migrations": {"asHook": False}}))
    second = render(
        merged(profile("small"), {"migrations": {"asHook": False}, "settings": {"relay": {"idle_timeout_s": 7}}})
    )
    jobs = [next(d for d in found if d["kind"] == "Job") for found in (first, second)]
    assert all("annotations" not in job["metadata"] for job in jobs)
    assert jobs[0]["metadata"]["name"] != jobs[1]["metadata"]["name"], "a job cannot be changed"
    kubernetes_validate.validate(jobs[0], "1.31", strict=True)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_s_configuration_is_valid(name: str, tmp_path: Path) -> None:
    found = configurations(profile(name))
    assert found["tidegate"] == found["tidegate-migrations"], "what is applied is what is served"
    config = tmp_path / "tidegate.yaml"
    config.write_text(found["tidegate"])
    document = load(config).document
    models = {model.name for model in document.resources.models}
    assert models == {"all-minilm-l6-v2"} | {model["name"] for model in profile(name).get("models", [])}
    assert document.settings.gateway.management_port == 9090


@pytest.mark.parametrize("name", PROFILES)
def test_every_pod_is_what_restricted_v2_allows(name: str) -> None:
    pods = [pod for document in render(profile(name)) if (pod := pod_of(document))]
    assert len(pods) >= 5
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "@sha256:" in container["image"] and container["resources"]["requests"]
            assert container["command"], "what runs is said here, not in the image"


@pytest.mark.parametrize("name", PROFILES)
def test_a_process_sees_no_secret_but_its_own(name: str) -> None:
    for document in render(profile(name)):
        pod, component = pod_of(document), document["metadata"]["labels"]["app.kubernetes.io/component"]
        if pod is None:
            continue
        sources = [s["secret"] for v in pod["volumes"] if "projected" in v for s in v["projected"]["sources"]]
        seen = {item["path"] for secret in sources for item in secret["items"]}
        assert ("identity_private.json" in seen) == ("key_pepper" in seen) == (component == "gateway")
        assert ("database_password" in seen) == (component in ("gateway", "knowledge", "agents", "migrations"))
        assert ("redis_password" in seen) == ("redis_ca.crt" in seen) == (component == "gateway" and name == "ha")


@pytest.mark.parametrize("name", PROFILES)
def test_a_process_has_longer_than_it_takes_at_most(name: str) -> None:
    values = merged({"gateway": {"drainDelaySeconds": 15, "shutdownGraceSeconds": 60}}, profile(name))["gateway"]
    (pod,) = [
        pod_of(d)
        for d in render(profile(name))
        if d["metadata"]["name"] == "tidegate-gateway" and d["kind"] in ("Deployment", "StatefulSet")
    ]
    assert pod is not None
    assert pod["terminationGracePeriodSeconds"] >= values["drainDelaySeconds"] + values["shutdownGraceSeconds"] + 20


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"gateways": {}}, "additional properties 'gateways' not allowed"),
        ({"gateway": {"replica": 2}}, "'/gateway': additional properties 'replica' not allowed"),
        ({"gateway": {"replicas": "two"}}, "'/gateway/replicas'"),
        ({"images": {"gateway": {"digest": "latest"}}}, "'/images/gateway/digest': 'latest' does not match"),
        ({"images": {"vllm": {"tag": "latest"}}}, "'/images/vllm': additional properties 'tag'"),
        ({"database": {"url": "postgresql+asyncpg://user:secret@host/name"}}, "'/database/url'"),
        ({"models": [{"name": "llama"}]}, "missing properties 'source', 'claim'"),
        ({"images": {"gateway": {"digest": ""}}}, "images.gateway.digest is not set: images are taken by digest only"),
        ({"database": {"url": ""}}, "database.url is not set: postgresql+asyncpg://"),
        ({"monitoring": {"slo": {"firstTokenSeconds": 3}}}, "'/monitoring/slo/firstTokenSeconds'"),
        ({"gateway": {"autoscaling": {"type": "cpu"}}}, "'/gateway/autoscaling/type'"),
        ({"route": {"host": ""}}, "route.host is not set: the name that callers use"),
        ({"externalSecrets": {"enabled": True}}, "externalSecrets.store.name is not set"),
        ({"redis": {"url": "redis://:secret@redis:6379"}}, "'/redis/url'"),
        ({"redis": {"url": "redis://redis:6379", "caKey": "ca.crt"}}, "redis.existingSecret is not set"),
    ],
)
def test_a_wrong_value_stops_with_a_sentence(wrong: dict[str, Any], sentence: str) -> None:
    values = merged(merged(NEEDED, {"models": [{"name": "m", "source": "/models/m", "claim": "models"}]}), wrong)
    with pytest.raises(HelmError) as error:
        render(values)
    assert sentence in str(error.value)


def test_the_route_gives_long_answers_their_time() -> None:
    (route,) = [document for document in render(profile("small")) if document["kind"] == "Route"]
    annotations = route["metadata"]["annotations"]
    assert annotations["haproxy.router.openshift.io/timeout"] == "10m"
    assert annotations["haproxy.router.openshift.io/balance"] == "leastconn"
    assert annotations["haproxy.router.openshift.io/disable_cookies"] == "true"
    assert route["spec"]["tls"]["termination"] == "edge"


def test_several_workers_share_their_limits(tmp_path: Path) -> None:
    values = merged(profile("small"), {"gateway": {"workers": 2}, "settings": {"relay": {"comment_after_s": 5}}})
    config = tmp_path / "tidegate.yaml"
    config.write_text(configurations(values)["tidegate"])
    settings = load(config).document.settings
    assert settings.limits.store == "shared" and settings.relay.comment_after_s == 5


def test_gateways_share_their_limits_where_there_is_a_redis(tmp_path: Path) -> None:
    peers = [{"ipBlock": {"cidr": "192.0.2.7/32"}}]
    values = merged(profile("ha"), {"gateway": {"workers": 2}, "redis": {"username": "gateways", "peers": peers}})
    config = tmp_path / "tidegate.yaml"
    config.write_text(configurations(values)["tidegate"])
    limits = load(config).document.settings.limits
    assert (limits.store, limits.processes) == ("redis", 6), "three pods at the least, of two workers"
    assert limits.redis.username == "gateways" and str(limits.redis.ca_file) == "/run/secrets/tidegate/redis_ca.crt"
    out = {d["metadata"]["name"]: d["spec"]["egress"] for d in render(values) if "egress" in d.get("spec", {})}
    allowed = {
        name
        for name, rules in out.items()
        if {"protocol": "TCP", "port": 6379} in [p for r in rules for p in r["ports"]]
    }
    assert allowed == {"tidegate-gateway"}
    assert {"ports": [{"protocol": "TCP", "port": 6379}], "to": peers} in out["tidegate-gateway"]
    secrets = {d["metadata"]["name"]: d["spec"]["dataFrom"] for d in render(values) if d["kind"] == "ExternalSecret"}
    assert secrets["tidegate-redis"] == [{"extract": {"key": "tidegate/redis"}}]


def test_nothing_enters_or_leaves_but_what_is_named() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in render(profile("small")) if d["kind"] == "NetworkPolicy"}
    deny = policies["tidegate-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in deny and "egress" not in deny
    model = policies["tidegate-model-llama-8b"]
    assert model["egress"] == []
    callers = model["ingress"][0]["from"]
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in callers] == ["gateway"]
    management = [rule for rule in policies["tidegate-gateway"]["ingress"] if rule["ports"][0]["port"] == 9090]
    assert [set(peer) for rule in management for peer in rule["from"]] == [{"namespaceSelector"}] * 2


def test_keda_scales_by_what_the_gateway_emits_and_nothing_else_sets_the_number() -> None:
    found = render(profile("ha"))
    scaled = {d["spec"]["scaleTargetRef"]["name"]: d["spec"] for d in found if d["kind"] == "ScaledObject"}
    assert set(scaled) == {"tidegate-gateway", "tidegate-model-llama-8b"}
    emitted = {metric.name for metric in METRICS if metric.kind == "gauge"}
    queries = [trigger["metadata"]["query"] for spec in scaled.values() for trigger in spec["triggers"]]
    assert len(queries) == 3 and {re.findall(r"tidegate\w+", query)[0] for query in queries} <= emitted
    for document in found:
        name = document["metadata"]["name"]
        if document["kind"] in ("Deployment", "StatefulSet"):
            assert ("replicas" in document["spec"]) == (name not in scaled), name
            if name in scaled:
                assert scaled[name]["scaleTargetRef"]["kind"] == document["kind"]


def test_only_what_scales_needs_the_right_to_read_figures() -> None:
    kinds = {"Role", "RoleBinding", "TriggerAuthentication", "Secret"}
    assert not kinds & {document["kind"] for document in render(profile("small"))}
    found = [document for document in render(profile("ha")) if document["kind"] in kinds]
    assert {document["kind"] for document in found} == kinds
    assert "data" not in next(d for d in found if d["kind"] == "Secret"), "Kubernetes makes the token"


@pytest.mark.parametrize("name", PROFILES)
def test_an_upgrade_from_the_last_release_changes_nothing_that_cannot_be_changed(name: str) -> None:
    released = json.loads(upgrades.RELEASED.read_text())
    newest = max(released, key=lambda version: [int(part) for part in version.split(".")])
    before, now = released[newest][name], upgrades.fixed(render(profile(name)))
    assert len(before) >= 5 and upgrades.changed(before, now) == []


def test_an_upgrade_that_would_fail_is_noticed() -> None:
    before = upgrades.fixed(render(profile("ha")))
    now = json.loads(json.dumps(before).replace('"app.kubernetes.io/component": "gateway"', '"app": "gateway"'))
    del now["StatefulSet/tidegate-knowledge"], now["Deployment/tidegate-agents"]
    now["Service/tidegate-model-llama-8b"]["clusterIP"] = ""
    assert [line.split()[0] for line in upgrades.changed(before, now)] == [
        "Service/tidegate-model-llama-8b",
        "StatefulSet/tidegate-gateway",
        "StatefulSet/tidegate-knowledge",
    ]
