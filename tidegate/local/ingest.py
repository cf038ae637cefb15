"""`tidegate ingest`: brings files into a vector store through the gateway's public door, as any client would."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2

from tidegate.errors import ConfigError, OperatorError

_TIMEOUT_S = 120.0
_POLL_S = 0.3
_PAGE = 1000


class IngestFailed(OperatorError):
    """The gateway refused, or cannot be reached."""


class Progress(Protocol):
    """Shown while it goes on."""

    def __call__(self, done: float, total: int, what: str) -> None:
        """`done` of `total` files, and what happens now."""
        ...


@dataclass(slots=True)
class Report:
    """What became of the files."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    """Path and reason."""


class Ingest:
    """Files into one store; doing it again changes only what has changed."""

    def __init__(self, base_url: str, api_key: str, progress: Progress) -> None:
        self._client = httpx2.Client(
            base_url=base_url.rstrip("/"),
            headers={"authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
        self._progress = progress

    def run(self, paths: Sequence[Path], store_name: str) -> Report:
        """Ingests `paths` (folders with everything below them) into the store `store_name`, made if it is missing.

        Raises:
            ConfigError: a path does not exist, or there is nothing to ingest.
            IngestFailed: the gateway refuses the store, or cannot be reached.
        """
        files = list(_files(paths))
        if not files:
            raise ConfigError(f"there are no files in {', '.join(map(str, paths))}")
        report, failed = Report(), list[tuple[str, str]]()
        with self._client:
            store_id = self._store(store_name)
            known = self._known(store_id)
            waiting: dict[str, str] = {}
            for number, (path, source) in enumerate(files):
                self._progress(number / 2, len(files), f"reading {path.name}")
                try:
                    self._add(store_id, path, source, known.get(source, []), report, waiting)
                except IngestFailed as error:
                    failed.append((str(path), error.message))
            failed += self._wait(store_id, waiting, len(files))
        report.failed = tuple(failed)
        return report

    def _add(
        self, store_id: str, path: Path, source: str, known: list[Any], report: Report, waiting: dict[str, str]
    ) -> None:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        same = [entry for entry in known if entry["attributes"].get("sha256") == digest and entry["status"] != "failed"]
        if same:
            report.unchanged += 1
            self._forget(entry for entry in known if entry is not same[0])
            return
        form = {"files": {"file": (path.name, data)}, "data": {"purpose": "assistants"}}
        file_id = self._call("POST", "/files", **form)["id"]
        attributes = {"source": source[-512:], "sha256": digest}
        self._call("POST", f"/vector_stores/{store_id}/files", json={"file_id": file_id, "attributes": attributes})
        waiting[file_id] = str(path)
        if known:
            report.replaced += 1
        else:
            report.added += 1
        self._forget(known)

    def _known(self, store_id: str) -> dict[str, list[Any]]:
        """What is in the store already, by source; several where an earlier run was ended before it had tidied up."""
        found: dict[str, list[Any]] = {}
        for entry in self._entries(store_id):
            found.setdefault(entry["attributes"].get("source"), []).append(entry)
        return found

    def _forget(self, entries: Iterable[Any]) -> None:
        for entry in entries:
            self._call("DELETE", f"/files/{entry['id']}")

    def _wait(self, store_id: str, waiting: dict[str, str], total: int) -> list[tuple[str, str]]:
        """Until no file is in progress; those that failed, with the reason."""
        failed, left = [], dict(waiting)
        while left:
            entries = {entry["id"]: entry for entry in self._entries(store_id)}
            for file_id in list(left):
                entry = entries.get(file_id)
                if entry is not None and entry["status"] == "in_progress":
                    continue
                path = left.pop(file_id)
                if entry is None or entry["status"] == "failed":
                    failed.append((path, entry["last_error"]["message"] if entry else "it was deleted meanwhile"))
            parts = sum(float(entries[file_id].get("progress", 0)) for file_id in left)
            self._progress(total - len(left) / 2 + parts / 2, total, f"embedding, {len(left)} to go")
            if left:
                time.sleep(_POLL_S)
        return failed

    def _store(self, name: str) -> str:
        """The id of the store with this name or id, made if there is none."""
        for store in self._listed("/vector_stores"):
            if name in (store["name"], store["id"]):
                return str(store["id"])
        return str(self._call("POST", "/vector_stores", json={"name": name})["id"])

    def _entries(self, store_id: str) -> Iterator[Any]:
        return self._listed(f"/vector_stores/{store_id}/files")

    def _listed(self, path: str) -> Iterator[Any]:
        after: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={"limit": str(_PAGE), **after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def _call(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._client.request(method, path, **more)
        except httpx2.TransportError as error:
            raise OperatorError(f"the gateway at {self._client.base_url} cannot be reached ({error})") from error
        if answer.status_code != 200:
            raise IngestFailed(_reason(answer))
        return answer.json()


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {answer.status_code}"


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Files in order, each with the name under which it is known: its path below the folder that was named."""
    for path in paths:
        if path.is_file():
            yield path, path.name
        elif path.is_dir():
            for found in sorted(path.rglob("*")):
                if found.is_file() and not any(part.startswith(".") for part in found.relative_to(path).parts):
                    yield found, str(found.relative_to(path))
        else:
            raise ConfigError(f"{path} does not exist")
