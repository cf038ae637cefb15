"""Screens a request's JSON before it is sent anywhere, and refuses fields by which a client would get past that."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from guardrails.engine.interfaces import Guardrail
from guardrails.engine.media import not_allowed
from guardrails.engine.parts import Texts, masked
from guardrails.engine.policy import Policy
from tidegate.config.resources import GUARDED_FIELDS, PART_FIELDS
from tidegate.errors import ContentFiltered, InvalidRequest
from tidegate.types import Action, Verdict
from tidegate.wire.openai import TEXT_MEMBERS, GenerateRequest, decode_object, encode
from tidegate.wire.skim import DISGUISE

_TEXT_FIELD = re.compile(rb'"(?:%s)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"' % "|".join(TEXT_MEMBERS).encode(), re.DOTALL)
_MESSAGES = re.compile(rb'\[\s*\{\s*"(?:role|content)"')
_STRINGS = re.compile(rb'\[\s*"')
_TEXT_MEMBERS = tuple(b'"%s"' % name.encode() for name in TEXT_MEMBERS)
_CONTENT_LIST = re.compile(rb'"content"\s*:\s*\[')
_BARE_BEHIND = re.compile(rb'\}\s*,\s*"[^"\\]*+(?:\\.[^"\\]*+)*+"\s*[,\]]', re.DOTALL)
"""A bare string behind an object in a list; the name of a field has a colon behind it."""
_BARE_PARTS = re.compile(rb'"content"\s*:\s*\[\s*"')
_OFF = (b"null", b"false")
_decode_texts = msgspec.json.Decoder(list[str]).decode


def screen_request(policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    """The body to send on, and what the guardrails decided; `raw` itself where nothing was masked.

    Raises:
        ContentFiltered: a guardrail refuses the request.
        InvalidRequest: not valid JSON, or nested too deeply.
    """
    found = suspects(policy, raw)
    try:
        return _screened(found, raw) if found else (raw, [])
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error


def suspects(policy: Policy, raw: bytes) -> list[Guardrail]:
    """Guardrails that may find something in a request, in one of its texts or across its text parts; a few passes in C."""
    joined = _joined_parts(raw)
    if joined == b"":
        return [guardrail for guardrail in policy.inputs if guardrail.may_match(raw)]
    return [item for item in policy.inputs if joined is None or item.may_match(raw) or item.may_match(joined)]


def _joined_parts(raw: bytes) -> bytes | None:
    """All text parts of a request as one JSON text, empty where there are fewer than two; None if that cannot be seen."""
    first = raw.find(b"[")
    if first < 0 or (raw.find(b"[", first + 1) < 0 and _MESSAGES.match(raw, first) is not None):
        return b""  # nearly always: a list of messages, whose contents are texts
    disguised = b"\\u00" in raw and DISGUISE.search(raw) is not None
    if disguised or (_STRINGS.search(raw) is not None and _BARE_PARTS.search(raw) is not None):
        return None
    if _CONTENT_LIST.search(raw) is not None and _BARE_BEHIND.search(raw) is not None:
        return None
    if sum(map(raw.count, _TEXT_MEMBERS)) < 2:
        return b""
    parts = _TEXT_FIELD.findall(raw)
    return b'"%s"' % b"".join(parts) if len(parts) > 1 else b""


def _screened(guardrails: Sequence[Guardrail], raw: bytes) -> tuple[bytes, list[Verdict]]:
    fields = _decoded(raw)
    verdicts: list[Verdict] = []
    for guardrail in guardrails:
        texts = Texts()
        texts.collect(fields)
        count = texts.count(guardrail)
        if not count:
            continue
        verdicts.append(Verdict(guardrail.name, "input", guardrail.on_input, count))
        if guardrail.on_input is Action.REFUSE:
            raise Refused(guardrail.refusal(count), verdicts)
        fields = masked(guardrail, fields)
    return (encode(fields), verdicts) if verdicts else (raw, [])


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        return decode_object(raw)
    except ValueError as error:
        raise InvalidRequest("The body is not valid JSON.") from error


class Refused(ContentFiltered):
    """`ContentFiltered` that carries the verdicts."""

    def __init__(self, message: str, verdicts: Sequence[Verdict]) -> None:
        super().__init__(message)
        self.verdicts = verdicts


def check_fields(policy: Policy, request: GenerateRequest) -> None:
    """Refuses fields by which a client acts beyond its own request, and texts that guardrails cannot read.

    Raises:
        InvalidRequest: the policy does not allow a field.
    """
    for name in sorted(GUARDED_FIELDS - PART_FIELDS - policy.allow_request_fields):
        if getattr(request, name) is not UNSET:
            raise not_allowed(name)
    for name in ("return_token_ids", "return_tokens_as_token_ids"):
        if getattr(request, name) and policy.outputs:
            raise InvalidRequest(f"Leave out {name!r}: token ids cannot be screened.", param=name)
    if policy.inputs:
        _check_prompts(request)


def _check_prompts(request: GenerateRequest) -> None:
    """Guardrails read text: a prompt of token ids, or of embeddings, does not pass one."""
    if request.prompt_embeds is not UNSET and bytes(request.prompt_embeds) not in _OFF:
        raise InvalidRequest("Send text: `prompt_embeds` cannot be screened.", param="prompt_embeds")
    for name, value in (("prompt", request.prompt), ("input", request.input)):
        if value is UNSET or _is_text(value):
            continue
        raise InvalidRequest(
            "Send text, or a list of texts: token ids cannot be screened. "
            "(LangChain's OpenAIEmbeddings sends text with check_embedding_ctx_length=False.)",
            param=name,
        )


def _is_text(value: msgspec.Raw) -> bool:
    raw = bytes(value)
    if raw[:1] == b'"' or raw == b"null":
        return True
    try:
        _decode_texts(raw)
    except ValueError:
        return False
    return True


def check_preset(request: GenerateRequest) -> None:
    """Refuses what would show the prompt that a preset adds.

    Raises:
        InvalidRequest: a field asks for the prompt.
    """
    for name in ("echo", "prompt_logprobs", "return_prompt_text"):
        value = getattr(request, name)
        if value is not UNSET and bytes(value) not in _OFF:
            raise InvalidRequest(f"Leave out {name!r}: a preset's prompt is not shown.", param=name)
    if request.return_token_ids:
        raise InvalidRequest("Leave out 'return_token_ids': a preset's prompt is not shown.", param="return_token_ids")
