"""The process in which indexes are searched, since the engine holds the interpreter while it opens, searches and closes one.

It holds no key and no database. What it may search it learns with each order; see `rag/index.py` for its other side.
"""

from collections import OrderedDict

import msgspec
import numpy as np
from msgspec import Struct

from rag.stores.qdrant_edge import EdgeIndex, Hit, Scope

TARGET = f"{__name__}:run"
MAX_OPEN = 64


class SearchOrder(Struct):
    """Close some indexes, open one, and search it if there is a `scope`; the query's vector is the job's body."""

    folder: str = ""
    """Of the index to open; empty for none."""
    close: list[str] = []
    scope: Scope | None = None
    query: str = ""
    limit: int = 0


class SearchReport(Struct):
    """What was found."""

    hits: list[Hit] = []
    is_broken: bool = False
    """The index cannot be opened."""


_indexes: OrderedDict[str, EdgeIndex] = OrderedDict()


def run(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """See `tidegate.serving.forking`."""
    return msgspec.msgpack.encode(_report(msgspec.msgpack.decode(head, type=SearchOrder), body)), b""


def _report(order: SearchOrder, body: bytes) -> SearchReport:
    for folder in order.close:
        if folder in _indexes:
            _indexes.pop(folder).close()
    if not order.folder:
        return SearchReport()
    try:
        index = _opened(order.folder)
    except Exception:  # noqa: BLE001 - the engine has no error type of its own; a broken index is built anew
        return SearchReport(is_broken=True)
    if order.scope is None:
        return SearchReport()
    return SearchReport(index.search(order.scope, order.query, np.frombuffer(body, np.float32), order.limit))


def _opened(folder: str) -> EdgeIndex:
    if folder not in _indexes:
        _indexes[folder] = EdgeIndex(folder)
        if len(_indexes) > MAX_OPEN:
            _indexes.popitem(last=False)[1].close()
    _indexes.move_to_end(folder)
    return _indexes[folder]
