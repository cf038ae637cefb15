"""The one table of all public paths. Hot paths and FastAPI routes come from it, and both are in OpenAPI.

To add a path: one file named after it, and one row here. Everything needs a key unless `open_to_all` says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.api import (
    audio,
    chat_completions,
    completions,
    delegations,
    documents,
    embeddings,
    messages,
    models,
    rerank,
    responses,
    tokenize,
    tools,
)
from gateway.api.schemas import path_parameters
from gateway.exchange import Operation
from tidegate.serving import http

Method = Literal["GET", "POST", "DELETE"]


@dataclass(frozen=True, slots=True)
class Route:
    """One path. A hot path has an `operation` and goes to the pipeline; a `service` or the door for `tools` answers it; or it
    has an `endpoint`.
    """

    path: str
    method: Method
    summary: str
    tag: str
    operation: Operation | None = None
    service: Literal["knowledge", "agents"] | None = None
    upload: bool = False
    tools: bool = False
    endpoint: Callable[..., Any] | None = None
    openapi: dict[str, Any] = field(default_factory=dict)
    open_to_all: bool = False
    for_services: bool = False
    """Only a service that holds an internal token sees that there is such a path."""

    @property
    def checked(self) -> bool:
        """Whether FastAPI's side checks the key; the pipeline and the door for tools check by themselves."""
        return not (self.open_to_all or self.operation or self.tools)


def _files(path: str, method: Method, summary: str) -> Route:
    """A path of the knowledge service."""
    path = f"/v1/{path}"
    upload = method == "POST" and path == "/v1/files"
    takes = "multipart/form-data" if upload else "application/json" if method == "POST" else None
    openapi = documents.openapi(path, takes=takes, schema=documents.FORM if upload else None)
    tag = "Files" if path.startswith("/v1/files") else "Vector stores"
    return Route(path, method, summary, tag, service="knowledge", upload=upload, openapi=openapi)


def _response(method: Method, summary: str) -> Route:
    """A path of the agents service."""
    path = "/v1/responses/{response_id}"
    return Route(path, method, summary, "Responses", service="agents", openapi=documents.openapi(path))


def _hot(path: str, tag: str, summary: str, operation: Operation, openapi: dict[str, Any]) -> Route:
    """A path that goes to a model server."""
    return Route(path, "POST", summary, tag, operation=operation, openapi=openapi)


def _tools(path: str, summary: str) -> Route:
    """A path of the door for tools."""
    return Route(path, "POST", summary, "Tools", tools=True, openapi=tools.openapi(path))


_STORE = "vector_stores/{vector_store_id}"
_STORE_FILE = f"{_STORE}/files/{{file_id}}"

ROUTES: tuple[Route, ...] = (
    _hot("/v1/chat/completions", "Chat", "Create a chat completion", chat_completions.OPERATION, chat_completions.OPENAPI),
    _hot("/v1/completions", "Completions", "Create a completion", completions.OPERATION, completions.OPENAPI),
    _hot("/v1/embeddings", "Embeddings", "Create embeddings", embeddings.OPERATION, embeddings.OPENAPI),
    _hot("/v1/rerank", "Ranking", "Rank documents by a query", rerank.OPERATION, rerank.OPENAPI),
    _hot("/v2/rerank", "Ranking", "Rank documents by a query", rerank.OPERATION, rerank.OPENAPI),
    _hot("/rerank", "Ranking", "Rank documents by a query", rerank.OPERATION, rerank.OPENAPI),
    _hot("/v1/score", "Ranking", "Score pairs of texts", rerank.SCORE, rerank.SCORE_OPENAPI),
    _hot("/score", "Ranking", "Score pairs of texts", rerank.SCORE, rerank.SCORE_OPENAPI),
    _hot("/tokenize", "Tokens", "Turn text into tokens", tokenize.OPERATION, tokenize.OPENAPI),
    _hot("/detokenize", "Tokens", "Turn tokens into text", tokenize.DETOKENIZE, tokenize.DETOKENIZE_OPENAPI),
    _hot("/v1/messages", "Messages", "Create a message (Anthropic)", messages.OPERATION, messages.OPENAPI),
    _hot(
        "/v1/messages/count_tokens", "Messages", "Count a message's tokens (Anthropic)",
        messages.COUNT_TOKENS, messages.COUNT_TOKENS_OPENAPI,
    ),
    _hot("/v1/audio/transcriptions", "Audio", "Write down what is said in a sound file", audio.TRANSCRIPTIONS, audio.OPENAPI),
    _hot("/v1/audio/translations", "Audio", "Translate what is said in a sound file", audio.TRANSLATIONS, audio.OPENAPI),
    Route("/v1/models", "GET", "List the models this key may use", "Models", endpoint=models.list_models),
    Route("/v1/models/{model:path}", "GET", "Retrieve a model this key may use", "Models", endpoint=models.retrieve_model),
    Route("/v1/responses", "POST", "Create a response", "Responses", service="agents", openapi=responses.OPENAPI),
    _response("GET", "Retrieve a response"),
    _response("DELETE", "Delete a response"),
    Route(
        "/internal/delegations", "POST", "Renew an internal token", "Internal", endpoint=delegations.renew, for_services=True,
    ),
    _files("files", "POST", "Upload a file: it is read and screened before the answer"),
    _files("files", "GET", "List the project's files"),
    _files("files/{file_id}", "GET", "Retrieve a file"),
    _files("files/{file_id}", "DELETE", "Delete a file, also from every store"),
    _files("files/{file_id}/content", "GET", "The text that was read"),
    _files("vector_stores", "POST", "Create a vector store"),
    _files("vector_stores", "GET", "List the project's vector stores"),
    _files("vector_stores/search", "POST", "Search several vector stores at once"),
    _files(_STORE, "GET", "Retrieve a vector store"),
    _files(_STORE, "POST", "Change a vector store's name or metadata"),
    _files(_STORE, "DELETE", "Delete a vector store"),
    _files(f"{_STORE}/search", "POST", "Search a vector store"),
    _files(f"{_STORE}/files", "POST", "Add a file to a vector store"),
    _files(f"{_STORE}/files", "GET", "List a vector store's files"),
    _files(_STORE_FILE, "GET", "Retrieve a file of a vector store: how far it is"),
    _files(_STORE_FILE, "POST", "Change a file's attributes"),
    _files(_STORE_FILE, "DELETE", "Take a file out of a vector store"),
    _files(f"{_STORE_FILE}/content", "GET", "The text that was read"),
    _tools("/mcp", "Tools of every server this key may use (MCP)"),
    _tools("/mcp/{server}", "Tools of one server (MCP)"),
    Route(
        "/.well-known/oauth-protected-resource", "GET", "How to get a token for the tools (RFC 9728)", "Tools",
        endpoint=tools.metadata, open_to_all=True,
    ),
    Route(
        "/.well-known/oauth-protected-resource/{path:path}", "GET", "How to get a token for the tools (RFC 9728)", "Tools",
        endpoint=tools.metadata, open_to_all=True, openapi={"parameters": path_parameters("{path}")},
    ),
    Route("/healthz", "GET", "The process is alive", "Health", endpoint=http.healthz, open_to_all=True),
    Route("/readyz", "GET", "The process can take requests", "Health", endpoint=http.readyz, open_to_all=True),
)  # fmt: skip
