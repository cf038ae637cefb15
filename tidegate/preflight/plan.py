"""What is to be installed, read from what `helm template` prints."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml

from tidegate.errors import ConfigError

Manifest = dict[str, Any]
Amounts = dict[str, Decimal]
"""By the names that quotas use, such as `requests.cpu`."""

_UNITS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FLAG = re.compile(r"--[a-z0-9][a-z0-9-]*")


def quantity(text: object) -> Decimal:
    """A Kubernetes quantity as a number: `500m` is 0.5, `1Gi` is 1073741824.

    Raises:
        ValueError: it is none.
    """
    found = _QUANTITY.fullmatch(str(text))
    try:
        if found is not None and found[2] in _BINARY:
            return Decimal(found[1]) * Decimal(1024) ** _BINARY[found[2]]
        if found is not None and found[2] in _UNITS:
            return Decimal(found[1]).scaleb(_UNITS[found[2]])
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is no quantity") from error
    raise ValueError(f"{text!r} is no quantity")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be created."""

    manifests: list[Manifest]

    @classmethod
    def read(cls, text: str) -> "Plan":
        """Out of YAML documents.

        Raises:
            ConfigError: it is not what `helm template` prints.
        """
        try:
            found = [document for document in yaml.load_all(text, _LOADER) if document]
        except yaml.YAMLError as error:
            raise ConfigError(f"the manifests are not YAML: {error}") from error
        if not found or not all(isinstance(item, dict) and "kind" in item and "apiVersion" in item for item in found):
            raise ConfigError("the manifests hold no Kubernetes objects; give what `helm template` prints")
        return cls(found)

    def of(self, *kinds: str) -> list[Manifest]:
        """All of these kinds."""
        return [item for item in self.manifests if item["kind"] in kinds]

    @property
    def kinds(self) -> dict[str, list[str]]:
        """API version to the kinds of it."""
        found: dict[str, set[str]] = {}
        for item in self.manifests:
            found.setdefault(item["apiVersion"], set()).add(item["kind"])
        return {version: sorted(kinds) for version, kinds in sorted(found.items())}

    @property
    def workloads(self) -> list[Manifest]:
        """What makes pods."""
        return self.of("Deployment", "StatefulSet", "Job")

    @property
    def pods(self) -> list[Manifest]:
        """A pod's specification per workload."""
        return [pod_of(item) for item in self.workloads]

    @property
    def containers(self) -> dict[str, Manifest]:
        """All of them, by `WORKLOAD/CONTAINER`."""
        return {
            f"{item['metadata']['name']}/{container['name']}": container
            for item in self.workloads
            for container in pod_of(item)["containers"]
        }

    def replicas(self, workload: Manifest, *, most: bool) -> int:
        """How many pods: as few or as many as what scales it allows."""
        for scaler in self.of("HorizontalPodAutoscaler", "ScaledObject"):
            spec = scaler["spec"]
            if spec["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
                found = spec.get("maxReplicas", spec.get("maxReplicaCount")) if most else None
                return int(found or spec.get("minReplicas", spec.get("minReplicaCount", 1)))
        return int(workload["spec"].get("replicas", 1))

    def amounts(self, *, most: bool) -> Amounts:
        """What all pods and claims take together."""
        return amounts((item, self.replicas(item, most=most)) for item in self.workloads)

    @property
    def claims(self) -> dict[str, int]:
        """Existing claims that are mounted: name to pods at the most."""
        found: Counter[str] = Counter()
        for item in self.workloads:
            for volume in pod_of(item).get("volumes", []):
                if "persistentVolumeClaim" in volume:
                    found[volume["persistentVolumeClaim"]["claimName"]] += self.replicas(item, most=True)
        return dict(found)

    @property
    def storage_classes(self) -> set[str]:
        """What new claims ask for; an empty string is the default one."""
        return {
            claim["spec"].get("storageClassName", "")
            for item in self.of("StatefulSet")
            for claim in item["spec"].get("volumeClaimTemplates", [])
        }

    @property
    def secrets(self) -> dict[str, set[str]]:
        """Secrets that must be there already: name to keys. Those that are part of the plan are left out."""
        made = {item["spec"]["target"]["name"] for item in self.of("ExternalSecret")}
        made |= {item["metadata"]["name"] for item in self.of("Secret")}
        found: dict[str, set[str]] = {}
        for pod in self.pods:
            for name, keys in _secrets_of(pod):
                if name not in made:
                    found.setdefault(name, set()).update(keys)
        return found

    @property
    def secret_stores(self) -> set[tuple[str, str]]:
        """Kind and name of what secrets are brought in from."""
        references = [item["spec"]["secretStoreRef"] for item in self.of("ExternalSecret")]
        return {(each.get("kind", "SecretStore"), each["name"]) for each in references}

    @property
    def services(self) -> set[str]:
        """Host names that the install itself makes."""
        return {item["metadata"]["name"] for item in self.of("Service")}

    @property
    def vllm_flags(self) -> set[str]:
        """Options that model servers are started with."""
        words = [
            word
            for each in self.containers.values()
            if each.get("command") == ["vllm", "serve"]
            for word in each["args"]
        ]
        return {found[0] for word in words if (found := FLAG.match(word))}

    @property
    def vllm_metrics(self) -> set[str]:
        """Metrics of model servers that dashboards and alerts ask for."""
        texts = [value for item in self.of("ConfigMap") for value in item.get("data", {}).values()]
        texts += [str(item["spec"]) for item in self.of("PrometheusRule")]
        return {name for text in texts for name in re.findall(r"vllm:[a-z0-9_]+", text)}


def pod_of(workload: Manifest) -> Manifest:
    """The specification of a workload's pods."""
    found: Manifest = workload["spec"]["template"]["spec"]
    return found


def amounts(workloads: Iterable[tuple[Manifest, int]]) -> Amounts:
    """What so many pods of each take, with their claims."""
    found: Amounts = defaultdict(Decimal)
    for item, replicas in workloads:
        found["pods"] += replicas
        for container in pod_of(item)["containers"]:
            for kind, values in container.get("resources", {}).items():
                for name, value in values.items():
                    found[f"{kind}.{name}"] += quantity(value) * replicas
        for claim in item["spec"].get("volumeClaimTemplates", []):
            size = quantity(claim["spec"]["resources"]["requests"]["storage"]) * replicas
            found["persistentvolumeclaims"] += replicas
            found["requests.storage"] += size
            if storage_class := claim["spec"].get("storageClassName"):
                found[f"{storage_class}.storageclass.storage.k8s.io/requests.storage"] += size
    return found


def _secrets_of(pod: Manifest) -> Iterator[tuple[str, set[str]]]:
    for volume in pod.get("volumes", []):
        sources = [each["secret"] for each in volume.get("projected", {}).get("sources", []) if "secret" in each]
        for source in sources:
            yield source["name"], {each["key"] for each in source.get("items", [])}
        if "secret" in volume:
            yield volume["secret"]["secretName"], {each["key"] for each in volume["secret"].get("items", [])}
    for container in pod["containers"]:
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], {reference["key"]}
    for reference in pod.get("imagePullSecrets", []):
        yield reference["name"], set()
