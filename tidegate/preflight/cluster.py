"""Whether the cluster has what the manifests ask for, and lets the caller install it."""

from collections.abc import Callable, Iterator

import yaml

from tidegate.preflight.api import Cluster, Forbidden
from tidegate.preflight.capacity import gpus, limit_ranges, quotas, storage
from tidegate.preflight.finding import Finding, failed, ok, unknown, warning
from tidegate.preflight.plan import Plan

_OLDEST = (1, 27)
"""Minor version of Kubernetes that the chart names."""
_INSTEAD = {
    "route.openshift.io": "this is no OpenShift: set `route.enabled: false`, and `httpRoute` if there is a Gateway",
    "gateway.networking.k8s.io": "install the Gateway API, or set `httpRoute.enabled: false`",
    "monitoring.coreos.com": "install the Prometheus operator, or set `monitoring.enabled: false`",
    "keda.sh": "install the Custom Metrics Autoscaler, or set `autoscaling.type` to hpa or none",
    "external-secrets.io": "install the External Secrets Operator, or make the Secrets and set `externalSecrets.enabled: false`",
}


def look(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """Every check, in the order in which an install would fail."""
    checks: list[tuple[str, Callable[[Plan, Cluster, str], Iterator[Finding]]]] = [
        ("version", version),
        ("namespace", project),
        ("kinds", kinds),
        ("permissions", permissions),
        ("secrets", secrets),
        ("quota", quotas),
        ("limits", limit_ranges),
        ("storage", storage),
        ("gpus", gpus),
        ("monitoring", monitoring),
    ]
    for name, check in checks:
        try:
            yield from check(plan, cluster, namespace)
        except Forbidden:
            yield unknown(
                name, "you may not look at what this depends on", "ask somebody who may, with the same command"
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"the cluster or the manifests say something of another form ({type(error).__name__}: {error})"
            yield unknown(name, what[:200], "see for yourself")


def version(_plan: Plan, cluster: Cluster, _namespace: str) -> Iterator[Finding]:
    """Kubernetes is new enough."""
    found = cluster.get("/version") or {}
    shown = str(found.get("gitVersion", "of an unknown version"))
    number = tuple(int("".join(filter(str.isdigit, str(found.get(part, 0)))) or 0) for part in ("major", "minor"))
    if number < _OLDEST:
        yield failed("version", f"Kubernetes is {shown}", f"the chart needs {_OLDEST[0]}.{_OLDEST[1]} or later")
    else:
        yield ok("version", f"Kubernetes is {shown}")


def project(_plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """The namespace is there, alive, and gives pods a user of their own."""
    found = cluster.get(f"/api/v1/namespaces/{namespace}")
    if found is None:
        yield failed("namespace", f"there is no namespace {namespace}", f"`oc new-project {namespace}`")
    elif found.get("status", {}).get("phase") != "Active":
        yield failed("namespace", f"namespace {namespace} is being deleted", "wait until it is gone, and make it again")
    elif "openshift.io/sa.scc.uid-range" not in found["metadata"].get("annotations", {}):
        what = f"namespace {namespace} gives pods no user: this is no OpenShift, or the namespace was made around it"
        yield warning("namespace", what, "where pods run as root by default they are refused: set a user by policy")
    else:
        yield ok("namespace", f"namespace {namespace} is there")


def kinds(plan: Plan, cluster: Cluster, _namespace: str) -> Iterator[Finding]:
    """The cluster knows every kind of object."""
    for api_version, wanted in plan.kinds.items():
        missing = sorted(set(wanted) - _resources(cluster, api_version).keys())
        if missing:
            remedy = _INSTEAD.get(api_version.partition("/")[0], "install what brings it, or turn it off in the values")
            yield failed("kinds", f"the cluster does not know {', '.join(missing)} of {api_version}", remedy)
        else:
            yield ok("kinds", f"{api_version}: {', '.join(wanted)}")


def permissions(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """The caller may create every kind of object."""
    denied = []
    for api_version, wanted in plan.kinds.items():
        resources = _resources(cluster, api_version)
        group = api_version.rpartition("/")[0]
        for kind in wanted:
            if kind in resources and not cluster.may_create(group, resources[kind], namespace):
                denied.append(f"{resources[kind]}.{group}".rstrip("."))
    if denied:
        remedy = f"ask for the role `admin` in {namespace}, and `monitoring-edit` for monitors and rules"
        yield failed("permissions", f"you may not create {', '.join(denied)}", remedy)
    else:
        yield ok("permissions", "you may create all of it")


def secrets(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """What the manifests read from Secrets is there; of the values nothing is looked at."""
    for name, keys in sorted(plan.secrets.items()):
        found = cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        missing = sorted(keys - (found or {}).get("data", {}).keys())
        if found is None:
            yield failed(
                "secrets", f"there is no Secret {name}", "make it, as the installation guide says under Secrets"
            )
        elif missing:
            yield failed("secrets", f"Secret {name} has no {', '.join(missing)}", "add what is missing")
        else:
            yield ok("secrets", f"Secret {name} has what is needed")
    for kind, name in sorted(plan.secret_stores):
        where = "clustersecretstores" if kind == "ClusterSecretStore" else f"namespaces/{namespace}/secretstores"
        found = cluster.get(f"/apis/external-secrets.io/v1/{where}/{name}")
        conditions = {each["type"]: each["status"] for each in (found or {}).get("status", {}).get("conditions", [])}
        if conditions.get("Ready") != "True":
            state = "is not there" if found is None else "is not ready"
            yield failed("secrets", f"{kind} {name} {state}", "make it work first: pods wait for the Secrets")
        else:
            yield ok("secrets", f"{kind} {name} is ready")


def monitoring(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """What is scraped and evaluated in user namespaces includes this one."""
    if not plan.of("ServiceMonitor", "PodMonitor", "PrometheusRule"):
        return
    labels = ((cluster.get(f"/api/v1/namespaces/{namespace}") or {}).get("metadata", {})).get("labels", {})
    if labels.get("openshift.io/user-monitoring") == "false":
        remedy = f"`oc label namespace {namespace} openshift.io/user-monitoring-`"
        yield failed(
            "monitoring", f"namespace {namespace} is left out by its label openshift.io/user-monitoring", remedy
        )
        return
    if labels.get("openshift.io/cluster-monitoring") == "true":
        what = f"namespace {namespace} is the platform's by its label openshift.io/cluster-monitoring"
        yield failed("monitoring", what, f"`oc label namespace {namespace} openshift.io/cluster-monitoring-`")
        return
    if cluster.get("/api/v1/namespaces/openshift-monitoring") is None:
        remedy = f"see that your Prometheus takes monitors and rules of namespace {namespace}"
        yield warning("monitoring", "this is not OpenShift's monitoring", remedy)
        return
    found = cluster.get("/api/v1/namespaces/openshift-monitoring/configmaps/cluster-monitoring-config") or {}
    try:
        settings = yaml.safe_load(found.get("data", {}).get("config.yaml", "")) or {}
    except yaml.YAMLError:
        settings = {}
    if not settings.get("enableUserWorkload"):
        remedy = "set `enableUserWorkload: true` in cluster-monitoring-config; until then no alert fires and KEDA sees nothing"
        yield failed("monitoring", "monitoring of user projects is off", remedy)
    else:
        yield ok("monitoring", f"monitoring of user projects is on, and namespace {namespace} takes part")


def _resources(cluster: Cluster, api_version: str) -> dict[str, str]:
    """Kind to the name of its resource."""
    path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    found = (cluster.get(path) or {}).get("resources", [])
    return {each["kind"]: each["name"] for each in found if "/" not in each["name"]}
