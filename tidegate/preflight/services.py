"""Whether what the platform uses of others can be reached, and is what it must be: run this where the pods will run."""

import asyncio
import contextlib
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from sqlalchemy import text

from tidegate.config.load import Document
from tidegate.config.resources import Replica
from tidegate.config.settings import RedisSettings
from tidegate.errors import OperatorError, StoreError
from tidegate.preflight.finding import Finding, failed, ok, unknown, warning
from tidegate.preflight.vllm import metrics
from tidegate.store.database import Database

_PATIENCE_S = 5.0
_MOST_BYTES = 4_194_304
_OLDEST_POSTGRESQL = 14


def look(document: Document, chart_services: set[str], vllm_metrics: set[str]) -> Iterator[Finding]:
    """The database, the store of limits, the collector, and every model server that the install does not bring itself."""
    yield asyncio.run(_database(document))
    if document.settings.limits.store == "redis":
        yield asyncio.run(_limit_store(document.settings.limits.redis))
    for sink in document.settings.telemetry.sinks:
        if endpoint := sink.options().get("endpoint"):
            yield _door("collector", str(endpoint))
    for model in document.resources.models:
        for replica in model.replicas:
            host = urlsplit(replica.url).hostname or ""
            if host.partition(".")[0] in chart_services:
                yield ok("model-servers", f"{model.name} at {replica.url} is part of the install")
            elif replica.audience is None:
                yield from _model_server(replica, model.upstream_model or model.name, vllm_metrics)


def qdrant(url: str) -> Finding:
    """A Qdrant that plug-ins or applications of yours use."""
    try:
        _fetch(f"{url.rstrip('/')}/readyz")
        found = json.loads(_fetch(url))
        version = str(found["version"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        return failed("qdrant", f"Qdrant at {_shown(urlsplit(url))}: {_reason(error)}", _OUT)
    return ok("qdrant", f"Qdrant {version[:20]} at {_shown(urlsplit(url))} is ready")


_OUT = "see that it runs, that its name resolves here, and that network policies and firewalls let pods out to it"


async def _database(document: Document) -> Finding:
    store = document.settings.store
    try:
        database = Database(store)
    except (OperatorError, OSError) as error:
        return failed("database", str(error), "see to `store` in the configuration")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await _database_of(database)
    except (StoreError, TimeoutError) as error:
        return failed("database", str(error) or f"{database.shown_url} does not answer", _OUT)
    finally:
        await database.close()


async def _database_of(database: Database) -> Finding:
    schema = await database.schema()
    shown = database.shown_url
    if database.is_sqlite:
        return warning("database", f"{shown} is a file", "use PostgreSQL where more than one process serves")
    async with database.transaction() as connection:
        number = int(await connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
        writable = await connection.scalar(
            text("SELECT has_schema_privilege(current_schema(), 'CREATE') AND NOT pg_is_in_recovery()")
        )
    if number < _OLDEST_POSTGRESQL:
        return failed("database", f"{shown} is PostgreSQL {number}", f"use {_OLDEST_POSTGRESQL} or later")
    if not writable:
        return failed("database", f"in {shown} no tables can be made", "make the user the owner, on the primary server")
    if schema == "newer":
        return failed(
            "database", f"{shown} was used by a newer version", "install that one, or restore an older backup"
        )
    said = {
        "absent": "is empty",
        "older": "will be brought to this version's schema",
        "current": "has this version's schema",
    }
    return ok("database", f"{shown} is PostgreSQL {number} and {said[schema]}")


async def _limit_store(settings: RedisSettings) -> Finding:
    # Its client takes a fifth of a second, which no other command should.
    from tidegate.store.redis import AWAY, REFUSED, UNWILLING, Conversation

    check = "limit-store"
    script = "return redis.call('SET', KEYS[1], '', 'PX', 1)"
    try:
        async with Conversation(settings, _PATIENCE_S) as store:
            await store.ask("EVAL", script, 1, f"{{{settings.prefix}}}:preflight")
            with contextlib.suppress(*REFUSED):  # who may not see it is not told
                policy = _line_of(await store.ask("INFO", "memory"), "maxmemory_policy")
                if policy not in ("", "noeviction"):
                    remedy = "set maxmemory-policy to noeviction, or what was counted may be dropped"
                    return warning(check, f"{settings.url} drops keys when it is full ({policy})", remedy)
    except OperatorError as error:
        return failed(check, error.message, "see to `limits.redis` in the configuration")
    except UNWILLING as error:
        return failed(check, f"{settings.url}: {error}", "see to the password, the rights of the user, and the server")
    except AWAY as error:
        return failed(check, f"{settings.url}: {_reason(error)}", _OUT)
    return ok(check, f"{settings.url} answers and takes what is counted")


def _model_server(replica: Replica, model: str, wanted: set[str]) -> Iterator[Finding]:
    check = "model-servers"
    try:
        key = replica.api_key_file.read_text().strip() if replica.api_key_file else ""
    except OSError as error:
        yield failed(check, f"{replica.api_key_file}: {error.strerror}", "give the key of this server")
        return
    try:
        listed = json.loads(_fetch(f"{replica.url}/v1/models", key))
        names = sorted(str(each["id"]) for each in listed["data"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield failed(check, f"{replica.url}/v1/models: {_reason(error)}", _OUT)
        return
    if model not in names:
        has = ", ".join(names)[:200] or "none"
        yield failed(check, f"{replica.url} does not serve {model}", f"it serves: {has}; set `upstream_model`")
    else:
        yield ok(check, f"{replica.url} serves {model}")
    if not wanted:
        return
    try:
        scraped = _fetch(f"{replica.url}/metrics", key)
    except (OSError, ValueError) as error:
        yield unknown(
            "vllm-metrics", f"{replica.url}/metrics: {_reason(error)}", "dashboards of model servers stay empty"
        )
        return
    yield metrics(wanted, scraped, replica.url)


def _door(check: str, url: str) -> Finding:
    parts = urlsplit(url)
    try:
        with _connected(parts, 443 if parts.scheme == "https" else 4318, secure=parts.scheme == "https"):
            return ok(check, f"{_shown(parts)} can be reached")
    except (OSError, ValueError) as error:
        return failed(check, f"{_shown(parts)}: {_reason(error)}", _OUT)


def _connected(parts: SplitResult, port: int, *, secure: bool) -> contextlib.closing[socket.socket]:
    host = parts.hostname or ""
    connection = socket.create_connection((host, parts.port or port), _PATIENCE_S)
    if not secure:
        return contextlib.closing(connection)
    try:
        return contextlib.closing(ssl.create_default_context().wrap_socket(connection, server_hostname=host))
    except BaseException:
        connection.close()
        raise


def _fetch(url: str, key: str = "") -> str:
    """The answer to a GET, its beginning if it is long."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("not an http or https URL")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - looked at above
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
        return bytes(answer.read(_MOST_BYTES)).decode("utf-8", "replace")


def _line_of(info: bytes, name: str) -> str:
    lines = info.decode("latin-1").splitlines()
    return next((line.partition(":")[2] for line in lines if line.startswith(f"{name}:")), "")


def _shown(parts: SplitResult) -> str:
    """Without a password."""
    return parts.netloc.rpartition("@")[2] or "no host"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    if isinstance(error, (LookupError, TypeError)):
        return "an answer of another form"
    return str(getattr(error, "reason", None) or error) or type(error).__name__
