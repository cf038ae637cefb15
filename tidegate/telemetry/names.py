"""Every metric, span and attribute we emit, as documented constants: a typing error is an `AttributeError`.

Attributes follow OpenTelemetry's GenAI conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/); what they have
no name for begins with `tidegate.`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One Prometheus metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: Literal["livesum", "livemostrecent"] = "livesum"
    """What a gauge shows where several workers have it."""


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REQUESTS = Metric("tidegate_requests", "counter", "Admitted requests by how they ended", ("model", "path", "outcome"))
REFUSALS = Metric("tidegate_refusals", "counter", "Requests refused before they were admitted", ("code",))
DURATION = Metric(
    "gen_ai_server_request_duration_seconds", "histogram", "Whole time of a request", ("model",), _SECONDS
)
TTFT = Metric(
    "gen_ai_server_time_to_first_token_seconds", "histogram", "Time to the first answer byte", ("model",), _SECONDS
)
TOKENS = Metric("tidegate_tokens", "counter", "Tokens by direction: input, output, cached", ("model", "direction"))
PROJECT_REQUESTS = Metric(
    "tidegate_project_requests", "counter", "Admitted requests of a project", ("organisation", "project", "outcome")
)
PROJECT_TOKENS = Metric(
    "tidegate_project_tokens", "counter", "Tokens of a project by direction", ("organisation", "project", "direction")
)
VERDICTS = Metric("tidegate_guardrail_verdicts", "counter", "Findings acted on", ("guardrail", "origin", "action"))
ATTEMPTS = Metric(
    "tidegate_upstream_attempts", "counter", "Attempts at replicas; `ok` or the error's code", ("replica", "result")
)
RETRIES = Metric("tidegate_upstream_retries", "counter", "Attempts after the first", ("model", "reason"))
RETRIES_REFUSED = Metric("tidegate_upstream_retries_refused", "counter", "Retries that the budget forbade", ("model",))
EJECTIONS = Metric("tidegate_replica_ejections", "counter", "Times a replica got no requests for a while", ("replica",))
INFLIGHT = Metric("tidegate_inflight_requests", "gauge", "Admitted requests that have not settled")
BUFFERED = Metric("tidegate_buffered_bytes", "gauge", "Bytes of request bodies that the process holds")
WAITING = Metric("tidegate_waiting_requests", "gauge", "Requests that wait for a model's first answer byte", ("model",))
INFLIGHT_TOKENS = Metric(
    "tidegate_inflight_tokens",
    "gauge",
    "Tokens that models work on: of prompts, by their length, and of answers so far",
    ("model",),
)
CERTIFICATE_EXPIRES = Metric(
    "tidegate_certificate_expires_timestamp_seconds",
    "gauge",
    "When the certificate that a model server showed last ends",
    ("replica",),
    across="livemostrecent",
)
TASKS = Metric("tidegate_tasks", "gauge", "Asynchronous tasks that have not ended")
WORKERS = Metric("tidegate_workers", "gauge", "Workers that serve, where there are several")
WORKERS_LOST = Metric("tidegate_workers_lost", "counter", "Workers that ended by themselves and were started again")
JOURNAL_UNSHIPPED = Metric("tidegate_journal_unshipped_bytes", "gauge", "Journal bytes not yet in the database")
JOURNAL_ERRORS = Metric("tidegate_journal_ship_errors", "counter", "Shipments that failed and will be tried again")
LIMIT_STORE_AWAY = Metric("tidegate_limit_store_away", "gauge", "Processes that count limits without their store")
LIMITS_ALONE = Metric("tidegate_limits_decided_alone", "counter", "Decisions on limits made without the store")
SNAPSHOT_ERRORS = Metric("tidegate_snapshot_errors", "counter", "Reloads of resources and keys that failed")
TOKENS_REFUSED = Metric(
    "tidegate_internal_tokens_refused", "counter", "Calls between services whose token did not hold", ("reason",)
)
SERVICE_REQUESTS = Metric(
    "tidegate_service_requests", "counter", "Requests that a service behind the gateway answered", ("route", "status")
)
SERVICE_DURATION = Metric(
    "tidegate_service_request_duration_seconds", "histogram", "Whole time of such a request", ("route",), _SECONDS
)
FILES = Metric("tidegate_knowledge_files", "counter", "Files brought into stores, by how it ended", ("outcome",))
INDEX_BUILDS = Metric("tidegate_knowledge_index_builds", "counter", "Index builds, by how they ended", ("outcome",))
INDEX_BUILD_DURATION = Metric(
    "tidegate_knowledge_index_build_seconds", "histogram", "Time of a build; searches go on meanwhile", (), _SECONDS
)
TOOL_CALLS = Metric("tidegate_tool_calls", "counter", "Tool calls by how they ended", ("server", "outcome"))
TOOL_DURATION = Metric(
    "tidegate_tool_call_duration_seconds", "histogram", "Whole time of a tool call", ("server",), _SECONDS
)

METRICS = tuple(value for value in vars().copy().values() if isinstance(value, Metric))
"""Every metric, for the registry and its test."""

SPAN_SCREEN_INPUT = "screen_input"
"""Guardrails on the request; internal span, only where the policy has any."""
SPAN_DISPATCH = "dispatch"
"""One attempt at a replica; client span, parent of the model server's own span."""
SPAN_RETRIEVE = "retrieve"
"""The gateway asks the knowledge service for passages; client span."""
SPAN_CALL = "call"
"""The gateway passes a request on to another service of ours; client span."""
SPAN_EMBED = "embeddings all-minilm-l6-v2"
"""The knowledge service turns a question into a vector."""
SPAN_SEARCH = "search"
"""The knowledge service asks its index."""
SPANS = (SPAN_SCREEN_INPUT, SPAN_DISPATCH, SPAN_RETRIEVE, SPAN_CALL, SPAN_EMBED, SPAN_SEARCH)
"""Every child span; the server span is named `{operation} {model}` as the GenAI conventions ask, or `{method} {route}`."""

OPERATION = "gen_ai.operation.name"
"""`chat` or `text_completion`."""
REQUEST_MODEL = "gen_ai.request.model"
"""The model the caller named."""
INPUT_TOKENS = "gen_ai.usage.input_tokens"
"""Tokens of the prompt."""
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
"""Tokens of the answer."""
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
"""Prompt tokens that the model server had in its prefix cache."""
FINISH_REASON = "gen_ai.response.finish_reasons"
"""Why the answer ended."""
SERVER_ADDRESS = "server.address"
"""The replica's base URL."""
HTTP_STATUS = "http.response.status_code"
"""Status of the answer."""
ERROR_TYPE = "error.type"
"""Our error's code, where the request failed."""
REQUEST_ID = "tidegate.request_id"
"""Our id of the request, also in the usage row and in `x-request-id`."""
ORGANISATION = "tidegate.organisation"
"""The caller's organisation."""
PROJECT = "tidegate.project"
"""The caller's project."""
OUTCOME = "tidegate.outcome"
"""How the request ended, as in the usage row."""
FINDINGS = "tidegate.guardrail.findings"
"""How many findings the guardrails acted on."""
TOOL_NAME = "gen_ai.tool.name"
"""The tool as it is offered: `<server>__<tool>`."""
ROUTE = "http.route"
"""The path's template, without ids."""
PASSAGES = "tidegate.retrieval.passages"
"""How many passages were found."""
PICK_REASON = "tidegate.routing.reason"
"""Why this replica was picked."""

ATTRIBUTES = tuple(
    value for key, value in vars().copy().items() if isinstance(value, str) and "." in value and key.isupper()
)
"""Every span attribute."""
