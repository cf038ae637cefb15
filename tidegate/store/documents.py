"""Files, vector stores and the files in them. Every query names organisation and project; a foreign id finds nothing.

A row of `store_files` is also the job that brings the file into the store: `queued` → `embedding` → `embedded` (its
vectors are on disk) → `completed` (the index that is searched holds it), or `failed` with the reason.
"""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    RowMapping,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate.store.tables import files, store_files, vector_stores

QUEUED, EMBEDDING, EMBEDDED, COMPLETED, FAILED = "queued", "embedding", "embedded", "completed", "failed"
Row = RowMapping
_PART_ROWS = 500


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose rows are meant."""

    organisation: str
    project: str

    def of(self, table: Table) -> ColumnElement[bool]:
        """The condition that every query carries."""
        return (table.c.organisation == self.organisation) & (table.c.project == self.project)

    def columns(self) -> dict[str, str]:
        """The owner's columns of a new row."""
        return {"organisation": self.organisation, "project": self.project}


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list, as OpenAI's list parameters say it."""

    limit: int = 20
    after: str | None = None
    ascending: bool = False


def new_id(prefix: str) -> str:
    """An id nobody can guess."""
    return f"{prefix}{secrets.token_hex(12)}"


async def add_file(connection: AsyncConnection, owner: Owner, row: dict[str, Any]) -> None:
    """A new file; `row` has every column but the owner's and the time."""
    await connection.execute(insert(files).values(**owner.columns(), created_at=time.time(), **row))


async def get_file(connection: AsyncConnection, owner: Owner, file_id: str) -> Row | None:
    """One file."""
    return (
        (await connection.execute(select(files).where(owner.of(files), files.c.file_id == file_id))).mappings().first()
    )


async def list_files(connection: AsyncConnection, owner: Owner, page: Page, purpose: str | None) -> Sequence[Row]:
    """A page of files and one more, if there is one."""
    only = () if purpose is None else (files.c.purpose == purpose,)
    return await _page(connection, files, files.c.file_id, page, owner.of(files), *only)


async def delete_file(connection: AsyncConnection, owner: Owner, file_id: str) -> bool:
    """Deletes a file, also from every store; False if there is none."""
    done = await connection.execute(delete(files).where(owner.of(files), files.c.file_id == file_id))
    if done.rowcount:
        await connection.execute(delete(store_files).where(owner.of(store_files), store_files.c.file_id == file_id))
    return bool(done.rowcount)


async def add_store(connection: AsyncConnection, owner: Owner, name: str, metadata: str) -> str:
    """A new, empty store; its id."""
    now, store_id = time.time(), new_id("vs_")
    row = {"store_id": store_id, "name": name, "metadata": metadata, "created_at": now, "last_active_at": now}
    await connection.execute(insert(vector_stores).values(**owner.columns(), **row))
    return store_id


async def get_store(connection: AsyncConnection, owner: Owner, store_id: str) -> Row | None:
    """One store."""
    mine = select(vector_stores).where(owner.of(vector_stores), vector_stores.c.store_id == store_id)
    return (await connection.execute(mine)).mappings().first()


async def stores_named(
    connection: AsyncConnection, owner: Owner, names: Sequence[str], *, by_name: bool
) -> Sequence[Row]:
    """Stores with one of these ids, or also names if `by_name`, oldest first: rows of store_id and name."""
    columns = (vector_stores.c.store_id, vector_stores.c.name) if by_name else (vector_stores.c.store_id,)
    same = or_(*(column.in_(names) for column in columns))
    query = select(vector_stores.c.store_id, vector_stores.c.name).where(owner.of(vector_stores), same)
    return (await connection.execute(query.order_by(vector_stores.c.created_at))).mappings().all()


async def list_stores(connection: AsyncConnection, owner: Owner, page: Page) -> Sequence[Row]:
    """A page of stores and one more, if there is one."""
    return await _page(connection, vector_stores, vector_stores.c.store_id, page, owner.of(vector_stores))


async def change_store(connection: AsyncConnection, owner: Owner, store_id: str, **values: Any) -> bool:
    """Changes columns of a store; False if there is none."""
    mine = owner.of(vector_stores) & (vector_stores.c.store_id == store_id)
    return bool((await connection.execute(update(vector_stores).where(mine).values(**values))).rowcount)


async def delete_store(connection: AsyncConnection, owner: Owner, store_id: str) -> bool:
    """Deletes a store, not its files; False if there is none."""
    mine = owner.of(vector_stores) & (vector_stores.c.store_id == store_id)
    done = await connection.execute(delete(vector_stores).where(mine))
    if done.rowcount:
        await connection.execute(delete(store_files).where(owner.of(store_files), store_files.c.store_id == store_id))
    return bool(done.rowcount)


async def put_store_file(connection: AsyncConnection, owner: Owner, row: dict[str, Any]) -> None:
    """Queues a file for a store; one that is there already is done anew."""
    mine = (store_files.c.store_id == row["store_id"]) & (store_files.c.file_id == row["file_id"])
    await connection.execute(delete(store_files).where(owner.of(store_files), mine))
    fresh = {"state": QUEUED, "error": None, "attempts": 0, "chunks": 0, "usage_bytes": 0, "created_at": time.time()}
    await connection.execute(insert(store_files).values(**owner.columns(), **fresh, **row))


async def get_store_file(connection: AsyncConnection, owner: Owner, store_id: str, file_id: str) -> Row | None:
    """One file of a store."""
    mine = owner.of(store_files) & (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
    return (await connection.execute(select(store_files).where(mine))).mappings().first()


async def list_store_files(
    connection: AsyncConnection, owner: Owner, store_id: str, page: Page, states: Sequence[str]
) -> Sequence[Row]:
    """A page of a store's files, of some states only if named, and one more, if there is one."""
    mine = owner.of(store_files) & (store_files.c.store_id == store_id)
    only = (store_files.c.state.in_(states),) if states else ()
    return await _page(connection, store_files, store_files.c.file_id, page, mine, *only)


async def delete_store_file(connection: AsyncConnection, owner: Owner, store_id: str, file_id: str) -> bool:
    """Takes a file out of a store; False if it is not in it."""
    mine = owner.of(store_files) & (store_files.c.store_id == store_id) & (store_files.c.file_id == file_id)
    return bool((await connection.execute(delete(store_files).where(mine))).rowcount)


async def change_store_file(connection: AsyncConnection, row: Row, **values: Any) -> bool:
    """Changes the row as long as it is still the same job; False if it was deleted or queued anew."""
    same = (
        (store_files.c.store_id == row["store_id"])
        & (store_files.c.file_id == row["file_id"])
        & (store_files.c.segment == row["segment"])
        & (store_files.c.created_at == row["created_at"])
    )
    return bool((await connection.execute(update(store_files).where(same).values(**values))).rowcount)


async def count_states(connection: AsyncConnection, owner: Owner, store_ids: Sequence[str]) -> Sequence[Row]:
    """Files and bytes of stores by state: rows of store_id, state, files, usage_bytes."""
    columns = (store_files.c.store_id, store_files.c.state)
    totals = (func.count().label("files"), func.sum(store_files.c.usage_bytes).label("usage_bytes"))
    query = select(*columns, *totals).where(owner.of(store_files), store_files.c.store_id.in_(store_ids))
    return (await connection.execute(query.group_by(*columns))).mappings().all()


async def survey(connection: AsyncConnection, owner: Owner) -> AsyncIterator[Sequence[Row]]:
    """All rows of the owner that have not failed, some hundreds at a time: store_id, file_id, segment, state, chunks."""
    columns = (store_files.c[name] for name in ("store_id", "file_id", "segment", "state", "chunks"))
    query = (
        select(*columns)
        .join(files, files.c.file_id == store_files.c.file_id)
        .where(owner.of(store_files), store_files.c.state != FAILED)
    )
    async for rows in _parts(connection, query):
        yield rows


async def rows_found(connection: AsyncConnection, owner: Owner, found: Sequence[tuple[str, str]]) -> Sequence[Row]:
    """The rows that these pairs of store and segment have now, with each file's name; none for what has been taken out."""
    query = (
        select(store_files, files.c.filename)
        .join(files, files.c.file_id == store_files.c.file_id)
        .where(
            owner.of(store_files),
            store_files.c.state.in_((EMBEDDED, COMPLETED)),
            tuple_(store_files.c.store_id, store_files.c.segment).in_(found),
        )
    )
    return (await connection.execute(query)).mappings().all()


async def complete(connection: AsyncConnection, owner: Owner, found: Sequence[tuple[str, str]]) -> None:
    """The index that is searched holds what these pairs of store and segment name."""
    key = tuple_(store_files.c.store_id, store_files.c.segment)
    mine = owner.of(store_files) & (store_files.c.state == EMBEDDED) & key.in_(found)
    await connection.execute(update(store_files).where(mine).values(state=COMPLETED))


async def requeue(connection: AsyncConnection, owner: Owner, lost: Sequence[tuple[str, str]]) -> None:
    """What these pairs of store and segment name must be embedded again; `chunks` stay, which says that they were found."""
    key = tuple_(store_files.c.store_id, store_files.c.segment)
    mine = owner.of(store_files) & store_files.c.state.in_((EMBEDDED, COMPLETED)) & key.in_(lost)
    await connection.execute(update(store_files).where(mine).values(state=QUEUED, attempts=0))


async def all_segments(connection: AsyncConnection) -> AsyncIterator[Sequence[Row]]:
    """Every row of every owner, some hundreds at a time: store_id, file_id, segment, chunking."""
    columns = (store_files.c[name] for name in ("store_id", "file_id", "segment", "chunking"))
    async for rows in _parts(connection, select(*columns)):
        yield rows


async def rename_segments(connection: AsyncConnection, renamed: Sequence[tuple[Row, str]]) -> None:
    """Gives rows a new segment and queues them; what had failed before is tried again, too."""
    mine = (store_files.c.store_id == bindparam("store")) & (store_files.c.file_id == bindparam("file"))
    change = update(store_files).where(mine).values(segment=bindparam("name"), state=QUEUED, attempts=0, error=None)
    values = [{"store": row["store_id"], "file": row["file_id"], "name": name} for row, name in renamed]
    await connection.execute(change, values)


async def requeue_unfinished(connection: AsyncConnection, *, forgive: bool = False) -> None:
    """What is being embedded, or was when a process died, is queued again; `forgive` takes the attempt back."""
    attempts = store_files.c.attempts - (1 if forgive else 0)
    query = update(store_files).where(store_files.c.state == EMBEDDING).values(state=QUEUED, attempts=attempts)
    await connection.execute(query)


async def next_queued(connection: AsyncConnection, after: Owner | None, without: Sequence[Owner]) -> Row | None:
    """The oldest waiting file of the project that comes after `after` in the order of names, else of the first.

    Projects in `without` are left out.
    """
    key = tuple_(store_files.c.organisation, store_files.c.project)
    query = select(store_files).where(store_files.c.state == QUEUED)
    if without:
        query = query.where(key.not_in([(owner.organisation, owner.project) for owner in without]))
    ordered = query.order_by(store_files.c.organisation, store_files.c.project, store_files.c.created_at).limit(1)
    if after is not None:
        later = ordered.where(key > tuple_(after.organisation, after.project))
        if (found := (await connection.execute(later)).mappings().first()) is not None:
            return found
    return (await connection.execute(ordered)).mappings().first()


async def owners(connection: AsyncConnection) -> list[Owner]:
    """Everyone who has or had a store."""
    query = select(vector_stores.c.organisation, vector_stores.c.project).distinct()
    return [Owner(*row) for row in await connection.execute(query)]


async def file_ids(connection: AsyncConnection, owner: Owner) -> set[str]:
    """Ids of all files of the owner."""
    return set((await connection.execute(select(files.c.file_id).where(owner.of(files)))).scalars())


async def segments(connection: AsyncConnection, owner: Owner) -> set[str]:
    """Segments that some row of the owner needs."""
    found: set[str] = set()
    async for rows in _parts(connection, select(store_files.c.segment).where(owner.of(store_files))):
        found.update(row["segment"] for row in rows)
    return found


async def _parts(connection: AsyncConnection, query: Select[Any]) -> AsyncIterator[Sequence[Row]]:
    """Rows in parts, so that the event loop takes care of others in between."""
    async with connection.stream(query) as result:
        async for rows in result.mappings().partitions(_PART_ROWS):
            yield rows


async def _page(
    connection: AsyncConnection, table: Table, key: ColumnElement[str], page: Page, *conditions: ColumnElement[bool]
) -> Sequence[Row]:
    created = table.c.created_at
    query = select(table).where(*conditions)
    if page.after is not None:
        marks = select(created).where(key == page.after, *conditions).limit(1).scalar_subquery()
        later = (created > marks) | ((created == marks) & (key > page.after))
        earlier = (created < marks) | ((created == marks) & (key < page.after))
        query = query.where(later if page.ascending else earlier)
    order = (created.asc(), key.asc()) if page.ascending else (created.desc(), key.desc())
    return (await connection.execute(query.order_by(*order).limit(page.limit + 1))).mappings().all()
