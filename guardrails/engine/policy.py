"""A policy: the guardrails and permissions a project's requests obey, built once and shared."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from guardrails.engine.interfaces import Guardrail
from tidegate import plugins
from tidegate.config import resources
from tidegate.types import Action


@dataclass(frozen=True, slots=True)
class Policy:
    """What may pass. Guardrails that are off on a side are not in that side's tuple."""

    name: str
    inputs: tuple[Guardrail, ...]
    outputs: tuple[Guardrail, ...]
    allow_request_fields: frozenset[str]
    allow_media_schemes: tuple[str, ...]
    spec: bytes = b""
    """What it was built from, as JSON, for another process to build it anew; empty where that cannot be done."""


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
        spec=spec.model_dump_json().encode(),
    )


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
