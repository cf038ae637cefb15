"""Screens plain texts: documents, file names, passages."""

from dataclasses import dataclass

from guardrails.engine.interfaces import Guardrail
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
        found = guardrail.scan(text, final=True).findings
        if not found:
            continue
        verdicts.append(Verdict(guardrail.name, origin, guardrail.on_input, len(found)))
        if guardrail.on_input is Action.REFUSE:
            return Screened("", tuple(verdicts), guardrail.refusal(len(found)))
        text = mask(guardrail, text)
    return Screened(text, tuple(verdicts), None)


def mask(guardrail: Guardrail, text: str) -> str:
    """`text` with every finding replaced."""
    out, at = [], 0
    for span in guardrail.scan(text, final=True).findings:
        out += [text[at : span.start], guardrail.mask(text, span)]
        at = span.end
    return "".join((*out, text[at:]))
