"""A small OTLP receiver for one machine: keeps the spans that arrive as JSON lines. `python -m tidegate.local.receiver`."""

import argparse
import gzip
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_MAX_BODY_BYTES = 16_777_216


def spans_of(body: bytes) -> list[dict[str, Any]]:
    """The spans in an OTLP export, one flat dictionary each; times in ns, ids in hex."""
    found = []
    for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = next(
            (a.value.string_value for a in resource_spans.resource.attributes if a.key == "service.name"), "?"
        )
        for scope_spans in resource_spans.scope_spans:
            found += [
                {
                    "service": service,
                    "name": span.name,
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "start_ns": span.start_time_unix_nano,
                    "end_ns": span.end_time_unix_nano,
                    "attributes": {item.key: _value(item.value) for item in span.attributes},
                }
                for span in scope_spans.spans
            ]
    return found


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


class _Handler(BaseHTTPRequestHandler):
    out: Path
    lock = threading.Lock()

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", "0"))
        if size > _MAX_BODY_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(size)
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        lines = "".join(json.dumps(span) + "\n" for span in spans_of(body))
        with self.lock, self.out.open("a") as file:
            file.write(lines)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"ok\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.local.receiver")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4318)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    _Handler.out = arguments.out
    server = ThreadingHTTPServer((arguments.host, arguments.port), _Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()
