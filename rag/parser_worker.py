"""What a process does in which documents are read and screened. It has no key, no database and no model.

A document that breaks it breaks nothing else: it is one of a pool's, limited in time and memory, and killed when nobody waits
for its result (`rag/parsing.py`). Policies are built from their specification, as in the gateway.
"""

import hashlib
import importlib
import pkgutil

import msgspec

import rag.parsers
from guardrails.engine.policy import Policy, build_policy
from rag.document import CannotRead, ParsedDocument, Parser
from rag.screening import BorderFinding, TextRefused, screen_document
from tidegate import plugins
from tidegate.config import resources
from tidegate.config.settings import PluginSpec
from tidegate.types import Verdict

TARGET = f"{__name__}:run"
for _module in pkgutil.iter_modules(rag.parsers.__path__):  # once, before the pool forks its processes
    importlib.import_module(f"rag.parsers.{_module.name}")


class Order(msgspec.Struct):
    """A document to read, by the parser configured as `spec`, and to screen with `policy`; it is the job's body."""

    spec: bytes
    policy: bytes


class Report(msgspec.Struct):
    """What became of it; the document itself, as MessagePack, is the result's body."""

    problem: str | None = None
    """Why it cannot be read."""
    refusal: str | None = None
    """Why the policy refuses it; empty where a finding crosses the border of two sections."""
    characters: int = 0
    sha256: str = ""
    verdicts: tuple[Verdict, ...] = ()


_parsers: dict[bytes, Parser] = {}
_policies: dict[bytes, Policy] = {}


def run(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """See `tidegate.serving.forking`."""
    report, document = _read(msgspec.msgpack.decode(head, type=Order), body)
    return msgspec.msgpack.encode(report), b"" if document is None else msgspec.msgpack.encode(document)


def _read(order: Order, data: bytes) -> tuple[Report, ParsedDocument | None]:
    document = _parsed(_parser(order.spec), data)
    if isinstance(document, Report):
        return document, None
    try:
        document, verdicts = screen_document(_policy(order.policy), document)
    except TextRefused as error:
        return Report(refusal=error.message, verdicts=error.verdicts), None
    except BorderFinding as error:
        return Report(refusal="", verdicts=error.verdicts), None
    sha256 = hashlib.sha256(data).hexdigest()
    return Report(characters=len(document.text), sha256=sha256, verdicts=verdicts), document


def _parsed(parser: Parser, data: bytes) -> ParsedDocument | Report:
    try:
        document = parser.parse(data)
        document.text.encode()
        return document
    except CannotRead as error:
        return Report(problem=str(error))
    except MemoryError:
        raise
    except RecursionError:
        return Report(problem="it is nested too deeply")
    except Exception as error:  # noqa: BLE001 - whatever a parser trips over, the document is at fault
        return Report(problem=f"it is damaged ({type(error).__name__})")


def _parser(spec: bytes) -> Parser:
    if spec not in _parsers:
        _parsers[spec] = plugins.build("document_parser", PluginSpec.model_validate_json(spec))
    return _parsers[spec]


def _policy(spec: bytes) -> Policy:
    if spec not in _policies:
        _policies.clear()
        _policies[spec] = build_policy(resources.Policy.model_validate_json(spec))
    return _policies[spec]
