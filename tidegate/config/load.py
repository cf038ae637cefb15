"""Reads `tidegate.yaml` and says, for every mistake, the line and what was probably meant."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from tidegate.config.resources import Resources
from tidegate.config.settings import PluginSpec, Section, Settings
from tidegate.errors import ConfigError

ENV_PREFIX = "TIDEGATE_"
Location = tuple[str | int, ...]


class Document(Section):
    """The whole file."""

    settings: Settings = Field(default=Settings(), description="What a process needs at boot")
    resources: Resources = Field(default=Resources(), description="What is offered to whom; applied to the database")


@dataclass(frozen=True)
class Loaded:
    """A valid document and where its parts stand in the file."""

    document: Document
    path: Path
    lines: dict[Location, int]

    def error(self, location: Location, message: str) -> ConfigError:
        """A `ConfigError` that names the line of `location`."""
        return ConfigError(_at(self.path, self.lines, location) + message)


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Reads and validates the file at `path`.

    Raises:
        ConfigError: unreadable, not YAML, or not valid; one line per mistake.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); `tidegate init` writes an example") from error
    lines: dict[Location, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = _plain(node, (), lines, path) if node is not None else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}:1: expected the keys `settings` and `resources`")
    _override(raw, environ)
    try:
        return Loaded(Document.model_validate(raw), path, lines)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, lines, item) for item in error.errors())) from error


def _plain(node: yaml.Node, location: Location, lines: dict[Location, int], path: Path) -> Any:
    """The node as plain values, noting each location's line; a key given twice is refused."""
    lines[location] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                raise ConfigError(f"{path}:{key_node.start_mark.line + 1}: key {key!r} is given twice")
            result[key] = _plain(value_node, (*location, key), lines, path)
            lines[(*location, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, index), lines, path) for index, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        settings = raw.setdefault("settings", {}) or {}
        raw["settings"] = settings
        settings.setdefault(section, {})
        settings[section][key] = yaml.safe_load(value) if value else value


def _explain(path: Path, lines: dict[Location, int], item: Any) -> str:
    location: Location = tuple(item["loc"])
    where = _at(path, lines, location) + ".".join(str(part) for part in location)
    if item["type"] != "extra_forbidden":
        return f"{where}: {item['msg']}"
    known = _names_at(location[:-1])
    return f"{where}: unknown key{nearest(str(location[-1]), known)}"


def nearest(word: str, known: list[str]) -> str:
    """The end of a sentence that names what `word` was probably meant to be."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {sorted(known)}"


def _at(path: Path, lines: dict[Location, int], location: Location) -> str:
    while location and location not in lines:
        location = location[:-1]
    return f"{path}:{lines.get(location, 1)}: "


def _names_at(location: Location) -> list[str]:
    model: type[BaseModel] = Document
    for part in location:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def plugin_specs(document: Document) -> list[tuple[str, Location, PluginSpec]]:
    """Every plugin that the document names: kind, location, spec."""
    found: list[tuple[str, Location, PluginSpec]] = []
    routing, telemetry = document.settings.routing, document.settings.telemetry
    for kind, key, specs in (
        ("routing_filter", "filters", routing.filters),
        ("routing_scorer", "scorers", routing.scorers),
    ):
        found += [(kind, ("settings", "routing", key, i, "type"), spec) for i, spec in enumerate(specs)]
    parsers = enumerate(document.settings.knowledge.parsers)
    found += [("document_parser", ("settings", "knowledge", "parsers", i, "type"), spec) for i, spec in parsers]
    sinks = enumerate(telemetry.sinks)
    found += [("telemetry_sink", ("settings", "telemetry", "sinks", i, "type"), spec) for i, spec in sinks]
    for p, policy in enumerate(document.resources.policies):
        guards = enumerate(policy.guardrails)
        found += [("guardrail", ("resources", "policies", p, "guardrails", i, "type"), spec) for i, spec in guards]
    return found


def redacted(document: Document) -> dict[str, Any]:
    """The effective document for printing: passwords in URLs are masked, secrets are file names already."""
    plain: dict[str, Any] = document.model_dump(mode="json")
    store = plain["settings"]["store"]
    store["url"] = redact_url(store["url"])
    return plain


def redact_url(url: str) -> str:
    """`url` with its password replaced by three asterisks."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not at:
        return url
    user = credentials.partition(":")[0]
    return f"{scheme}{separator}{user}:***@{host}"
