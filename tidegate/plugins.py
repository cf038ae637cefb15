"""The one plugin loader: the file name is the registry.

`type: pan` of kind `guardrail` loads `guardrails/pan.py`, which holds `class Config(BaseModel)` and
`def build(config, deps)`. Other distributions add types through entry points in the group `tidegate.<kind>`, whose
value is such a module. An unknown type or a failing import stops start-up: a guardrail silently absent is a breach.
"""

import importlib
import importlib.metadata
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from tidegate.config.load import nearest
from tidegate.config.settings import PluginSpec
from tidegate.errors import UnknownPlugin

FOLDERS = {
    "guardrail": "guardrails",
    "routing_filter": "gateway.routing.filters",
    "routing_scorer": "gateway.routing.scorers",
    "document_parser": "rag.parsers",
    "telemetry_sink": "tidegate.telemetry.sinks",
}
"""Plugin kind to the package whose modules are its types."""


def available(kind: str) -> list[str]:
    """The types of `kind` there are, sorted; nothing is imported but their folder."""
    folder = importlib.import_module(FOLDERS[kind])
    ours = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.ispkg]
    return sorted({*ours, *(entry.name for entry in _entry_points(kind))})


def config_of(kind: str, spec: PluginSpec) -> BaseModel:
    """The validated configuration of one plugin.

    Raises:
        UnknownPlugin: no such type, it does not import, or its configuration is wrong.
    """
    return _validated(kind, spec, _module(kind, spec.type))


def build(kind: str, spec: PluginSpec, deps: object = None) -> Any:
    """Loads, configures and builds one plugin; `deps` is what its composition root offers it.

    Raises:
        UnknownPlugin: no such type, it does not import, or its configuration is wrong.
    """
    module = _module(kind, spec.type)
    return module.build(_validated(kind, spec, module), deps)


def _entry_points(kind: str) -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=f"tidegate.{kind}")


@cache
def _module(kind: str, name: str) -> ModuleType:
    """Looked for once: reading what is installed takes tens of milliseconds."""
    types = available(kind)
    if name not in types:
        raise UnknownPlugin(f"unknown {kind} type {name!r}{nearest(name, types)}; there are: {', '.join(types)}")
    outside = {entry.name: entry for entry in _entry_points(kind)}
    try:
        ours = f"{FOLDERS[kind]}.{name}"
        module = outside[name].load() if name in outside else importlib.import_module(ours)
    except ImportError as error:
        raise UnknownPlugin(f"{kind} {name!r} does not import: {error}") from error
    if not isinstance(module, ModuleType):
        raise UnknownPlugin(f"{kind} {name!r}: its entry point must name a module")
    return module


def _validated(kind: str, spec: PluginSpec, module: ModuleType) -> BaseModel:
    config: type[BaseModel] = module.Config
    try:
        return config.model_validate(spec.options())
    except ValidationError as error:
        known = list(config.model_fields)
        told = [
            f"{kind} {spec.type!r}: {'.'.join(map(str, item['loc']))}: "
            + (
                f"unknown key{nearest(str(item['loc'][-1]), known)}"
                if item["type"] == "extra_forbidden"
                else item["msg"]
            )
            for item in error.errors()
        ]
        raise UnknownPlugin("\n".join(told)) from error
