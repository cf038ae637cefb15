"""Screens a whole (non-streamed) answer."""

from typing import Any

from guardrails.engine.interfaces import Guardrail
from guardrails.engine.policy import Policy, strings
from tidegate.errors import UpstreamBroken
from tidegate.types import Verdict
from tidegate.wire.openai import decode_any, encode


def screen_answer(policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    """The answer to pass on: `raw` itself, or with every offending choice ended by `content_filter`.

    Raises:
        UpstreamBroken: not JSON, so nobody can say what it holds.
    """
    suspects = [guardrail for guardrail in policy.outputs if guardrail.may_match(raw)]
    if not suspects:
        return raw, []
    try:
        return _screened(suspects, raw)
    except (ValueError, RecursionError) as error:
        raise UpstreamBroken("the model server's answer is not JSON that can be read") from error


def _screened(suspects: list[Guardrail], raw: bytes) -> tuple[bytes, list[Verdict]]:
    answer = decode_any(raw)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    verdicts: list[Verdict] = []
    for choice in choices if isinstance(choices, list) else []:
        for guardrail in suspects:
            if count := _end(guardrail, choice):
                verdicts.append(Verdict(guardrail.name, "output", guardrail.on_output, count))
    return (encode(answer), verdicts) if verdicts else (raw, [])


def _end(guardrail: Guardrail, choice: dict[str, Any]) -> int:
    """Ends `choice` in place before its first finding; how many findings there were."""
    said = {key: value for key, value in choice.items() if key != "logprobs"}
    findings = {path: found for path, text in strings(said) if (found := guardrail.scan(text, final=True).findings)}
    if not findings:
        return 0
    index, message = choice.get("index", 0), choice.get("message")
    text = choice.get("text") if message is None else message.get("content")
    at = ("text",) if message is None else ("message", "content")
    if isinstance(text, str) and at in findings:
        text = text[: findings[at][0].start]
    choice.clear()
    choice.update({"index": index, "logprobs": None, "finish_reason": "content_filter"})
    if message is None:
        choice["text"] = text if isinstance(text, str) else ""
    else:
        choice["message"] = {"role": "assistant", "content": text if isinstance(text, str) else None}
    return sum(len(found) for found in findings.values())
