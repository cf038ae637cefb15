"""Whether there is room: quotas, limits for a container, storage, GPUs."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from tidegate.preflight.api import Cluster
from tidegate.preflight.finding import Finding, failed, ok, unknown, warning
from tidegate.preflight.plan import Amounts, Plan, amounts, quantity

_SHORT = {"cpu": "requests.cpu", "memory": "requests.memory"}
"""What quotas also write for these."""
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def quotas(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """What the namespace may still take is enough; what an installed release has already counts as free."""
    found = _items(cluster, f"/api/v1/namespaces/{namespace}/resourcequotas")
    if not found:
        yield ok("quota", "the namespace has no quota")
        return
    own = _installed(plan, cluster, namespace)
    least, most = plan.amounts(most=False), plan.amounts(most=True)
    defaults = _defaults(cluster, namespace)
    for quota in found:
        name, spec = quota["metadata"]["name"], quota["spec"]
        if spec.get("scopes") or spec.get("scopeSelector"):
            yield unknown(
                "quota", f"quota {name} counts some pods only", "see for yourself whether these are among them"
            )
            continue
        used = quota.get("status", {}).get("used", {})
        problems = list(_unset(plan, name, spec["hard"], defaults))
        for key, hard in sorted(spec["hard"].items()):
            wanted = _SHORT.get(key, key)
            left = quantity(hard) - quantity(used.get(key, 0)) + own.get(wanted, Decimal(0))
            problems += _too_little(name, wanted, left, least, most)
        yield from problems or [ok("quota", f"quota {name} leaves enough")]


def limit_ranges(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """No container asks for more than one may have."""
    problems: list[Finding] = []
    for item in _items(cluster, f"/api/v1/namespaces/{namespace}/limitranges"):
        for limit in item["spec"]["limits"]:
            if limit["type"] == "Container":
                problems += _beyond(plan, item["metadata"]["name"], limit.get("max", {}), limit.get("min", {}))
    yield from problems or [ok("limits", "no container is larger or smaller than the namespace allows")]


def storage(plan: Plan, cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """Classes of new claims exist, and so do the claims that are mounted."""
    for name, pods in sorted(plan.claims.items()):
        found = cluster.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
        modes = set((found or {}).get("spec", {}).get("accessModes", []))
        if found is None:
            yield failed("storage", f"there is no claim {name}", "make it and put the models' files on it")
        elif found.get("status", {}).get("phase") == "Lost":
            yield failed("storage", f"claim {name} has lost its volume", "restore it")
        elif pods > 1 and not modes & {"ReadOnlyMany", "ReadWriteMany"}:
            what = f"claim {name} is mounted by {pods} pods, but by those of one node only ({', '.join(sorted(modes))})"
            yield warning("storage", what, "use a volume that many nodes can read (ReadOnlyMany)")
        else:
            yield ok("storage", f"claim {name} is there")
    wanted = plan.storage_classes
    if not wanted:
        return
    classes = {each["metadata"]["name"]: each for each in _items(cluster, "/apis/storage.k8s.io/v1/storageclasses")}
    default = [
        name for name, each in classes.items() if each["metadata"].get("annotations", {}).get(_DEFAULT_CLASS) == "true"
    ]
    for name in sorted(wanted):
        if not name and not default:
            yield failed("storage", "there is no default storage class", "name one: `storageClass` in the values")
        elif name and name not in classes:
            has = ", ".join(sorted(classes)) or "none"
            yield failed("storage", f"there is no storage class {name}", f"the cluster has: {has}")
        else:
            yield ok("storage", f"storage class {name or default[0]} is there")


def gpus(plan: Plan, cluster: Cluster, _namespace: str) -> Iterator[Finding]:
    """Nodes have as many as are asked for, and as many together as one pod needs."""
    fewest, wanted = plan.amounts(most=False), plan.amounts(most=True)
    devices = {name.removeprefix("requests."): most for name, most in wanted.items() if _is_device(name)}
    if not devices:
        return
    nodes = [each.get("status", {}).get("allocatable", {}) for each in _items(cluster, "/api/v1/nodes")]
    for name, most in sorted(devices.items()):
        least = fewest[f"requests.{name}"]
        largest = max(amounts([(item, 1)]).get(f"requests.{name}", Decimal(0)) for item in plan.workloads)
        has = [quantity(node.get(name, 0)) for node in nodes]
        if max(has, default=Decimal(0)) < largest:
            what = f"one model needs {largest} {name} on a node; the best node has {max(has, default=0)}"
            yield failed(
                "gpus", what, "give the model fewer, or add a node; with none at all, install the GPU operator"
            )
        elif sum(has) < least:
            yield failed(
                "gpus", f"the models need {least} {name}; all nodes have {sum(has)}", "fewer replicas, or more nodes"
            )
        elif sum(has) < most:
            what = f"the models may scale to {most} {name}; all nodes have {sum(has)}"
            yield warning("gpus", what, "pods beyond that will wait")
        else:
            yield ok("gpus", f"nodes have {sum(has)} {name}, whoever uses them; the models take {least} to {most}")


def _items(cluster: Cluster, path: str) -> list[dict[str, Any]]:
    return list((cluster.get(path) or {}).get("items", []))


def _is_device(name: str) -> bool:
    return name.startswith("requests.") and "/" in name


def _installed(plan: Plan, cluster: Cluster, namespace: str) -> Amounts:
    """What workloads of the same names take now."""
    names = {item["metadata"]["name"] for item in plan.workloads}
    found = [
        item
        for resource in ("deployments", "statefulsets")
        for item in _items(cluster, f"/apis/apps/v1/namespaces/{namespace}/{resource}")
    ]
    return amounts((item, int(item["spec"].get("replicas", 1))) for item in found if item["metadata"]["name"] in names)


def _defaults(cluster: Cluster, namespace: str) -> set[str]:
    """What containers are given that do not say: `limits.cpu` and the like."""
    limits = [
        limit
        for item in _items(cluster, f"/api/v1/namespaces/{namespace}/limitranges")
        for limit in item["spec"]["limits"]
        if limit["type"] == "Container"
    ]
    found = {f"limits.{name}" for limit in limits for name in limit.get("default", {})}
    return found | {f"requests.{name}" for limit in limits for name in limit.get("defaultRequest", {})}


def _unset(plan: Plan, quota: str, hard: dict[str, Any], defaults: set[str]) -> Iterator[Finding]:
    """A quota on what a container does not name refuses its pod."""
    for key in sorted(_SHORT.get(key, key) for key in hard):
        kind, _, name = key.partition(".")
        if kind not in ("requests", "limits") or name not in ("cpu", "memory") or key in defaults:
            continue
        silent = [
            each for each, found in plan.containers.items() if name not in found.get("resources", {}).get(kind, {})
        ]
        if silent:
            what = f"quota {quota} wants {key} from every container; {', '.join(sorted(silent))} do not give it"
            yield failed("quota", what, "set it under `resources` in the values, or a default by a LimitRange")


def _too_little(quota: str, key: str, left: Decimal, least: Amounts, most: Amounts) -> Iterator[Finding]:
    if least.get(key, Decimal(0)) > left:
        what = f"quota {quota} leaves {_shown(left)} {key}; {_shown(least[key])} are needed"
        yield failed("quota", what, "ask for a larger quota, or take less: replicas and `resources` in the values")
    elif most.get(key, Decimal(0)) > left:
        what = f"quota {quota} leaves {_shown(left)} {key}; scaled to the most, {_shown(most[key])} are needed"
        yield warning("quota", what, "scaling will stop there")


def _beyond(plan: Plan, name: str, most: dict[str, Any], least: dict[str, Any]) -> Iterator[Finding]:
    for shown, container in plan.containers.items():
        for kind, values in container.get("resources", {}).items():
            for resource, value in values.items():
                if resource in most and quantity(value) > quantity(most[resource]):
                    what = f"{shown} {kind} {value} {resource}; limit range {name} allows {most[resource]}"
                    yield failed("limits", what, "take less under `resources` in the values")
                if resource in least and quantity(value) < quantity(least[resource]):
                    what = f"{shown} {kind} {value} {resource}; limit range {name} wants {least[resource]}"
                    yield failed("limits", what, "give more under `resources` in the values")


def _shown(amount: Decimal) -> str:
    """Bytes as people write them."""
    for unit, size in (("Gi", 2**30), ("Mi", 2**20)):
        if abs(amount) >= size:
            return f"{round(amount / size, 1):f}".removesuffix(".0") + unit
    return f"{amount.normalize():f}"
