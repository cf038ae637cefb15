"""The texts of a decoded request: what a guardrail is shown of it, and how a finding is masked in place.

Shown are strings, numbers, names of fields, JSON inside strings, and neighbouring text parts as one text, as the model reads
them. Not shown are the bytes of inline media, where a model server takes them for media.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from guardrails.engine.interfaces import Guardrail
from guardrails.engine.texts import mask
from tidegate.wire.openai import TEXT_MEMBERS, decode_any, encode

NEVER_MEDIA = frozenset({"tools", "tool_choice", "functions", "metadata", "response_format", "output_config", "user"})
"""Outermost fields in which a URL is only mentioned."""
DATA = frozenset({"arguments", "input", "parameters", "input_schema", "json"})
"""Fields below which everything is shown to the model as text."""
_MEDIA = frozenset({"image_url", "audio_url", "video_url", "file_url", "file_data"})
_INLINE_MEDIA = re.compile(r"(data:[\w.+/-]{0,100}(?:;[\w=.+-]{0,100}){0,4};base64,)[A-Za-z0-9+/=]*\Z", re.IGNORECASE)
_MAX_NESTED_JSON = 3
NOWHERE: Final = 0
"""No media here or below."""
BELOW: Final = 1
HERE: Final = 2
"""A value that the model server takes for media."""
PARTS: Final = 3
"""As `BELOW`; a list here is a message's content."""


class Texts:
    """Every text in a request with how often it occurs, and the runs of parts that are read as one."""

    def __init__(self) -> None:
        self.single: dict[str, int] = {}
        self.runs: list[list[str]] = []

    def count(self, guardrail: Guardrail) -> int:
        """Findings of `guardrail`; one that lies across parts counts once."""
        found = 0
        for text, times in self.single.items():
            if guardrail.trigger.search(text) is not None:
                found += times * len(guardrail.scan(text, final=True).findings)
        for run in self.runs:
            found += len(_across(guardrail, run))
        return found

    def collect(self, fields: dict[str, Any]) -> None:
        """Add the texts of a whole request."""
        for name, value in fields.items():
            self._add(name)
            self._walk(value, NOWHERE if name in NEVER_MEDIA else BELOW, 0)

    def _add(self, text: str) -> None:
        self.single[text] = self.single.get(text, 0) + 1

    def _walk(self, value: Any, place: int, nested: int) -> None:
        if isinstance(value, str):
            self._text(value, place, nested)
        elif isinstance(value, dict):
            for name, item in value.items():
                self._add(name)
                self._walk(item, _place_of(name, place), nested)
        elif isinstance(value, list):
            for item in value:
                self._walk(item, BELOW if place in (BELOW, PARTS) else NOWHERE, nested)
            self.runs += [[text for *_, text in run] for run in _runs(value, place == PARTS)]
        elif value is not None and not isinstance(value, bool):
            self._add(number_text(value))

    def _text(self, text: str, place: int, nested: int) -> None:
        media = _INLINE_MEDIA.match(text) if place == HERE else None
        self._add(text if media is None else media[1])
        inner = _json_in(text) if media is None and nested < _MAX_NESTED_JSON else None
        if inner is not None:
            self._walk(inner, NOWHERE, nested + 1)


def masked(guardrail: Guardrail, fields: dict[str, Any]) -> dict[str, Any]:
    """A request in which every finding of `guardrail` is masked."""
    return {
        _mask(guardrail, name): _masked(guardrail, value, NOWHERE if name in NEVER_MEDIA else BELOW, 0)
        for name, value in fields.items()
    }


def _masked(guardrail: Guardrail, value: Any, place: int, nested: int) -> Any:
    if isinstance(value, dict):
        return {
            _mask(guardrail, name): _masked(guardrail, item, _place_of(name, place), nested)
            for name, item in value.items()
        }
    if isinstance(value, list):
        below = BELOW if place in (BELOW, PARTS) else NOWHERE
        items = [_masked(guardrail, item, below, nested) for item in value]
        for run in _runs(items, place == PARTS):
            _mask_across(guardrail, items, run)
        return items
    if isinstance(value, str):
        return _masked_text(guardrail, value, place, nested)
    if value is None or isinstance(value, bool):
        return value
    text = number_text(value)
    return mask(guardrail, text) if guardrail.scan(text, final=True).findings else value


def _masked_text(guardrail: Guardrail, text: str, place: int, nested: int) -> str:
    media = _INLINE_MEDIA.match(text) if place == HERE else None
    if media is not None:
        return _mask(guardrail, media[1]) + text[media.end(1) :]
    inner = _json_in(text) if nested < _MAX_NESTED_JSON else None
    if inner is not None:
        changed = _masked(guardrail, inner, NOWHERE, nested + 1)
        if changed != inner:
            text = encode(changed).decode()
    return _mask(guardrail, text)


def _mask(guardrail: Guardrail, text: str) -> str:
    return mask(guardrail, text) if guardrail.trigger.search(text) is not None else text


def number_text(value: Any) -> str:
    """A number as it is written without an exponent, where it is a whole one.

    It is not annotated as `float`: compiled, an int would become one.
    """
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _place_of(name: str, place: int) -> int:
    """Where the value of a field `name` stands, in an object that stands at `place`."""
    if place == NOWHERE or name in DATA:
        return NOWHERE
    if place == HERE:
        return HERE if name == "url" else NOWHERE
    return HERE if name in _MEDIA else PARTS if name == "content" else BELOW


def _json_in(text: str) -> Any:
    """What a text says where it is JSON with escapes, behind which characters may hide; else None."""
    if "\\u" not in text or text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return decode_any(text.encode())
    except (ValueError, RecursionError):
        return None


_Run = list[tuple[int, str, str]]
"""Neighbours: index, member that holds the text (empty for a bare string), text."""


def _runs(items: list[Any], of_content: bool) -> list[_Run]:
    """Neighbours in a list that are text parts; two at least. Content may have bare strings as parts."""
    runs: list[_Run] = []
    run: _Run = []
    for index, item in enumerate(items):
        member = ""
        if isinstance(item, dict):
            member = next((name for name in TEXT_MEMBERS if isinstance(item.get(name), str)), "")
        text = item[member] if member else item if of_content else None
        if isinstance(text, str):
            run.append((index, member, text))
            continue
        if len(run) > 1:
            runs.append(run)
        run = []
    if len(run) > 1:
        runs.append(run)
    return runs


def _across(guardrail: Guardrail, run: Sequence[str]) -> list[tuple[int, int]]:
    """Findings in the joined texts that lie in more than one of them."""
    joined = "".join(run)
    if guardrail.trigger.search(joined) is None:
        return []
    found, borders, border = list[tuple[int, int]](), iter(run), 0
    for span in guardrail.scan(joined, final=True).findings:
        while border <= span.start:
            border += len(next(borders))
        if span.end > border:
            found.append((span.start, span.end))
    return found


def _mask_across(guardrail: Guardrail, items: list[Any], run: _Run) -> None:
    """Mask what lies across parts: what stands in its place goes into the first of them."""
    texts = [text for *_, text in run]
    joined = "".join(texts)
    for span in reversed(guardrail.scan(joined, final=True).findings):
        at = 0
        for number, text in enumerate(texts):
            start, end = max(span.start - at, 0), span.end - at
            if at <= span.start < at + len(text) < span.end:
                texts[number] = text[:start] + guardrail.mask(joined, span)
            elif span.start < at < span.end:
                texts[number] = text[max(end, 0) :]
            at += len(text)
    for (index, member, before), after in zip(run, texts, strict=True):
        if after != before:
            items[index] = {**items[index], member: after} if member else after
