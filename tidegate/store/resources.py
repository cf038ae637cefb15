"""Models, presets, policies and projects in the database."""

import asyncio
import time

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.config.resources import McpServer, Model, Organisation, Policy, Preset, Project, Resources
from tidegate.errors import NotFound
from tidegate.store.changes import latest_change, note_change
from tidegate.store.database import Database
from tidegate.store.tables import PLATFORM, resources


async def apply_resources(connection: AsyncConnection, wanted: Resources) -> list[str]:
    """Makes the database hold exactly `wanted`; what changed, a line each, empty if nothing did."""
    new = {row[:4]: row[4] for row in _rows(wanted)}
    found = {tuple(row[:4]): row[4] for row in await connection.execute(select(resources))}
    told = []
    for key in sorted(found.keys() | new.keys()):
        if found.get(key) == new.get(key):
            continue
        verb = "added" if key not in found else "removed" if key not in new else "changed"
        place = "" if key[0] == PLATFORM else f" of {key[0]!r}"
        told.append(f"{verb} {key[2]} {key[3]!r}{place}")
    if told:
        await connection.execute(delete(resources))
        names = ("organisation", "project", "kind", "name", "spec")
        if new:
            await connection.execute(
                insert(resources), [dict(zip(names, (*k, v), strict=True)) for k, v in new.items()]
            )
        await note_change(connection, "resources")
    return told


async def read_resources(connection: AsyncConnection) -> Resources:
    """What the database holds."""
    models, presets, servers, policies = [], [], [], []
    organisations: dict[str, list[Project]] = {}
    for organisation, _, kind, _, spec in await connection.execute(select(resources).order_by(resources.c.name)):
        match kind:
            case "model":
                models.append(Model.model_validate_json(spec))
            case "preset":
                presets.append(Preset.model_validate_json(spec))
            case "mcp_server":
                servers.append(McpServer.model_validate_json(spec))
            case "policy":
                policies.append(Policy.model_validate_json(spec))
            case "organisation":
                organisations.setdefault(organisation, [])
            case "project":
                organisations.setdefault(organisation, []).append(Project.model_validate_json(spec))
    owners = [Organisation(name=name, projects=projects) for name, projects in sorted(organisations.items())]
    return Resources(models=models, presets=presets, mcp_servers=servers, policies=policies, organisations=owners)


class CurrentResources:
    """The resources as they are now, read anew only when they have changed."""

    def __init__(self, database: Database, refresh_interval_s: float) -> None:
        self._database = database
        self._interval_s = refresh_interval_s
        self._resources = Resources()
        self._change_id = -1
        self._looked = 0.0
        self._lock = asyncio.Lock()

    async def read(self) -> Resources:
        """At most `refresh_interval_s` old; the same object as long as nothing has changed.

        Raises:
            StoreError: the database is away.
        """
        async with self._lock:
            if time.monotonic() - self._looked > self._interval_s:
                async with self._database.transaction() as connection:
                    newest = await latest_change(connection)
                    if newest != self._change_id:
                        self._resources, self._change_id = await read_resources(connection), newest
                self._looked = time.monotonic()
            return self._resources

    async def project(self, organisation: str, name: str) -> Project:
        """A project.

        Raises:
            NotFound: it does not exist any more.
        """
        for owner in (await self.read()).organisations:
            for project in owner.projects if owner.name == organisation else ():
                if project.name == name:
                    return project
        raise NotFound("This project does not exist any more.")


def _rows(wanted: Resources) -> list[tuple[str, str, str, str, str]]:
    rows = [(PLATFORM, PLATFORM, "model", model.name, model.model_dump_json()) for model in wanted.models]
    rows += [(PLATFORM, PLATFORM, "preset", preset.name, preset.model_dump_json()) for preset in wanted.presets]
    rows += [(PLATFORM, PLATFORM, "mcp_server", item.name, item.model_dump_json()) for item in wanted.mcp_servers]
    rows += [(PLATFORM, PLATFORM, "policy", policy.name, policy.model_dump_json()) for policy in wanted.policies]
    for organisation in wanted.organisations:
        rows.append((organisation.name, PLATFORM, "organisation", organisation.name, "{}"))
        rows += [(organisation.name, p.name, "project", p.name, p.model_dump_json()) for p in organisation.projects]
    return rows
