"""Screens a whole document. It is shown to guardrails as one text, since that is how it is kept and found."""

from guardrails.engine.policy import Policy
from guardrails.engine.texts import screen_text
from rag.document import ParsedDocument, Section
from tidegate.types import Verdict


class TextRefused(Exception):
    """A guardrail refuses the text."""

    def __init__(self, message: str, verdicts: tuple[Verdict, ...]) -> None:
        super().__init__(message)
        self.message = message
        self.verdicts = verdicts


class BorderFinding(Exception):
    """What must be masked lies across the border of two sections."""

    def __init__(self, verdicts: tuple[Verdict, ...]) -> None:
        super().__init__()
        self.verdicts = verdicts


def screen_document(policy: Policy, document: ParsedDocument) -> tuple[ParsedDocument, tuple[Verdict, ...]]:
    """The document as the policy lets it pass, with true spans, and what was found.

    Raises:
        TextRefused: a guardrail refuses it.
        BorderFinding: it cannot be masked section by section.
    """
    whole = screen_text(policy, document.text, "ingested")
    if whole.refusal is not None:
        raise TextRefused(whole.refusal, whole.verdicts)
    if whole.text == document.text:
        return document, whole.verdicts
    parts, sections, at = list[str](), list[Section](), 0
    for section in document.sections:  # masked one by one, so that spans stay true
        part = screen_text(policy, document.text[section.start : section.end], "ingested").text
        heading = section.heading and screen_text(policy, section.heading, "ingested").text
        sections.append(Section(at, at + len(part), section.page, heading))
        parts.append(part)
        at += len(part)
    masked = ParsedDocument("".join(parts), sections)
    if screen_text(policy, masked.text, "ingested").verdicts:
        raise BorderFinding(whole.verdicts)
    return masked, whole.verdicts
