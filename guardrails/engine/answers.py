"""Screens a whole (non-streamed) answer."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from guardrails.engine.chunks import MEETING_CHARS
from guardrails.engine.interfaces import Guardrail
from guardrails.engine.logprobs import tokens_of
from guardrails.engine.policy import Policy, strings
from guardrails.engine.texts import mask
from tidegate.errors import UpstreamBroken
from tidegate.types import Verdict
from tidegate.wire.openai import decode_any, encode

_KNOWN = frozenset(
    {"id", "object", "created", "model", "usage", "system_fingerprint", "service_tier", "kv_transfer_params"}
)
"""Members of an answer that the model has not written."""
_TOKENS = re.compile(rb'"logprobs"\s*:\s*[\[{"]')
_REASONING = re.compile(rb'"reasoning(?:_content)?"\s*:\s*"[^"]')
_OF_PROMPT = frozenset({"prompt_logprobs", "prompt_token_ids"})
"""Members that repeat what was screened on its way in."""
_READ = frozenset({"choices"})
_READ_OF_MESSAGE = frozenset({"content", "stop_reason", "stop_sequence", "type", "role"})
"""Members that are read by themselves."""
_PROSE = ("reasoning_content", "reasoning", "content", "refusal")
"""Members of a message that people read one after the other."""
_UNREADABLE = "the model server's answer is not of the expected form"


def screen_answer(policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    """The answer to pass on: `raw` itself, or with every offending choice ended by `content_filter`.

    Raises:
        UpstreamBroken: not JSON, so nobody can say what it holds.
    """
    return _screen(_screened, policy, raw)


def screen_message(policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    """As `screen_answer` for a message of Anthropic's form, which ends before the finding by `refusal`.

    Raises:
        UpstreamBroken: not JSON, so nobody can say what it holds.
    """
    return _screen(_screened_message, policy, raw)


def suspects_of(policy: Policy, raw: bytes) -> list[Guardrail]:
    """Guardrails that may find something in an answer, in one of its texts or across some of them."""
    if _is_in_pieces(raw):
        return [*policy.outputs]
    return [guardrail for guardrail in policy.outputs if guardrail.may_match(raw)]


def _is_in_pieces(raw: bytes) -> bool:
    """Whether a text may stand in several strings: tokens, reasoning beside content, blocks of a message."""
    if b'"logprobs"' in raw and _TOKENS.search(raw) is not None:
        return True
    if b'"reasoning' in raw and _REASONING.search(raw) is not None:
        return True
    return raw.count(b'"text"') > 2 or b'"thinking"' in raw  # one block has two: its type, and its text


def screen_transcript(policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    """What was heard, with every finding masked; of JSON only the text is kept then, not the words it was cut into.

    Raises:
        UpstreamBroken: not text, so nobody can say what it holds.
    """
    suspects = [guardrail for guardrail in policy.outputs if guardrail.may_match(raw)]
    try:
        is_json = raw.lstrip()[:1] == b"{"
        answer = decode_any(raw) if is_json else {"text": raw.decode()}
    except (ValueError, RecursionError) as error:
        raise UpstreamBroken("the model server's answer cannot be read") from error
    verdicts = [verdict for verdict in _verdicts(suspects, answer) if verdict.findings]
    if not verdicts:
        return raw, []
    text = str(answer.get("text", ""))
    for guardrail in suspects:
        text = mask(guardrail, text)
    kept = {name: answer[name] for name in ("task", "language", "duration", "usage") if name in answer}
    return encode({**kept, "text": text}) if is_json else text.encode(), verdicts


def screen_error(policy: Policy, error: Any) -> list[Verdict]:
    """What the guardrails find in a model server's error; one with a finding must not be shown."""
    return _verdicts(list(policy.outputs), error)


_How = Callable[[list[Guardrail], bytes], tuple[bytes, list[Verdict]]]


def _screen(how: _How, policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    suspects = suspects_of(policy, raw)
    if not suspects:
        return raw, []
    try:
        return how(suspects, raw)
    except (ValueError, RecursionError) as error:
        raise UpstreamBroken("the model server's answer is not JSON that can be read") from error


def _screened(suspects: list[Guardrail], raw: bytes) -> tuple[bytes, list[Verdict]]:
    answer = decode_any(raw)
    if not isinstance(answer, dict):
        raise UpstreamBroken(_UNREADABLE)
    choices = answer.get("choices") or []
    verdicts: list[Verdict] = []
    for choice in _objects(choices):
        for guardrail in suspects:
            if count := _end(guardrail, choice):
                verdicts.append(Verdict(guardrail.name, "output", guardrail.on_output, count))
    verdicts += _without_unknown(suspects, answer, _READ)
    return (encode(answer), verdicts) if verdicts else (raw, [])


def _objects(items: Any) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        UpstreamBroken: it is not.
    """
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UpstreamBroken(_UNREADABLE)
    return items


def _screened_message(suspects: list[Guardrail], raw: bytes) -> tuple[bytes, list[Verdict]]:
    answer = decode_any(raw)
    if not isinstance(answer, dict):
        raise UpstreamBroken(_UNREADABLE)
    blocks = _objects(answer.get("content") or [])
    verdicts = _without_unknown(suspects, answer, _READ_OF_MESSAGE)
    stop = _verdicts(suspects, answer.get("stop_sequence"))
    head = ""
    for number, block in enumerate(blocks):
        text = _prose_of(block)
        across = _across(suspects, head, text)
        if found := _verdicts(suspects, block) or across:
            kept = blocks[:number] if across else [*blocks[:number], *_before_finding(suspects, block)]
            answer |= {"content": kept, "stop_reason": "refusal", "stop_sequence": None}
            return encode(answer), found + verdicts
        head = (head + text)[-MEETING_CHARS:]
    if stop:
        answer |= {"stop_reason": "refusal", "stop_sequence": None}
    verdicts += stop
    return (encode(answer), verdicts) if verdicts else (raw, [])


def _across(suspects: list[Guardrail], head: str, text: str) -> list[Verdict]:
    """Findings that begin in `head`, the end of earlier blocks, and end in `text`."""
    if not head or not text:
        return []
    verdicts = []
    for guardrail in suspects:
        found = guardrail.scan(head + text, final=True).findings
        count = sum(span.start < len(head) < span.end for span in found)
        if count:
            verdicts.append(Verdict(guardrail.name, "output", guardrail.on_output, count))
    return verdicts


def _prose_of(block: dict[str, Any]) -> str:
    return "".join(text for name in ("thinking", "text") if isinstance(text := block.get(name), str))


def _without_unknown(suspects: list[Guardrail], answer: dict[str, Any], read: frozenset[str]) -> list[Verdict]:
    """Takes members out of an answer that nobody knows and in which there is a finding."""
    verdicts: list[Verdict] = []
    for name in answer.keys() - _KNOWN - _OF_PROMPT - read:
        if found := _verdicts(suspects, {name: answer[name]}):
            del answer[name]
            verdicts += found
    return verdicts


def _verdicts(suspects: list[Guardrail], block: Any) -> list[Verdict]:
    counts = {g.name: sum(len(g.scan(text, final=True).findings) for _, text in strings(block)) for g in suspects}
    return [Verdict(g.name, "output", g.on_output, counts[g.name]) for g in suspects if counts[g.name]]


def _before_finding(suspects: list[Guardrail], block: Any) -> list[dict[str, Any]]:
    """What may be shown of a block: its text up to the first finding, and nothing of any other kind of block."""
    text = block.get("text") if isinstance(block, dict) else None
    if not isinstance(text, str):
        return []
    starts = [found[0].start for guardrail in suspects if (found := guardrail.scan(text, final=True).findings)]
    return [{"type": "text", "text": text[: min(starts)]}] if starts else []


def _pieced(choice: dict[str, Any]) -> Iterator[str]:
    """The texts of a choice that stand in several strings."""
    message, logprobs = choice.get("message"), choice.get("logprobs")
    if isinstance(message, dict):
        yield "".join(text for name in _PROSE if isinstance(text := message.get(name), str))
    if isinstance(logprobs, dict):
        yield tokens_of(logprobs)
    elif isinstance(logprobs, str | list):
        yield encode(logprobs).decode()


def _end(guardrail: Guardrail, choice: dict[str, Any]) -> int:
    """Ends `choice` in place before its first finding; how many findings there were."""
    said = {key: value for key, value in choice.items() if key != "logprobs"}
    findings = {path: found for path, text in strings(said) if (found := guardrail.scan(text, final=True).findings)}
    count = sum(len(found) for found in findings.values())
    if not count:
        count = sum(len(guardrail.scan(text, final=True).findings) for text in _pieced(choice))
    if not count:
        return 0
    index, message = choice.get("index", 0), choice.get("message")
    text = choice.get("text") if message is None else message.get("content") if isinstance(message, dict) else None
    at = ("text",) if message is None else ("message", "content")
    if isinstance(text, str) and at in findings:
        text = text[: findings[at][0].start]
    choice.clear()
    choice.update({"index": index, "logprobs": None, "finish_reason": "content_filter"})
    if message is None:
        choice["text"] = text if isinstance(text, str) else ""
    else:
        choice["message"] = {"role": "assistant", "content": text if isinstance(text, str) else None}
    return count
