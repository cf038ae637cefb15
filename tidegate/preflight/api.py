"""The Kubernetes API, as whoever is logged in with `oc` or `kubectl` may see it.

The command line program brings what a client of our own would have to repeat: contexts, certificates, plug-ins for log-ins.
"""

import json
import shutil
import subprocess
from typing import Any, Protocol

from tidegate.errors import OperatorError

_PATIENCE_S = 20


class Forbidden(Exception):
    """The caller may not see it."""


class Cluster(Protocol):
    """What checks ask."""

    def get(self, path: str) -> dict[str, Any] | None:
        """The answer to a GET; None if there is no such thing.

        Raises:
            Forbidden: the caller may not see it.
            OperatorError: the API cannot be reached or is out of order.
        """
        ...

    def may_create(self, group: str, resource: str, namespace: str) -> bool:
        """Whether the caller may create one. Raises as `get` does."""
        ...


class CommandLine:
    """`oc`, or `kubectl` where there is no `oc`."""

    def __init__(self) -> None:
        found = shutil.which("oc") or shutil.which("kubectl")
        if found is None:
            raise OperatorError(
                "neither `oc` nor `kubectl` is installed; log in with one of them, or leave --manifests out"
            )
        self._program = found
        self._answers: dict[str, dict[str, Any] | None] = {}
        """What was asked once: some checks look at the same."""

    def get(self, path: str) -> dict[str, Any] | None:
        """See `Cluster`."""
        if path not in self._answers:
            try:
                self._answers[path] = self._run(["get", "--raw", path])
            except FileNotFoundError:
                self._answers[path] = None
        return self._answers[path]

    def may_create(self, group: str, resource: str, namespace: str) -> bool:
        """See `Cluster`."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "group": group,
                    "resource": resource,
                    "namespace": namespace,
                    "verb": "create",
                }
            },
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._run(["create", "--raw", path, "-f", "-"], json.dumps(review))["status"]["allowed"])

    def _run(self, arguments: list[str], given: str = "") -> dict[str, Any]:
        limit = f"--request-timeout={_PATIENCE_S}s"
        try:
            done = subprocess.run(  # noqa: S603 - a program of the operator's, with arguments of ours
                [self._program, *arguments, limit], input=given, capture_output=True, text=True, timeout=2 * _PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            raise OperatorError(f"{self._program} did not answer within {2 * _PATIENCE_S} s") from error
        said = done.stderr.strip()
        if "(NotFound)" in said:
            raise FileNotFoundError(said)
        if "(Forbidden)" in said:
            raise Forbidden(said)
        if done.returncode:
            raise OperatorError(
                f"the Kubernetes API does not answer: {(said or 'no reason given').splitlines()[-1][:300]}"
            )
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            raise OperatorError(f"{self._program} answered something that is not JSON") from error
        if not isinstance(answer, dict):
            raise OperatorError(f"{self._program} answered JSON that is no object")
        return answer
