"""The last stage, on every exit: one usage row, the metrics, the span, the log line. Synchronous, so nothing can skip it."""

import time
from typing import Any

from gateway.exchange import Exchange
from gateway.ledger.journal import Journal
from tidegate.telemetry import names
from tidegate.telemetry.logs import JsonLog
from tidegate.telemetry.metrics import Metrics
from tidegate.telemetry.tracing import fail
from tidegate.types import Usage, UsageSource

_BYTES_PER_TOKEN = 4  # the usual rule of thumb, only where nobody counted
_MAX_MEDIA = 1000
"""Inline media that are told from text in an estimate; a body with more is taken for text from there on."""


class Settlement:
    """Writes down what a request was."""

    def __init__(self, journal: Journal, metrics: Metrics, log: JsonLog, *, access_log: bool) -> None:
        self._journal = journal
        self._metrics = metrics
        self._log = log
        self._access_log = access_log

    def begin(self, exchange: Exchange) -> None:
        """Journals that the request is about to be dispatched."""
        exchange.row = _row(exchange, Usage(input_tokens=_estimate(_text_bytes(exchange))))
        self._journal.begin(exchange.row)
        exchange.begun = True

    def settle(self, exchange: Exchange) -> None:
        """Journals the usage row of an admitted request and tells metrics, trace and log."""
        duration_s = time.perf_counter() - exchange.started
        usage = final_usage(exchange)
        if exchange.admitted:
            row = exchange.row or _row(exchange, usage)
            _complete(row, exchange, usage, duration_s)
            self._journal_end(exchange, row)
            self._count(exchange, usage, duration_s)
        else:
            self._metrics.count(names.REFUSALS, (exchange.error and exchange.error.error_code) or "unknown")
        if exchange.span is not None:
            self._end_span(exchange, usage)
        if self._access_log:
            self._write_line(exchange, usage, duration_s)

    def _journal_end(self, exchange: Exchange, row: dict[str, Any]) -> None:
        try:
            self._journal.end(row, begun=exchange.begun)
        except OSError as error:
            self._log.write("critical", "journal_not_written", request_id=exchange.request_id, reason=error.strerror)

    def _count(self, exchange: Exchange, usage: Usage, duration_s: float) -> None:
        metrics, model, owner = self._metrics, exchange.known_model().name, exchange.known_principal()
        organisation, project = owner.organisation, owner.project
        metrics.count(names.REQUESTS, model, exchange.path, exchange.outcome)
        metrics.count(names.PROJECT_REQUESTS, organisation, project, exchange.outcome)
        metrics.observe(names.DURATION, duration_s, model)
        if exchange.ttft_s is not None:
            metrics.observe(names.TTFT, exchange.ttft_s, model)
        for direction, tokens in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cached", usage.cached_tokens),
        ):
            if tokens:
                metrics.count(names.TOKENS, model, direction, by=tokens)
                metrics.count(names.PROJECT_TOKENS, organisation, project, direction, by=tokens)
        for verdict in exchange.verdicts:
            metrics.count(names.VERDICTS, verdict.guardrail, verdict.origin, verdict.action, by=verdict.findings)

    def _end_span(self, exchange: Exchange, usage: Usage) -> None:
        span = exchange.span
        assert span is not None  # noqa: S101
        if exchange.model is not None:
            span.update_name(f"{exchange.operation.name} {exchange.model.name}")
            span.set_attribute(names.REQUEST_MODEL, exchange.model.name)
            span.set_attribute(names.INPUT_TOKENS, usage.input_tokens)
            span.set_attribute(names.OUTPUT_TOKENS, usage.output_tokens)
            span.set_attribute(names.CACHED_TOKENS, usage.cached_tokens)
        if exchange.principal is not None:
            span.set_attribute(names.ORGANISATION, exchange.principal.organisation)
            span.set_attribute(names.PROJECT, exchange.principal.project)
        if exchange.finish_reason is not None:
            span.set_attribute(names.FINISH_REASON, [exchange.finish_reason])
        if exchange.status is not None:
            span.set_attribute(names.HTTP_STATUS, exchange.status)
        span.set_attribute(names.OPERATION, exchange.operation.name)
        span.set_attribute(names.REQUEST_ID, exchange.request_id)
        span.set_attribute(names.OUTCOME, exchange.outcome)
        if exchange.error is not None:
            fail(span, exchange.error.error_code or exchange.error.type)
        span.end()

    def _write_line(self, exchange: Exchange, usage: Usage, duration_s: float) -> None:
        principal, pick = exchange.principal, exchange.pick
        self._log.write(
            exchange.error.log_level if exchange.error else "info",
            "request",
            request_id=exchange.request_id,
            parent_request_id=exchange.parent_request_id,
            path=exchange.path,
            status=exchange.status,
            outcome=exchange.outcome,
            code=exchange.error.error_code if exchange.error else None,
            organisation=principal.organisation if principal else None,
            project=principal.project if principal else None,
            key_id=principal.key_id if principal else None,
            model=exchange.model.name if exchange.model else None,
            replica=pick.replica.url if pick else None,
            pick=pick.reason if pick else None,
            tried=[item._asdict() for item in exchange.tried] or None,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            duration_ms=int(duration_s * 1e5) / 100,
            guardrails=[f"{v.guardrail}:{v.origin}:{v.action}" for v in exchange.verdicts] or None,
        )


def final_usage(exchange: Exchange) -> Usage:
    """The best numbers there are: reported by the model server, counted from the stream, or estimated."""
    if exchange.usage is not None:
        return exchange.usage
    if not exchange.begun:
        return Usage(source=UsageSource.COUNTED)  # nothing was sent to a model
    estimate = _estimate(_text_bytes(exchange))
    if exchange.pieces:
        return Usage(input_tokens=estimate, output_tokens=exchange.pieces, source=UsageSource.COUNTED)
    return Usage(input_tokens=estimate, output_tokens=_estimate(exchange.answer_bytes), source=UsageSource.ESTIMATED)


def _text_bytes(exchange: Exchange) -> int:
    return text_bytes(exchange.body) if exchange.inline_media else len(exchange.body)


def text_bytes(body: bytes) -> int:
    """The length of a body without what is inline in base64: an image of a megabyte is no quarter of a million tokens."""
    left, at, media = len(body), body.find(b";base64,"), 0
    while at >= 0 and media < _MAX_MEDIA:
        media += 1
        end = body.find(b'"', at)
        left -= (end if end >= 0 else len(body)) - at
        at = body.find(b";base64,", at + 8) if end < 0 else body.find(b";base64,", end)
    return left


def _estimate(size_bytes: int) -> int:
    return -(-size_bytes // _BYTES_PER_TOKEN)


def _row(exchange: Exchange, usage: Usage) -> dict[str, Any]:
    """The columns of `tidegate.store.tables.usage`, as far as they are known before dispatch."""
    principal = exchange.known_principal()
    return {
        "request_id": exchange.request_id,
        "organisation": principal.organisation,
        "project": principal.project,
        "key_id": principal.key_id,
        "model": exchange.known_model().name,
        "path": exchange.path,
        "replica": None,
        "stream": exchange.stream,
        "outcome": exchange.outcome,
        "http_status": None,
        "input_tokens": usage.input_tokens,
        "output_tokens": 0,
        "cached_tokens": 0,
        "usage_source": usage.source,
        "started_at": exchange.started_at,
        "duration_ms": None,
        "ttft_ms": None,
        "parent_request_id": exchange.parent_request_id,
        "trace_id": exchange.trace_id,
    }


def _complete(row: dict[str, Any], exchange: Exchange, usage: Usage, duration_s: float) -> None:
    row["replica"] = exchange.pick.replica.url if exchange.pick else None
    row["outcome"] = exchange.outcome
    row["http_status"] = exchange.status
    row["input_tokens"] = usage.input_tokens
    row["output_tokens"] = usage.output_tokens
    row["cached_tokens"] = usage.cached_tokens
    row["usage_source"] = usage.source
    row["duration_ms"] = int(duration_s * 1e6) / 1000
    row["ttft_ms"] = None if exchange.ttft_s is None else int(exchange.ttft_s * 1e6) / 1000
