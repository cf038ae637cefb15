"""Telemetry sink `otlp`: spans by OTLP over HTTP with protobuf."""

from opentelemetry.sdk.trace.export import SpanExporter
from pydantic import BaseModel, ConfigDict, Field

from tidegate.errors import UnknownPlugin


class Config(BaseModel):
    """Options of `type: otlp`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(
        pattern=r"^https?://", description="The collector's trace endpoint, usually ending in /v1/traces"
    )
    timeout_s: float = Field(5, gt=0, description="Time one export may take")


def build(config: Config, deps: object) -> SpanExporter:
    """The exporter; it runs in a thread of the SDK's and never blocks a request."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise UnknownPlugin("telemetry sink 'otlp' needs the extra: pip install 'tidegate[otlp]'") from error
    return OTLPSpanExporter(endpoint=config.endpoint, timeout=config.timeout_s)
