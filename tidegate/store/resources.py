"""Models, policies and projects in the database."""

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.config.resources import Model, Organisation, Policy, Project, Resources
from tidegate.store.changes import note_change
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
    models, policies = [], []
    organisations: dict[str, list[Project]] = {}
    for organisation, _, kind, _, spec in await connection.execute(select(resources).order_by(resources.c.name)):
        match kind:
            case "model":
                models.append(Model.model_validate_json(spec))
            case "policy":
                policies.append(Policy.model_validate_json(spec))
            case "organisation":
                organisations.setdefault(organisation, [])
            case "project":
                organisations.setdefault(organisation, []).append(Project.model_validate_json(spec))
    owners = [Organisation(name=name, projects=projects) for name, projects in sorted(organisations.items())]
    return Resources(models=models, policies=policies, organisations=owners)


def _rows(wanted: Resources) -> list[tuple[str, str, str, str, str]]:
    rows = [(PLATFORM, PLATFORM, "model", model.name, model.model_dump_json()) for model in wanted.models]
    rows += [(PLATFORM, PLATFORM, "policy", policy.name, policy.model_dump_json()) for policy in wanted.policies]
    for organisation in wanted.organisations:
        rows.append((organisation.name, PLATFORM, "organisation", organisation.name, "{}"))
        rows += [(organisation.name, p.name, "project", p.name, p.model_dump_json()) for p in organisation.projects]
    return rows
