"""Checks media in a request: URLs that a model server would fetch, and names by which it would look them up."""

import re
from typing import Any

from guardrails.engine.parts import DATA, NEVER_MEDIA
from guardrails.engine.policy import Policy
from tidegate.errors import InvalidRequest
from tidegate.wire.openai import decode_object
from tidegate.wire.skim import Skim

_URL_FIELD = re.compile(rb'url"\s*:\s*"(.{0,32})', re.DOTALL)
_UUID_FIELD = re.compile(rb'"uuid"\s*:')
_MEDIA_PARTS = frozenset({"image_url", "audio_url", "video_url", "input_audio", "image_embeds", "audio_embeds", "file"})


def check_media(policy: Policy, raw: bytes, skim: Skim) -> None:
    """Refuses media that the model server would fetch itself, from inside the network, or look up by a name from the client.

    Raises:
        InvalidRequest: a URL of another scheme than the policy allows, or a guarded field of a content part.
    """
    may_look_up = "uuid" not in policy.allow_request_fields and _may_look_up(raw, skim)
    if not may_look_up and not _may_fetch(policy, raw, skim):
        return  # nearly always; a large image inline is never decoded
    try:
        body = decode_object(raw)
        if may_look_up and _has_uuid(body, "", is_part=False):
            raise not_allowed("uuid", "messages")
        for name, value in body.items():
            if name not in NEVER_MEDIA and _is_fetched(policy.allow_media_schemes, name, value, inside=False):
                allowed = ", ".join(policy.allow_media_schemes)
                raise InvalidRequest(
                    f"Media must be given as URLs of these schemes: {allowed} Send the bytes inline as a data: URL.",
                    param=name,
                    code="media_url_not_allowed",
                )
    except RecursionError as error:
        raise InvalidRequest("The body is nested too deeply.") from error
    except ValueError as error:
        raise InvalidRequest("The body is not valid JSON.") from error


def not_allowed(name: str, param: str | None = None) -> InvalidRequest:
    """The error about a guarded field; `param` where another name tells the client more."""
    return InvalidRequest(
        f"The field {name!r} is not open to callers under this project's policy. Leave it out.",
        param=param or name,
        code="field_not_allowed",
    )


def _may_look_up(raw: bytes, skim: Skim) -> bool:
    return skim.may_have(b"uuid") and (skim.disguises or _UUID_FIELD.search(raw) is not None)


def _may_fetch(policy: Policy, raw: bytes, skim: Skim) -> bool:
    if not skim.may_have_names_ending_in(b"url"):
        return False
    schemes = tuple(scheme.encode() for scheme in policy.allow_media_schemes)
    return skim.disguises or not all(
        found[1].lstrip().lower().startswith(schemes) for found in _URL_FIELD.finditer(raw)
    )


def _is_fetched(schemes: tuple[str, ...], name: str, value: Any, *, inside: bool) -> bool:
    """Whether a URL of another scheme stands in `…image_url` itself, or as `url` below it or below Anthropic's `source`."""
    inside = inside or name.endswith("_url") or name == "source"
    if isinstance(value, str):
        is_url = inside and (name == "url" or name.endswith("_url"))
        return is_url and not value.lstrip()[:32].lower().startswith(schemes)
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str | dict | list) and _is_fetched(schemes, key, item, inside=inside):
                return True
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str | dict | list) and _is_fetched(schemes, name, item, inside=inside):
                return True
    return False


def _has_uuid(value: Any, name: str, *, is_part: bool) -> bool:
    """Whether a content part, or the media in it, has a field `uuid`, which is the model server's key for cached media."""
    if isinstance(value, list):
        return any(_has_uuid(item, "", is_part=name == "content") for item in value)
    if not isinstance(value, dict):
        return False
    if value.get("uuid") is not None and (is_part or name in _MEDIA_PARTS):
        return True
    return any(key not in DATA and _has_uuid(item, key, is_part=False) for key, item in value.items())
