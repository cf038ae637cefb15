"""`GET /v1/models` and `GET /v1/models/{model}`: only what the key may use."""

from typing import Any

from starlette.requests import Request

from gateway.snapshot import Snapshot
from tidegate.types import Principal


async def list_models(request: Request) -> dict[str, Any]:
    """The models of this key, sorted by name."""
    snapshot: Snapshot = request.state.snapshot
    return {"object": "list", "data": [_model(name) for name in snapshot.models_of(request.state.principal)]}


async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """One model of this key."""
    snapshot: Snapshot = request.state.snapshot
    principal: Principal = request.state.principal
    return _model(snapshot.model_for(principal, model).name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tidegate"}
