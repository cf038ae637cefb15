"""What a gateway knows of the database: keys, projects, models and policies, in memory, replaced as a whole.

A request holds the snapshot it began with. The watcher looks for changes at an interval; a database that is away leaves
the last snapshot in force.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from gateway.auth.api_keys import KnownKey
from gateway.backends.discovery import Discovery
from gateway.backends.service import ServiceClient
from gateway.backends.vllm import VllmServer
from gateway.routing.replicas import ReplicaState
from guardrails.engine.policy import Policy, build_policy
from tidegate.config import resources
from tidegate.config.settings import Settings
from tidegate.errors import ModelNotFound, OperatorError
from tidegate.identity import Minter
from tidegate.store.changes import LATEST_CHANGE, latest_change
from tidegate.store.database import Database
from tidegate.store.kept import KeptConnection
from tidegate.store.keys import list_keys
from tidegate.store.resources import read_resources
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.types import Limits, Principal


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model and where it runs."""

    name: str
    upstream_model: str
    replicas: tuple[ReplicaState, ...]
    servers: Mapping[str, VllmServer]
    """Replica URL to the way there."""
    preset: resources.Preset | None = None
    """Where the name is a preset's: what it adds."""


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A hosted tool server and the way there."""

    name: str
    url: str
    acts_for_caller: bool
    client: ServiceClient


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent state of the resources; `change_id` says which."""

    change_id: int
    keys: Mapping[str, KnownKey]
    models: Mapping[str, ServedModel]
    policies: Mapping[str, Policy]
    tool_servers: Mapping[str, ToolServer]

    def tool_servers_of(self, principal: Principal) -> list[ToolServer]:
        """The tool servers the principal may use, sorted by name."""
        return [server for name, server in sorted(self.tool_servers.items()) if principal.may_call(name)]

    def model_for(self, principal: Principal, name: str) -> ServedModel:
        """The model `name`, if it exists and the principal may use it.

        Raises:
            ModelNotFound: otherwise; the two cases look the same.
        """
        model = self.models.get(name)
        if model is None or not principal.may_use(name):
            raise ModelNotFound(f"The model {name[:128]!r} does not exist or this key may not use it.", param="model")
        return model

    def models_of(self, principal: Principal) -> list[str]:
        """Names of the models the principal may use, sorted."""
        return sorted(name for name in self.models if principal.may_use(name))


class SnapshotSource:
    """Holds the current snapshot and renews it."""

    def __init__(self, database: Database, settings: Settings, minter: Minter, metrics: Metrics, log: JsonLog) -> None:
        self._database = database
        self._minter = minter
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._discovery = Discovery(log)
        self._models: list[resources.Model] = []
        self._presets: list[resources.Preset] = []
        self._built_of: Mapping[str, tuple[str, ...]] = {}
        self._servers: dict[tuple[str, str | None, str | None], VllmServer] = {}
        self._states: dict[str, ReplicaState] = {}
        self._tool_servers: dict[resources.McpServer, ToolServer] = {}
        self.current = Snapshot(0, {}, {}, {}, {})
        metrics.watch(names.CERTIFICATE_EXPIRES, self._certificates)

    async def load(self) -> None:
        """Reads the database once.

        Raises:
            OperatorError: it is away, or holds what this version cannot build.
        """
        async with self._database.transaction() as connection:
            change_id = await latest_change(connection)
            found = await read_resources(connection)
            rows = await list_keys(connection, live_only=True)
        projects = {(o.name, p.name): p for o in found.organisations for p in o.projects}
        keys = {}
        for row in rows:
            owner = (row["organisation"], row["project"])
            if project := projects.get(owner):
                keys[row["key_id"]] = KnownKey(
                    row["digest"], row["expires_at"], _principal(*owner, row["key_id"], project)
                )
        policies = {policy.name: build_policy(policy) for policy in found.policies}
        await self._discovery.look(_replicas_of(found.models))
        models, tools = self._served_models(found.models, found.presets), self._served_tools(found.mcp_servers)
        self._models, self._presets = found.models, found.presets
        self.current = Snapshot(change_id, keys, models, policies, tools)

    async def watch(self) -> None:
        """Reloads whenever the database has changed, for ever."""
        async with KeptConnection(self._database) as kept:
            await self._renew(self._settings.store.refresh_interval_s, partial(self._reload_if_changed, kept))

    async def discover(self) -> None:
        """Looks again and again where the replicas are, for ever."""
        await self._renew(self._settings.routing.discovery_interval_s, self._look_again)

    async def _renew(self, interval_s: float, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await look()
            except OperatorError as error:
                self._metrics.count(names.SNAPSHOT_ERRORS)
                self._log.write("error", "snapshot_not_renewed", reason=error.message)
            except Exception as error:  # noqa: BLE001 - nobody awaits this task; the next look may go well
                self._metrics.count(names.SNAPSHOT_ERRORS)
                self._log.write("error", "defect", error=type(error).__name__, task="snapshot")

    async def _reload_if_changed(self, kept: KeptConnection) -> None:
        if await kept.scalar(LATEST_CHANGE) != self.current.change_id:
            await self.load()
            self._log.write("info", "snapshot", change_id=self.current.change_id)

    async def _look_again(self) -> None:
        await self._discovery.look(_replicas_of(self._models))
        if self._discovery.found != self._built_of:
            self.current = replace(self.current, models=self._served_models(self._models, self._presets))

    def close(self) -> None:
        """Closes every connection to model servers."""
        self._discovery.close()
        for server in self._servers.values():
            server.pool.close()
        for tool_server in self._tool_servers.values():
            tool_server.client.close()

    def _served_tools(self, wanted: list[resources.McpServer]) -> dict[str, ToolServer]:
        for spec in set(self._tool_servers) - set(wanted):
            self._tool_servers.pop(spec).client.close()
        for spec in wanted:
            if spec not in self._tool_servers:
                client = ServiceClient(spec.url, f"mcp:{spec.name}", self._minter, self._settings.relay)
                self._tool_servers[spec] = ToolServer(spec.name, spec.url, spec.acts_for_caller, client)
        return {spec.name: self._tool_servers[spec] for spec in wanted}

    def _served_models(self, specs: list[resources.Model], presets: list[resources.Preset]) -> dict[str, ServedModel]:
        models = {model.name: self._served(model) for model in specs}
        for preset in presets:
            models[preset.name] = replace(models[preset.model], name=preset.name, preset=preset)
        self._close_unused(models)
        self._built_of = self._discovery.found
        return models

    def _served(self, model: resources.Model) -> ServedModel:
        found = [
            self._server(replica, address)
            for replica in model.replicas
            for address in self._discovery.addresses_of(replica)
        ]
        servers = {server.url: server for server in found}
        health = self._settings.routing.health
        states = tuple(self._states.setdefault(url, ReplicaState(url, health)) for url in servers)
        return ServedModel(model.name, model.upstream_model or model.name, states, servers)

    def _server(self, replica: resources.Replica, address: str | None) -> VllmServer:
        key = (replica.url, str(replica.api_key_file) if replica.api_key_file else None, address)
        if key not in self._servers:
            self._servers[key] = VllmServer(replica, self._settings.relay, address)
        return self._servers[key]

    def _certificates(self) -> dict[tuple[str, ...], float]:
        pools = [(server.url, server.pool.certificate_expires) for server in self._servers.values()]
        return {(url,): expires for url, expires in pools if expires is not None}

    def _close_unused(self, models: Mapping[str, ServedModel]) -> None:
        used = {id(server) for model in models.values() for server in model.servers.values()}
        for key, server in list(self._servers.items()):
            if id(server) not in used:
                server.pool.close()
                del self._servers[key]
                self._states.pop(server.url, None)


def _replicas_of(models: list[resources.Model]) -> list[resources.Replica]:
    return [replica for model in models for replica in model.replicas]


def _principal(organisation: str, name: str, key_id: str, project: resources.Project) -> Principal:
    return Principal(
        organisation=organisation,
        project=name,
        key_id=key_id,
        models=None if project.all_models else frozenset(project.models),
        policy=project.policy,
        limits=Limits(**project.limits.model_dump()),
        mcp_servers=None if project.all_mcp_servers else frozenset(project.mcp_servers),
    )
