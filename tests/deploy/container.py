"""Starts containers as manifests describe them and restricted-v2 confines them, with what Linux itself has: for tests, as root.

A container sees a root of its own, read-only: the system's libraries and programs, what the image would hold, its volumes, and
nothing else, no home and no writable place that no volume is. It is process 1 of its process namespace, its user is one that
nobody knows, its group is 0, it has no capability and can gain none. `python -m tests.deploy.container FOLDER` reads a plan
from standard input, runs it in a network namespace that has loopback alone, and prints what happened; see `run`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.operations.postgres import OwnPostgres
from tests.stand import http

USER = 1_000_770_000
"""As OpenShift gives one to a project; also the group of its volumes."""
SYSTEM = ("bin", "lib", "lib64", "sbin", "usr")
ETC = ("group", "ld.so.cache", "nsswitch.conf", "passwd")
DEVICES = ("full", "null", "random", "urandom", "zero")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def bind(source: Path, target: Path, *, read_only: bool = True) -> None:
    """Makes `source` visible at `target`, which is made."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", str(source), str(target))
    if read_only:
        mount("-o", "remount,bind,ro,nosuid", str(target))


class Container:
    """The only container of `pod`, with `files` (by the name of a ConfigMap or Secret) and the image's environment."""

    def __init__(self, folder: Path, pod: dict[str, Any], plan: dict[str, Any]) -> None:
        self.root, self._plan = folder / "root", plan
        (self.spec,) = pod["containers"]
        self._volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        self.grace_s = pod.get("terminationGracePeriodSeconds", 30)
        self.root.mkdir()
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self.root))
        self._make_system()
        for mounted in self.spec.get("volumeMounts", []):
            self._make_volume(mounted, self.root / mounted["mountPath"].lstrip("/"))
        for path in plan["image"]["paths"]:  # last: a checkout may lie below /tmp, which is a volume
            bind(Path(path), self.root / path.lstrip("/"))
        mount("-o", "remount,ro", str(self.root))
        self.env = {**plan["image"]["env"], **{item["name"]: item["value"] for item in self.spec.get("env", [])}}

    def _make_system(self) -> None:
        for name in SYSTEM:
            source = Path("/") / name
            if source.is_symlink():
                (self.root / name).symlink_to(source.readlink())
            elif source.is_dir():
                bind(source, self.root / name)
        for name in ETC:
            bind(Path("/etc") / name, self.root / "etc" / name)
        hosts = self.root / "etc" / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self._plan["hosts"])))
        for name in DEVICES:
            bind(Path("/dev") / name, self.root / "dev" / name, read_only=False)
        bind(Path("/sys"), self.root / "sys")
        (self.root / "proc").mkdir()

    def _make_volume(self, mounted: dict[str, Any], target: Path) -> None:
        volume = self._volumes.get(mounted["name"], {})  # none: of a StatefulSet's claim
        claim = volume.get("persistentVolumeClaim")
        if claim is not None:
            bind(Path(self._plan["claims"][claim["claimName"]]), target)
            return
        target.mkdir(parents=True)
        size = volume.get("emptyDir", {}).get("sizeLimit", "64Mi").rstrip("i").lower()
        mount("-t", "tmpfs", "-o", f"size={size},mode=2775,uid=0,gid={USER}", "tmpfs", str(target))
        for name, text in self._files_of(volume).items():
            path = target / name
            path.write_text(text)
            os.chown(path, 0, USER)
            path.chmod(0o440 if "projected" in volume else 0o644)
        if mounted.get("readOnly"):
            mount("-o", "remount,ro", str(target))

    def _files_of(self, volume: dict[str, Any]) -> dict[str, str]:
        files: dict[str, dict[str, str]] = self._plan["files"]
        if "configMap" in volume:
            return files[volume["configMap"]["name"]]
        secrets = [source["secret"] for source in volume.get("projected", {}).get("sources", [])]
        return {item["path"]: files[secret["name"]][item["key"]] for secret in secrets for item in secret["items"]}

    def start(self, log: Path, argv: list[str] | None = None) -> "Started":
        """The container's command, or another one in its place."""
        argv = argv or [*self.spec["command"], *self.spec.get("args", [])]
        around = ["unshare", "--pid", "--fork", "--kill-child", "--mount", f"--mount-proc={self.root}/proc"]
        around += ["chroot", str(self.root), "setpriv", f"--reuid={USER}", "--regid=0", f"--groups={USER}"]
        around += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        return Started([*around, "env", "-i", *[f"{key}={value}" for key, value in self.env.items()], *argv], log)

    def port(self, name: str | int) -> int:
        return {item["name"]: int(item["containerPort"]) for item in self.spec["ports"]}.get(str(name)) or int(name)

    def probe_url(self, kind: str) -> str:
        wanted = self.spec[kind]["httpGet"]
        return f"http://127.0.0.1:{self.port(wanted['port'])}{wanted['path']}"


class Started:
    """A running container."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._outer = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT)

    def signal(self, number: int) -> None:
        """To process 1 of the container."""
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        os.kill(int(children[0]), number)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None if it still runs."""
        try:
            return self._outer.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        self._outer.kill()
        self._outer.wait()


def ask(url: str, request: dict[str, Any] | None = None) -> tuple[int, str]:
    """Status and body of a GET, or of a POST where there is `json`; status 0 where nothing answers."""
    content, headers = (request or {}).get("json"), (request or {}).get("headers")
    try:
        answer = http.request("GET" if content is None else "POST", url, json=content, headers=headers, timeout=10)
    except httpx.TransportError as error:
        return 0, str(error)
    return answer.status_code, answer.text


def serve(container: Container, log: Path, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """As the kubelet does: the startup probe, the other two, traffic, SIGTERM, the grace."""
    began, started = time.monotonic(), container.start(log)
    try:
        startup = container.spec["startupProbe"]
        deadline = began + startup["periodSeconds"] * startup["failureThreshold"]
        probes = {"startupProbe": 0}
        while probes["startupProbe"] != 200 and time.monotonic() < deadline and started.wait(0.1) is None:
            probes["startupProbe"] = ask(container.probe_url("startupProbe"))[0]
        ready_after_s = time.monotonic() - began
        while probes.get("readinessProbe") != 200 and time.monotonic() < deadline and started.wait(0.1) is None:
            probes["readinessProbe"] = ask(container.probe_url("readinessProbe"))[0]
        probes["livenessProbe"] = ask(container.probe_url("livenessProbe"))[0]
        answers = [ask(f"http://127.0.0.1:{container.port(item['port'])}{item['path']}", item) for item in requests]
        stopped_at = time.monotonic()
        if started.wait(0) is None:
            started.signal(signal.SIGTERM)
        code = started.wait(container.grace_s)
        return {
            "probes": probes,
            "answers": answers,
            "ready_after_s": round(ready_after_s, 1),
            "exit_code": code,
            "stopped_after_s": round(time.monotonic() - stopped_at, 1),
            "log": log.read_text(),
        }
    finally:
        started.end()


def run(plan: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Runs `plan`, one step after the other: a pod that serves, or one (with `to_end`, perhaps another command) that ends.

    `files`: ConfigMaps and Secrets by name. `claims`: folders by the claim's name. `hosts`: names of what is at loopback.
    `image`: `env`, and `paths` it holds. `database_port`: PostgreSQL listens there. `model_port`: the scriptable upstream.
    `redis_password`: a Redis listens at its usual port.
    A request's `{word}` is a key that an earlier step has printed.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    database = OwnPostgres(folder, plan["database_port"]) if plan.get("database_port") else None
    if database is not None:
        database.make("tidegate")
    model = [sys.executable, "-m", "gateway.backends.fake", "--port", str(plan.get("model_port"))]
    upstream = subprocess.Popen(model, stdout=subprocess.DEVNULL) if plan.get("model_port") else None
    store = ["redis-server", "--save", "", "--dir", str(folder), "--requirepass", plan.get("redis_password", "")]
    redis = subprocess.Popen(store, stdout=subprocess.DEVNULL) if plan.get("redis_password") else None
    found, word = [], ""
    try:
        for number, step in enumerate(plan["steps"]):
            place = folder / str(number)
            place.mkdir()
            container, log = Container(place, step["pod"], plan), place / "log"
            if not step.get("to_end"):
                requests = json.loads(json.dumps(step.get("requests", [])).replace("{word}", word))
                found.append(serve(container, log, requests))
                continue
            started = container.start(log, step.get("command"))
            code, out = started.wait(60), log.read_text()
            started.end()
            found.append({"exit_code": code, "log": out})
            word = next((word for word in out.split() if word.startswith("tg-")), word)
            if code:
                break
    finally:
        for server in (upstream, redis):
            if server is not None:
                server.kill()
        if database is not None:
            database.stop()
    return found


def main() -> None:
    plan = json.load(sys.stdin)
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "start this in a network namespace of its own"
    folder = Path(sys.argv[1])
    mount("-t", "tmpfs", "tmpfs", str(folder))
    folder.chmod(0o755)
    print(json.dumps(run(plan, folder)))


if __name__ == "__main__":
    main()
