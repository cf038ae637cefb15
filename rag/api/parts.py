"""What the paths share: reading JSON bodies, pages of lists, and the service's parts."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from rag.api.uploads import UploadBudget
from rag.embedding import Embedder
from rag.index import Indexes
from rag.intake import Intake
from rag.jobs import Jobs
from rag.policies import Policies
from rag.retrieve import Retriever
from tidegate.errors import InvalidRequest
from tidegate.serving import http
from tidegate.serving.door import caller_of
from tidegate.store.database import Database
from tidegate.store.documents import Owner, Page, Row
from tidegate.telemetry.tracing import Tracing

_MOST_JSON_BYTES = 4_194_304
_MOST_PAIRS = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of; `service.py` builds it."""

    database: Database
    embedder: Embedder
    indexes: Indexes
    intake: Intake
    jobs: Jobs
    policies: Policies
    retriever: Retriever
    tracing: Tracing
    uploads: UploadBudget
    max_file_bytes: int


def parts_of(request: Request) -> Parts:
    """The service's parts."""
    parts: Parts = request.app.state.parts
    return parts


def owner_of(request: Request) -> Owner:
    """Whose rows and files the request may touch: the token says so, nothing else does."""
    caller = caller_of(request)
    return Owner(caller.organisation, caller.project)


async def read_json(request: Request, kind: type[T]) -> T:
    """See `tidegate.serving.http.read_json`."""
    return await http.read_json(request, kind, most_bytes=_MOST_JSON_BYTES)


def page_of(request: Request) -> Page:
    """`limit`, `after` and `order` of a list.

    Raises:
        InvalidRequest: out of range, or paging that is not offered.
    """
    asked = request.query_params
    if "before" in asked:
        raise InvalidRequest("`before` is not offered; page with `after`.", param="before")
    try:
        limit = int(asked.get("limit", "20"))
    except ValueError:
        limit = 0
    if not 1 <= limit <= 10_000 or asked.get("order", "desc") not in ("asc", "desc"):
        raise InvalidRequest("`limit` must be 1 to 10000, `order` asc or desc.", param="limit")
    return Page(min(limit, 1000), asked.get("after"), asked.get("order") == "asc")


def as_list(rows: Sequence[Row], page: Page, show: Callable[[Row], dict[str, Any]]) -> dict[str, Any]:
    """OpenAI's list object; `rows` may hold one more than the page."""
    data = [show(row) for row in rows[: page.limit]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": len(rows) > page.limit}


def pairs(name: str, given: dict[str, Any] | None) -> str:
    """The caller's own pairs as JSON.

    Raises:
        InvalidRequest: too many, too long, or not plain values.
    """
    found = given or {}
    plain = all(isinstance(value, str | int | float | bool) and len(str(value)) <= 512 for value in found.values())
    if len(found) > _MOST_PAIRS or not plain or any(len(key) > 64 for key in found):
        raise InvalidRequest(
            f"`{name}` may have {_MOST_PAIRS} pairs: keys of 64 characters; texts of 512, numbers or booleans.",
            param=name,
        )
    return json.dumps(found)
