"""The process in which documents are read: `python -m rag.parser_worker MEMORY_BYTES`.

Reads frames from standard input, writes frames to standard output: four bytes of length, then MessagePack. It has no key,
no database and no model; a document that breaks it breaks nothing else.
"""

import resource
import signal
import sys
from typing import Any, BinaryIO

import msgspec

from rag.document import CannotRead, ParsedDocument, Parser
from tidegate import plugins
from tidegate.config.settings import PluginSpec
from tidegate.serving.children import die_with_parent


class Order(msgspec.Struct):
    """A document to read, by the parser configured as `spec`."""

    spec: dict[str, Any]
    data: bytes


class Report(msgspec.Struct):
    """What became of it: a document, or why not."""

    document: ParsedDocument | None = None
    problem: str | None = None


def main() -> None:
    """Until standard input ends."""
    die_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a chatty library must not write between frames
    parsers: dict[bytes, Parser] = {}
    while frame := read_frame(source):
        order = msgspec.msgpack.decode(frame, type=Order)
        name = msgspec.msgpack.encode(order.spec)
        if name not in parsers:
            parsers[name] = plugins.build("document_parser", PluginSpec.model_validate(order.spec))
        body = msgspec.msgpack.encode(_read(parsers[name], order.data))
        target.write(len(body).to_bytes(4) + body)
        target.flush()


def read_frame(source: BinaryIO) -> bytes:
    """The next frame; empty at the end."""
    head = source.read(4)
    return source.read(int.from_bytes(head)) if len(head) == 4 else b""


def _read(parser: Parser, data: bytes) -> Report:
    try:
        document = parser.parse(data)
        document.text.encode()
        return Report(document)
    except CannotRead as error:
        return Report(problem=str(error))
    except MemoryError:
        return Report(problem="reading it needs more memory than is allowed")
    except RecursionError:
        return Report(problem="it is nested too deeply")
    except Exception as error:  # noqa: BLE001 - whatever a parser trips over, the document is at fault
        return Report(problem=f"it is damaged ({type(error).__name__})")


if __name__ == "__main__":
    main()
