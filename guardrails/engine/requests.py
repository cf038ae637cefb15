"""Screens a request's JSON before it is sent anywhere."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from guardrails.engine.interfaces import Guardrail
from guardrails.engine.policy import KEY, Policy, strings
from guardrails.engine.texts import mask
from tidegate.errors import ContentFiltered, InvalidRequest
from tidegate.types import Action, Verdict
from tidegate.wire.openai import decode_object, encode
from tidegate.wire.skim import Skim

_INLINE_MEDIA = re.compile(r"data:[\w.+/-]{0,100}(?:;[\w=.+-]{0,100}){0,4};base64,[A-Za-z0-9+/=]*\Z")


_STRING_FOLLOWS = re.compile(rb'url"\s*:\s*"')
_NEVER_MEDIA = frozenset({"tools", "tool_choice", "functions", "metadata", "response_format", "output_config", "user"})
"""Fields in which a URL is only spoken of."""


def screen_request(policy: Policy, raw: bytes) -> tuple[bytes, list[Verdict]]:
    """The body to send on, and what the guardrails decided; `raw` itself where nothing was masked.

    Raises:
        ContentFiltered: a guardrail refuses the request.
        InvalidRequest: not valid JSON, or nested too deeply.
    """
    suspects = [guardrail for guardrail in policy.inputs if guardrail.may_match(raw)]
    try:
        return _screened(suspects, raw) if suspects else (raw, [])
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error


def _screened(suspects: Sequence[Guardrail], raw: bytes) -> tuple[bytes, list[Verdict]]:
    try:
        fields = decode_object(raw)
    except ValueError as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    verdicts: list[Verdict] = []
    for guardrail in suspects:
        count = sum(len(guardrail.scan(text, final=True).findings) for text in _texts(fields))
        if not count:
            continue
        verdicts.append(Verdict(guardrail.name, "input", guardrail.on_input, count))
        if guardrail.on_input is Action.REFUSE:
            raise Refused(guardrail.refusal(count), verdicts)
        fields = _masked(guardrail, fields)
    return (encode(fields), verdicts) if verdicts else (raw, [])


class Refused(ContentFiltered):
    """`ContentFiltered` that carries the verdicts."""

    def __init__(self, message: str, verdicts: Sequence[Verdict]) -> None:
        super().__init__(message)
        self.verdicts = verdicts


def check_media(policy: Policy, raw: bytes, skim: Skim) -> None:
    """Refuses media that the model server would fetch itself, from inside the network.

    Raises:
        InvalidRequest: a URL of another scheme than the policy allows.
    """
    if not skim.may_have_names_ending_in(b"url"):
        return
    if b"\\u00" not in raw and all(_is_allowed(policy, raw, at) for at in _url_fields(raw)):
        return  # nearly always; a large image inline is never decoded
    try:
        body = decode_object(raw)
    except ValueError as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    said = {name: value for name, value in body.items() if name not in _NEVER_MEDIA}
    for path, url in strings(said):
        if _is_media_url(path) and not url.lstrip().lower().startswith(policy.allow_media_schemes):
            allowed = ", ".join(policy.allow_media_schemes)
            raise InvalidRequest(
                f"Media must be given as URLs of these schemes: {allowed} Send the bytes inline as a data: URL.",
                param=str(path[0]),
                code="media_url_not_allowed",
            )


def _url_fields(raw: bytes) -> Iterator[int]:
    """Where in the JSON a field whose name ends in `url` has its value, if that is a string."""
    at = raw.find(b'url"')
    while at >= 0:
        if (found := _STRING_FOLLOWS.match(raw, at)) is not None:
            yield found.end()
        at = raw.find(b'url"', at + 4)


def _is_allowed(policy: Policy, raw: bytes, at: int) -> bool:
    scheme = raw[at : at + 32].lstrip().lower()
    return scheme.startswith(tuple(name.encode() for name in policy.allow_media_schemes))


def _is_media_url(path: tuple[str | int, ...]) -> bool:
    """`…image_url` itself, or `url` below it or below Anthropic's `source`; vLLM fetches all of them."""
    names = [part for part in path if isinstance(part, str)]
    inside = any(name.endswith("_url") or name == "source" for name in names)
    return inside and path[-1] != KEY and (names[-1] == "url" or names[-1].endswith("_url"))


def _texts(fields: dict[str, Any]) -> list[str]:
    return [text for _, text in strings(fields) if not _INLINE_MEDIA.match(text)]


def _masked(guardrail: Guardrail, value: Any) -> Any:
    if isinstance(value, dict):
        return {_masked(guardrail, key): _masked(guardrail, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(guardrail, item) for item in value]
    if isinstance(value, bool) or value is None or (isinstance(value, str) and _INLINE_MEDIA.match(value)):
        return value
    text = value if isinstance(value, str) else str(value)
    return mask(guardrail, text) if guardrail.scan(text, final=True).findings else value
