"""The one table of all public paths. Hot paths and FastAPI routes come from it, and both are in OpenAPI.

To add a path: one file named after it, and one row here. Everything needs a key unless `open_to_all` says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.api import chat_completions, completions, health, models


@dataclass(frozen=True, slots=True)
class Route:
    """One path. A hot path has an `operation` and goes to the pipeline; another has a FastAPI `endpoint`."""

    path: str
    method: Literal["GET", "POST"]
    summary: str
    tag: str
    operation: str | None = None
    endpoint: Callable[..., Any] | None = None
    openapi: dict[str, Any] = field(default_factory=dict)
    open_to_all: bool = False


ROUTES: tuple[Route, ...] = (
    Route(
        "/v1/chat/completions", "POST", "Create a chat completion", "Chat",
        operation=chat_completions.OPERATION, openapi=chat_completions.OPENAPI,
    ),
    Route(
        "/v1/completions", "POST", "Create a completion", "Completions",
        operation=completions.OPERATION, openapi=completions.OPENAPI,
    ),
    Route("/v1/models", "GET", "List the models this key may use", "Models", endpoint=models.list_models),
    Route("/v1/models/{model:path}", "GET", "Retrieve a model this key may use", "Models", endpoint=models.retrieve_model),
    Route("/healthz", "GET", "The process is alive", "Health", endpoint=health.healthz, open_to_all=True),
    Route("/readyz", "GET", "The process can take requests", "Health", endpoint=health.readyz, open_to_all=True),
)  # fmt: skip
