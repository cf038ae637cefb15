"""A policy: the guardrails and permissions a project's requests obey, built once and shared."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guardrails.engine.interfaces import Guardrail
from tidegate import plugins
from tidegate.config import resources
from tidegate.types import Action, Verdict

_LARGE_BYTES, _HUGE_BYTES = 131_072, 2_097_152


@dataclass(frozen=True, slots=True)
class Policy:
    """What may pass. Guardrails that are off on a side are not in that side's tuple."""

    name: str
    inputs: tuple[Guardrail, ...]
    outputs: tuple[Guardrail, ...]
    allow_request_fields: frozenset[str]
    allow_media_schemes: tuple[str, ...]


def build_policy(spec: resources.Policy) -> Policy:
    """Builds the policy that `spec` describes.

    Raises:
        UnknownPlugin: a guardrail does not exist or is configured wrongly.
    """
    guardrails: list[Guardrail] = [plugins.build("guardrail", item) for item in spec.guardrails]
    return Policy(
        name=spec.name,
        inputs=tuple(guardrail for guardrail in guardrails if guardrail.on_input is not Action.OFF),
        outputs=tuple(guardrail for guardrail in guardrails if guardrail.on_output is not Action.OFF),
        allow_request_fields=frozenset(spec.allow_request_fields),
        allow_media_schemes=tuple(f"{scheme.lower().rstrip(':')}:" for scheme in spec.allow_media_schemes),
    )


Screen = Callable[[Policy, bytes], tuple[bytes, list[Verdict]]]


async def screen_off_loop(
    screen: Screen, policy: Policy, guardrails: Sequence[Guardrail], raw: bytes
) -> tuple[bytes, list[Verdict]]:
    """`screen(policy, raw)`, which asks `guardrails`; a large body in which there may be a finding is read in a thread, so
    that other requests go on meanwhile.
    """
    if len(raw) < _LARGE_BYTES:
        return screen(policy, raw)
    if len(raw) < _HUGE_BYTES and not any(guardrail.may_match(raw) for guardrail in guardrails):
        return raw, []
    return await asyncio.to_thread(screen, policy, raw)


KEY = -1
"""Last path element of an object key's own text."""


def strings(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in decoded JSON with its path; numbers as their text, object keys as texts of their own."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key, KEY), key
            yield from strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings(item, (*path, index))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, str(value)
