"""Guardrail `pan`: payment card numbers (primary account numbers, ISO/IEC 7812).

A finding is a run of 12 to 19 digits in an issuer's range and of that issuer's length whose Luhn check holds. Digits may
be separated by up to three spaces, dashes or dots, by characters without width, combining marks or Markdown's `**`.
Standing alone, a number is found in any grouping; inside a longer row of numbers only one unbroken group, also one with
three or more zeros in front, or groups as cards print them, count. Printed groups and single digits also count where line
breaks, slashes, commas or the borders of table cells stand between them, the same between all. UUIDs, hexadecimal ids and
digests (32, 40 or 64 characters, a letter among them), decimal fractions, IBANs (whose own check digits must hold) and
runs of more than 32 digits are passed over. `guardrails/cards` does the work.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from guardrails.cards.alphabet import ANY_DIGIT, is_digit
from guardrails.cards.issuers import MIN_DIGITS, is_pan, luhn
from guardrails.cards.scanner import scan_block
from guardrails.engine.blocks import BLOCK_CHARS, each_block
from guardrails.engine.interfaces import Scan, Span
from tidegate.types import Action

__all__ = ["CardNumbers", "Config", "build", "is_pan", "luhn"]

_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_ASCII_SEPARATORS = b" -.\t/_,|:'*`" + b"\\ntrfb" + bytes(range(32)) + b"\x7f"
"""What may stand between digits in ASCII JSON, escapes included: deleting more than that never hides a number."""


class Config(BaseModel):
    """Options of `type: pan`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_input: Literal["refuse", "mask", "off"] = Field("refuse", description="What happens to a request that holds one")
    on_output: Literal["refuse", "off"] = Field("refuse", description="Whether an answer is ended before one")


def build(config: Config, deps: object) -> "CardNumbers":
    """The guardrail, as configured."""
    return CardNumbers(config)


class CardNumbers:
    """See the module's docstring."""

    name = "pan"
    trigger = ANY_DIGIT

    def __init__(self, config: Config) -> None:
        self.on_input = Action(config.on_input)
        self.on_output = Action(config.on_output)

    def may_match(self, raw: bytes) -> bool:
        """Few passes in C. Non-ASCII text and `\\u` escapes may hide digits or separators, so they answer True; but an
        escaped digit shows a digit, too, so that few digits are few in any case.
        """
        if not raw.isascii():
            return True
        if len(raw.translate(None, _NO_DIGITS)) < MIN_DIGITS:
            return False
        if b"\\u" in raw:
            return True
        return b"0" * MIN_DIGITS in raw.translate(_DIGITS_TO_ZERO, _ASCII_SEPARATORS)

    def scan(self, text: str, *, final: bool) -> Scan:
        """See `Guardrail.scan`. Long texts are read in blocks, but all findings are kept: `scan_blocks` needs less memory."""
        if len(text) <= 2 * BLOCK_CHARS:
            return scan_block(text, final=final)
        found: list[Span] = []
        open_from = keep_from = 0
        for block in each_block(_scan_block, text, final):
            found += block.findings
            open_from, keep_from = block.open_from, block.keep_from
        return Scan(tuple(found), open_from, keep_from)

    def mask(self, text: str, span: Span) -> str:
        """Keeps the separators and the last four digits, as PCI DSS 3.4 allows."""
        left = sum(is_digit(char) for char in text[span.start : span.end]) - 4
        out = []
        for char in text[span.start : span.end]:
            if is_digit(char):
                left -= 1
                out.append("*" if left >= 0 else char)
            else:
                out.append(char)
        return "".join(out)

    def refusal(self, findings: int) -> str:
        """See `Guardrail.refusal`."""
        what = "a payment card number" if findings == 1 else f"{findings} payment card numbers"
        return (
            f"The request holds {what}, which the policy of this project does not let pass. Remove it and send again."
        )


def _scan_block(text: str, final: bool) -> Scan:
    return scan_block(text, final=final)
