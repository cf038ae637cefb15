"""Boot settings: what a process must know before it can reach the database.

Read from the `settings` half of `tidegate.yaml`. `TIDEGATE_<SECTION>__<KEY>` in the environment overrides one value,
for example `TIDEGATE_STORE__URL`. Secrets are named by file, never written into the YAML.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PluginSpec(BaseModel):
    """One configured plugin: `type` names its file, the other keys are that plugin's own configuration."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="File name of the plugin, without .py")

    def options(self) -> dict[str, object]:
        """The plugin's own configuration, as written."""
        return dict(self.model_extra or {})


class GatewaySettings(Section):
    """Where the gateway listens, and what it accepts."""

    host: str = Field("127.0.0.1", description="Address of the public port")
    port: Port = Field(8080, description="Public port")
    management_host: str = Field("127.0.0.1", description="Address of the management port")
    management_port: Port = Field(
        9090, description="Port of /metrics, /healthz and /readyz; keep it off the public network"
    )
    workers: int = Field(1, ge=1, le=1, description="Processes; more than one needs a shared limit store")
    max_body_bytes: int = Field(
        10_485_760, ge=1024, description="Largest request body, unless the project's limit is lower"
    )
    body_timeout_s: Seconds = Field(30, description="Time a caller has to send the body")
    keep_alive_s: int = Field(75, ge=1, description="Idle time after which a caller's connection is closed")
    max_inflight_requests: int = Field(4096, ge=1, description="Requests at once; beyond it the answer is 503")
    shutdown_grace_s: int = Field(30, ge=0, description="Time running requests have to finish after SIGTERM")


class RelaySettings(Section):
    """Patience with model servers."""

    connect_timeout_s: Seconds = Field(2, description="Time to open a connection to a replica")
    first_byte_timeout_s: Seconds = Field(300, description="Time until a replica's first answer byte")
    idle_timeout_s: Seconds = Field(60, description="Longest silence in the middle of an answer")
    pool_idle_s: Seconds = Field(4, description="Idle connections older than this are not reused; vLLM closes at 5 s")
    max_answer_bytes: int = Field(67_108_864, ge=1024, description="Largest non-streamed answer")
    max_event_bytes: int = Field(4_194_304, ge=1024, description="Largest single event of a stream")


class RoutingSettings(Section):
    """Filters say which replicas may serve, scorers which should."""

    filters: list[PluginSpec] = Field(default=[PluginSpec(type="healthy")], description="Applied in order")
    scorers: list[PluginSpec] = Field(
        default=[PluginSpec(type="least_busy")], description="Scores in [0, 1] are added up"
    )


class StoreSettings(Section):
    """The database: SQLite on one machine, PostgreSQL in production."""

    url: str = Field(
        "sqlite+aiosqlite:///.tidegate/tidegate.db", description="SQLAlchemy URL, async driver; without a password"
    )
    password_file: Path | None = Field(None, description="File that holds the database password")
    refresh_interval_s: Seconds = Field(1, description="How often a gateway looks for changed resources and keys")


class JournalSettings(Section):
    """The local append-only usage journal, shipped to the database."""

    directory: Path = Field(Path(".tidegate/journal"), description="Folder of the journal; one per gateway host")
    ship_interval_s: Seconds = Field(1, description="Pause between shipments")
    batch_rows: int = Field(500, ge=1, le=5000, description="Rows per database transaction")
    segment_bytes: int = Field(16_777_216, ge=4096, description="Size at which a new journal file is begun")


class AuthSettings(Section):
    """How API keys are checked."""

    key_pepper_file: Path = Field(
        Path(".tidegate/secrets/key_pepper"), description="File with the secret that keys are hashed with"
    )


class TelemetrySettings(Section):
    """Logs, traces and metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written")
    access_log: bool = Field(True, description="One JSON line per request; ids only, never content")
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of traces that are recorded when the caller does not decide"
    )
    sinks: list[PluginSpec] = Field(default=[], description="Where spans are sent; none means no tracing")


class Settings(Section):
    """The `settings` half of `tidegate.yaml`."""

    gateway: GatewaySettings = GatewaySettings()
    relay: RelaySettings = RelaySettings()
    routing: RoutingSettings = RoutingSettings()
    store: StoreSettings = StoreSettings()
    journal: JournalSettings = JournalSettings()
    auth: AuthSettings = AuthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
