"""`tidegate`: starts processes, reads configuration, talks to the database. Imports no service."""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from tidegate import plugins
from tidegate.config.load import Document, Loaded, load, plugin_specs, redacted
from tidegate.errors import ConfigError, OperatorError, UnknownPlugin
from tidegate.identity import make_keys
from tidegate.keys import read_pepper
from tidegate.local.footprint import memory_mb
from tidegate.local.ingest import Ingest
from tidegate.local.journeys import walk
from tidegate.local.permissions import keep_private, readable_by_others, tighten
from tidegate.local.stack import Running, Stack, up_file
from tidegate.local.steps import Bar, Steps
from tidegate.local.traces import as_tree, read_trace
from tidegate.preflight.finding import Status
from tidegate.preflight.run import Targets, as_json_text, as_line, look
from tidegate.store.database import Database
from tidegate.store.keys import NewKey, create_key, list_keys, revoke_key
from tidegate.store.resources import apply_resources, read_resources
from tidegate.store.usage import recent_usage, usage_by_key

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
keys_app = typer.Typer(no_args_is_help=True, help="API keys of projects.")
app.add_typer(keys_app, name="keys")

T = TypeVar("T")
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
ConfigOption = Annotated[Path, typer.Option("--config", envvar="TIDEGATE_CONFIG", help="The configuration file.")]
DEFAULT_CONFIG = Path("tidegate.yaml")
OrganisationOption = Annotated[str, typer.Option("--organisation", help="The tenant.")]
ProjectOption = Annotated[str, typer.Option("--project", help="The project inside it.")]


def main() -> None:
    """Entry point: our own errors become one message and exit code 2, never a traceback."""
    keep_private()
    try:
        app()
    except OperatorError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]tidegate:[/] {_escape(error.message)}", highlight=False)
        sys.exit(2)


@app.command()
def init(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Makes the secrets that are missing: the one that keys are hashed with, and the keys of internal tokens."""
    settings = _private(_checked(config)).document.settings
    made = {settings.auth.key_pepper_file: _make_pepper(settings.auth.key_pepper_file)}
    identity = settings.identity
    made[identity.signing_key_file] = make_keys(identity.signing_key_file, identity.public_keys_file)
    for path, new in made.items():
        console.print(f"made {path}" if new else f"{path} is there already", highlight=False)


@app.command()
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Validates the configuration and prints the effective settings, without secrets."""
    loaded = _checked(config)
    for path in readable_by_others(loaded.document.settings):
        Console(stderr=True, soft_wrap=True).print(
            f"[yellow]warning:[/] other users of this machine can read {_escape(str(path))}; run `tidegate init`",
            highlight=False,
        )
    console.print(yaml.safe_dump(redacted(loaded.document), sort_keys=False), highlight=False, markup=False)
    console.print(f"[green]{config} is valid[/]", highlight=False)


@app.command()
def preflight(
    manifests: Annotated[
        Path | None, typer.Option(help="What `helm template` printed, `-` for standard input: looks at the cluster.")
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where it is to be installed.")] = "",
    config: Annotated[
        Path | None, typer.Option("--config", help="A configuration file: looks at what it points to.")
    ] = None,
    vllm_help: Annotated[
        Path | None, typer.Option(help="What `vllm serve --help=all` of the image printed; with --manifests.")
    ] = None,
    qdrant: Annotated[str, typer.Option(help="A Qdrant that plug-ins of yours use, as http://HOST:PORT.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object in place of lines.")] = False,
) -> None:
    """Looks at a cluster and at services before an install; exits with 1 if it would fail."""
    document = None if config is None else _checked(config).document
    targets = Targets(_read(manifests), namespace, document, _read(vllm_help), qdrant)
    found = []
    for finding in look(targets):
        found.append(finding)
        if not as_json:
            console.print(as_line(finding), highlight=False)
    if as_json:
        console.print_json(as_json_text(found))
    if any(finding.status is Status.FAILED for finding in found):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Prints the JSON schema of the configuration, for editors."""
    console.print_json(json.dumps(Document.model_json_schema()))


@app.command()
def apply(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Migrates the database and makes it hold the `resources` half of the configuration."""
    loaded = _private(_checked(config))

    async def work(connection: AsyncConnection) -> list[str]:
        return await apply_resources(connection, loaded.document.resources)

    told = _in_database(loaded, work, migrate=True)
    console.print("\n".join(told) or "nothing to change", highlight=False, markup=False)


@app.command()
def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Runs one gateway process in the foreground."""
    _private(load(config))
    os.execv(sys.executable, [sys.executable, "-m", "gateway", "--config", str(config)])  # noqa: S606


@app.command()
def up(
    config: ConfigOption = DEFAULT_CONFIG,
    model: Annotated[str | None, typer.Option(help="A model for GPU vLLM: a folder or a name in its cache.")] = None,
    model_url: Annotated[str | None, typer.Option(help="A model server that runs already; none is started.")] = None,
    journeys: Annotated[
        Path | None, typer.Option(help="Walk the scripts in this folder once everything is up.")
    ] = None,
    once: Annotated[bool, typer.Option(help="Stop after the journeys; non-zero if one failed.")] = False,
) -> None:
    """Starts everything on this machine and stays up until Ctrl-C."""
    loaded = _private(_checked(config))
    settings = loaded.document.settings
    _make_pepper(settings.auth.key_pepper_file)
    make_keys(settings.identity.signing_key_file, settings.identity.public_keys_file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    steps = Steps(console)
    failed: list[str] = []
    try:
        stack = Stack(loaded, config, model or None, model_url or None, steps)
        with stack.run() as running:
            console.print(f"ready after {steps.elapsed_s:.1f} s", highlight=False)
            if journeys is not None:
                failed = walk(journeys, running, console)
            _say_where(running, failed)
            while not once:
                for part in stack.parts:
                    part.check()
                time.sleep(1)
    except KeyboardInterrupt:
        console.print("stopped", highlight=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with everything below them.")],
    store: Annotated[str, typer.Option(help="Name of the vector store; made if it is missing.")],
    base_url: Annotated[
        str | None, typer.Option(envvar="OPENAI_BASE_URL", help="The gateway; the running one if absent.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="A key of the project; better in the environment.")
    ] = None,
) -> None:
    """Brings documents into a vector store; doing it again changes only what has changed."""
    if base_url is None or api_key is None:
        running = _running()
        base_url, api_key = base_url or running.base_url, api_key or running.api_key
    with Bar(console) as bar:
        report = Ingest(base_url, api_key, bar).run(paths, store)
    for path, reason in report.failed:
        console.print(f"  [red]✗[/] {_escape(path)}: {_escape(reason)}", highlight=False)
    told = (
        f"{report.added} added, {report.replaced} replaced, {report.unchanged} unchanged, {len(report.failed)} failed"
    )
    console.print(told, highlight=False)
    if report.failed:
        raise typer.Exit(1)


@app.command("journeys")
def walk_journeys(folder: Annotated[Path, typer.Argument()] = Path("examples")) -> None:
    """Walks the journeys against the running `tidegate up`."""
    failed = walk(folder, _running(), console)
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]", highlight=False)
        raise typer.Exit(1)


@app.command()
def trace(trace_id: str) -> None:
    """Shows a trace as it arrived at the local receiver of `tidegate up`."""
    spans = read_trace(Path(_running().spans_file), trace_id)
    console.print(as_tree(spans, trace_id) if spans else f"no span of trace {trace_id} has arrived")


@app.command()
def usage(
    config: ConfigOption = DEFAULT_CONFIG,
    rows: Annotated[int, typer.Option(min=0, max=1000, help="Show the newest rows instead of sums.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row, every column.")] = False,
) -> None:
    """Shows tokens by key and model, or the newest usage rows."""
    if rows:
        columns = ["request_id", "key_id", "model", "outcome", "usage_source"]
        found = _in_database(_checked(config), lambda connection: recent_usage(connection, rows))
    else:
        columns = ["organisation", "project", "key_id", "model", "outcome", "requests"]
        found = _in_database(_checked(config), usage_by_key)
    if as_json:
        for row in found:
            console.print(json.dumps(dict(row)), highlight=False, markup=False)
        return
    columns += ["input_tokens", "output_tokens", "cached_tokens"]
    table = Table(*columns)
    for row in found:
        table.add_row(*(_escape(str(row[column])) for column in columns))
    console.print(table)


@keys_app.command("create")
def keys_create(
    organisation: OrganisationOption,
    project: ProjectOption,
    name: Annotated[str, typer.Option(help="What it is for; shown in lists.")] = "",
    days: Annotated[float | None, typer.Option(min=0.001, help="Days until it expires; never if absent.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Makes a key and shows it, once."""
    loaded = _checked(config)
    pepper = read_pepper(loaded.document.settings.auth.key_pepper_file)

    async def work(connection: AsyncConnection) -> NewKey:
        found = await read_resources(connection)
        if (organisation, project) not in {(o.name, p.name) for o in found.organisations for p in o.projects}:
            raise ConfigError(
                f"there is no project {project!r} of organisation {organisation!r} in the database; "
                f"add it to {config} and run `tidegate apply`"
            )
        return await create_key(connection, pepper, organisation, project, name=name, days=days)

    key = _in_database(loaded, work)
    console.print(key.token, highlight=False, markup=False)
    Console(stderr=True).print(f"key {key.key_id}: keep it now, it is not shown again", highlight=False)


@keys_app.command("list")
def keys_list(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Lists keys; never the keys themselves."""
    columns = ("key_id", "organisation", "project", "name", "created_at", "expires_at", "revoked_at")
    table = Table(*columns)
    for row in _in_database(_checked(config), list_keys):
        table.add_row(*(_shown(column, row[column]) for column in columns))
    console.print(table)


@keys_app.command("revoke")
def keys_revoke(
    key_id: str, organisation: OrganisationOption, project: ProjectOption, config: ConfigOption = DEFAULT_CONFIG
) -> None:
    """Revokes a key; gateways stop accepting it at their next look at the database."""
    if not _in_database(_checked(config), lambda connection: revoke_key(connection, organisation, project, key_id)):
        raise ConfigError(f"project {project!r} of {organisation!r} has no live key {key_id!r}")
    console.print(f"revoked {key_id}", highlight=False)


def _checked(config: Path) -> Loaded:
    loaded = load(config)
    for kind, location, spec in plugin_specs(loaded.document):
        try:
            plugins.config_of(kind, spec)
        except UnknownPlugin as error:
            if kind == "document_parser" and isinstance(error.__cause__, ModuleNotFoundError):
                continue  # what reads documents is installed where documents are read, and looked at when that starts
            raise loaded.error(location, error.message) from error
    return loaded


def _private(loaded: Loaded) -> Loaded:
    """The same, once nobody else may read what an earlier version left readable."""
    for path in tighten(loaded.document.settings):
        Console(stderr=True, soft_wrap=True).print(f"now for this user only: {_escape(str(path))}", highlight=False)
    return loaded


def _shown(column: str, value: object) -> str:
    """A cell of a table; times are ISO 8601, in UTC."""
    if value is None:
        return ""
    if column.endswith("_at") and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _escape(str(value))


def _in_database(
    loaded: Loaded, work: Callable[[AsyncConnection], Coroutine[Any, Any, T]], *, migrate: bool = False
) -> T:
    async def run() -> T:
        database = Database(loaded.document.settings.store)
        try:
            if migrate:
                await database.migrate()
            else:
                await database.require_current()
            async with database.transaction() as connection:
                return await work(connection)
        finally:
            await database.close()

    return asyncio.run(run())


def _make_pepper(path: Path) -> bool:
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return True


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def _running() -> Running:
    return Running.read(up_file())


def _say_where(running: Running, failed: list[str]) -> None:
    console.rule(align="left")
    table = Table("  process", "ready after s", "memory MB", box=None, pad_edge=False, header_style="dim")
    for name, pid in running.pids.items():
        table.add_row(f"  {name}", f"{running.ready_after_s.get(name, 0):.1f}", f"{memory_mb(pid):.0f}")
    console.print(table)
    console.print()
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]", highlight=False)
    console.print(f"  base_url  {running.base_url}", highlight=False)
    console.print(f"  api_key   {running.api_key}   (valid for one day)", highlight=False)
    console.print(f"  model     {running.model}", highlight=False)
    console.print(f"  metrics   {running.management_url}/metrics", highlight=False)
    console.print("  Ctrl-C stops everything", highlight=False)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
