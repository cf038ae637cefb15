"""Screens plain texts: documents, file names, passages."""

from collections.abc import Iterator
from dataclasses import dataclass

from guardrails.engine.blocks import each_block
from guardrails.engine.interfaces import Guardrail, Scan, Span
from guardrails.engine.policy import Policy
from tidegate.types import Action, Verdict


@dataclass(frozen=True, slots=True)
class Screened:
    """What the policy's input guardrails make of a text."""

    text: str
    """With findings masked where a guardrail masks."""
    verdicts: tuple[Verdict, ...]
    refusal: str | None
    """The public message if a guardrail refuses; the text must not be used then."""


def screen_text(policy: Policy, text: str, origin: str) -> Screened:
    """Shows `text` to every input guardrail; `origin` goes into the verdicts."""
    verdicts: list[Verdict] = []
    for guardrail in policy.inputs:
        if guardrail.trigger.search(text) is None:
            continue
        if guardrail.on_input is Action.REFUSE:
            count, masked = sum(map(len, scan_blocks(guardrail, text))), text
        else:
            masked, count = _masked(guardrail, text)
        if not count:
            continue
        verdicts.append(Verdict(guardrail.name, origin, guardrail.on_input, count))
        if guardrail.on_input is Action.REFUSE:
            return Screened("", tuple(verdicts), guardrail.refusal(count))
        text = masked
    return Screened(text, tuple(verdicts), None)


def mask(guardrail: Guardrail, text: str) -> str:
    """`text` with every finding replaced."""
    return _masked(guardrail, text)[0]


def scan_blocks(guardrail: Guardrail, text: str) -> Iterator[tuple[Span, ...]]:
    """The findings in a whole text, in steps of some 16,000 characters; a tuple per step, often empty.

    Positions count from the beginning of `text`, and all steps together find what one `scan` of it finds. A caller on an
    event loop may do other work between steps, or stop.
    """

    def scan(part: str, final: bool) -> Scan:
        return guardrail.scan(part, final=final)

    for block in each_block(scan, text, True):
        yield block.findings


def _masked(guardrail: Guardrail, text: str) -> tuple[str, int]:
    """`text` with every finding replaced, and how many there were. Pieces are joined block by block, to save memory."""
    blocks: list[str] = []
    at = count = 0
    for spans in scan_blocks(guardrail, text):
        out = []
        for span in spans:
            out += [text[at : span.start], guardrail.mask(text, span)]
            at = span.end
        if out:
            blocks.append("".join(out))
        count += len(spans)
    return ("".join((*blocks, text[at:])), count) if count else (text, 0)
