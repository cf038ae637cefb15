"""Every metric, span and attribute we emit, as documented constants: a typing error is an `AttributeError`.

Attributes follow OpenTelemetry's GenAI conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/); what they have
no name for begins with `tidegate.`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One Prometheus metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


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
VERDICTS = Metric("tidegate_guardrail_verdicts", "counter", "Findings acted on", ("guardrail", "origin", "action"))
RETRIES = Metric("tidegate_upstream_retries", "counter", "Attempts after the first", ("model", "reason"))
INFLIGHT = Metric("tidegate_inflight_requests", "gauge", "Admitted requests that have not settled")
JOURNAL_UNSHIPPED = Metric("tidegate_journal_unshipped_bytes", "gauge", "Journal bytes not yet in the database")
JOURNAL_ERRORS = Metric("tidegate_journal_ship_errors", "counter", "Shipments that failed and will be tried again")
SNAPSHOT_ERRORS = Metric("tidegate_snapshot_errors", "counter", "Reloads of resources and keys that failed")

METRICS = tuple(value for value in vars().copy().values() if isinstance(value, Metric))
"""Every metric, for the registry and its test."""

SPAN_SCREEN_INPUT = "screen_input"
"""Guardrails on the request; internal span, only where the policy has any."""
SPAN_DISPATCH = "dispatch"
"""One attempt at a replica; client span, parent of the model server's own span."""
SPANS = (SPAN_SCREEN_INPUT, SPAN_DISPATCH)
"""Every child span; the server span is named `{operation} {model}` as the GenAI conventions ask."""

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
PICK_REASON = "tidegate.routing.reason"
"""Why this replica was picked."""

ATTRIBUTES = tuple(
    value for key, value in vars().copy().items() if isinstance(value, str) and "." in value and key.isupper()
)
"""Every span attribute."""
