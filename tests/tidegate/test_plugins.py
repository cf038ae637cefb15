"""The plugin loader, and the contract that every plugin file keeps."""

import importlib
from pathlib import Path

import pytest
from pydantic import BaseModel

from tidegate import plugins
from tidegate.config.settings import PluginSpec
from tidegate.errors import UnknownPlugin

ROOT = Path(__file__).parents[2]
EVERY = [(kind, name) for kind in plugins.FOLDERS for name in plugins.available(kind)]


def test_an_unknown_type_lists_what_there_is() -> None:
    with pytest.raises(UnknownPlugin, match=r"unknown guardrail type 'pam'; did you mean 'pan'\?; there are: pan"):
        plugins.build("guardrail", PluginSpec(type="pam"))


def test_a_wrong_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownPlugin, match="on_inptu: unknown key; did you mean 'on_input'"):
        plugins.config_of("guardrail", PluginSpec.model_validate({"type": "pan", "on_inptu": "mask"}))


def test_a_plugin_that_does_not_import_stops_start_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import guardrails

    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.setattr(guardrails, "__path__", [*guardrails.__path__, str(tmp_path)])
    with pytest.raises(UnknownPlugin, match="guardrail 'broken' does not import"):
        plugins.build("guardrail", PluginSpec(type="broken"))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_plugin_keeps_the_contract(kind: str, name: str) -> None:
    package = plugins.FOLDERS[kind]
    module = importlib.import_module(f"{package}.{name}")
    assert issubclass(module.Config, BaseModel) and callable(module.build) and module.__doc__
    assert module.Config.model_config["extra"] == "forbid"
    assert all(field.description for field in module.Config.model_fields.values())
    folder = Path(*package.split("."))
    assert (ROOT / "tests" / folder / f"test_{name}.py").exists()
    assert f"`{name}`" in (ROOT / folder / "README.md").read_text()
