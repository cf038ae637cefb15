"""Traces: W3C context in, spans out, context on to the model server.

Source: https://www.w3.org/TR/trace-context/ and OpenTelemetry's GenAI conventions. An unsampled request has no span at
all, only a header that tells the model server not to record either.
"""

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from tidegate.errors import TidegateError
from tidegate.telemetry import names

_NO_PARENT = Context()
_NOT_ZERO = 1 << 64 | 1
"""In both ids, as the standard wants."""
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{0,64})?")


class Tracing:
    """Makes spans and sends them to the configured sinks; without sinks nothing is recorded."""

    def __init__(self, service: str, sample_ratio: float, exporters: Sequence[SpanExporter]) -> None:
        self._ratio = sample_ratio if exporters else 0.0
        self._enabled = bool(exporters)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,
        )
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("tidegate")

    def samples(self, parent: SpanContext | None) -> bool:
        """Whether a request is recorded: as its caller decided, else by the configured share."""
        if parent is not None:
            return self._enabled and bool(parent.trace_flags.sampled)
        return random.random() < self._ratio

    def start(self, name: str, parent: Span | SpanContext | None, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """A new span below `parent`, or the root of a new trace; the caller ends it."""
        if isinstance(parent, SpanContext):
            parent = NonRecordingSpan(parent)
        context = _NO_PARENT if parent is None else trace.set_span_in_context(parent, _NO_PARENT)
        return self._tracer.start_span(name, context, kind)

    @contextmanager
    def child(self, name: str, parent: Span | None, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span | None]:
        """A span around the block, if there is a parent; an error of ours marks it as failed."""
        if parent is None:
            yield None
            return
        span = self.start(name, parent, kind)
        try:
            yield span
        except TidegateError as error:
            fail(span, error.error_code or error.type)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Sends what is left; blocks for up to the exporters' timeout."""
        self._provider.shutdown()


def parse_traceparent(value: bytes | None) -> SpanContext | None:
    """The caller's span, or None if the header is absent or malformed (then a new trace begins, as the spec asks)."""
    match = None if value is None else _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5]):
        return None
    trace_id, span_id, flags = [int(part, 16) for part in match.group(2, 3, 4)]
    context = SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & 1), trace_state=TraceState()
    )
    return context if context.is_valid else None


def traceparent(span: Span) -> bytes:
    """The header that makes the next server's spans children of `span`."""
    context = span.get_span_context()
    return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)


def unsampled_traceparent(parent: SpanContext | None = None) -> bytes:
    """The header of the client's trace, or a new one, that nobody records: that is the gateway's decision."""
    if parent is not None:
        return b"00-%032x-%016x-00" % (parent.trace_id, parent.span_id)
    ids = (random.getrandbits(192) | _NOT_ZERO).to_bytes(24, "big").hex()
    return f"00-{ids[:32]}-{ids[32:]}-00".encode()


def fail(span: Span, code: str) -> None:
    """Marks `span` as failed, with our error code and nothing of the message."""
    span.set_attribute(names.ERROR_TYPE, code)
    span.set_status(StatusCode.ERROR)
