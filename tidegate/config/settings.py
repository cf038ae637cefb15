"""Boot settings: what a process must know before it can reach the database.

Read from the `settings` half of `tidegate.yaml`. `TIDEGATE_<SECTION>__<KEY>` in the environment overrides one value,
for example `TIDEGATE_STORE__URL`. Secrets are named by file, never written into the YAML.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
_URL = r"^https?://[^/?#@\s]+$"


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


class Stoppable(Section):
    """How a process that serves ends; see `tidegate.serving.run`."""

    drain_delay_s: float = Field(
        0, ge=0, le=600, description="Time after SIGTERM in which all is still served, for routers to notice"
    )
    shutdown_grace_s: float = Field(30, ge=0, description="Time running requests have to finish after that")


class GatewaySettings(Stoppable):
    """Where the gateway listens, and what it accepts."""

    host: str = Field("127.0.0.1", description="Address of the public port")
    port: Port = Field(8080, description="Public port")
    url: str | None = Field(
        None,
        pattern=_URL,
        description="Where our own services reach the public port; its address and port if absent",
    )
    management_host: str = Field("127.0.0.1", description="Address of the management port")
    management_port: Port = Field(
        9090, description="Port of /metrics, /healthz and /readyz; keep it off the public network"
    )
    workers: int = Field(
        1,
        ge=1,
        le=32,
        description="Processes on the public port; more than one needs `limits.store` other than `process`",
    )
    max_body_bytes: int = Field(
        10_485_760, ge=1024, description="Largest request body, unless the project's limit is lower"
    )
    max_upload_bytes: int = Field(33_554_432, ge=1024, description="Largest form with a sound file")
    body_timeout_s: Seconds = Field(30, description="Time a caller has to send the body, or a piece of a form")
    keep_alive_s: int = Field(75, ge=1, description="Idle time after which a caller's connection is closed")
    max_connections: int = Field(
        8192,
        ge=16,
        description="Connections at once in one process, also of the other services; less where RLIMIT_NOFILE is low",
    )
    max_inflight_requests: int = Field(
        4096,
        ge=1,
        description="Requests at once in one process; a project may have as many as it leaves free for others",
    )
    max_buffered_bytes: int = Field(
        201_326_592,
        ge=1_048_576,
        description="Bytes of requests that one process holds; a project may hold as many as it leaves free for others",
    )


class RelaySettings(Section):
    """Patience with model servers."""

    connect_timeout_s: Seconds = Field(2, description="Time to open a connection to a replica")
    first_byte_timeout_s: Seconds = Field(600, description="Time until a replica's first byte of a whole answer")
    first_event_timeout_s: Seconds = Field(120, description="Time until a replica's first event of a stream")
    idle_timeout_s: Seconds = Field(
        60, description="Longest silence in the middle of an answer; in a stream only events end it, not comments"
    )
    comment_after_s: Seconds = Field(
        10, description="Silence after which a stream's caller gets a comment, so that routers do not cut it"
    )
    max_request_s: Seconds = Field(3600, description="Longest time of a request, unless the caller says less")
    pool_idle_s: Seconds = Field(4, description="Idle connections older than this are not reused; vLLM closes at 5 s")
    max_answer_bytes: int = Field(67_108_864, ge=1024, description="Largest non-streamed answer")
    max_event_bytes: int = Field(4_194_304, ge=1024, description="Largest single event of a stream")


class RetrySettings(Section):
    """Further attempts at a request of whose answer the caller has seen no event."""

    max_attempts: int = Field(3, ge=1, le=10, description="Attempts of one request; 1 is no retry")
    backoff_s: Seconds = Field(0.05, description="Pause before the second attempt, doubled each time; half is random")
    wait_at_most_s: Seconds = Field(
        2, description="Longest `retry-after` of the last replica left that is waited for; else the caller is told"
    )
    budget_ratio: float = Field(0.2, ge=0, le=10, description="Retries per request of a model, in the long run")
    budget_size: float = Field(10, ge=0, description="Retries of a model at once")
    budget_per_s: float = Field(0.5, ge=0, description="Retries of a model per second that need no requests")


class HealthSettings(Section):
    """When a replica gets no requests for a while. It is judged by its answers, never by `/health`."""

    eject_after_failures: int = Field(3, ge=1, description="Failures in a row after which a replica is ejected")
    eject_for_s: Seconds = Field(10, description="Time until one request probes it; doubled each time it fails")
    eject_at_most_s: Seconds = Field(300, description="Longest such time")
    slow_start_s: Seconds = Field(30, description="Time over which a replica that came back gets its usual share")
    stuck_after_s: Seconds = Field(
        20, description="Silence of all its streams after which others are preferred, if there are any"
    )
    rest_at_most_s: Seconds = Field(60, description="Longest `retry-after` of a replica that is respected")


class RoutingSettings(Section):
    """Filters say which replicas may serve, scorers which should."""

    retries: RetrySettings = Field(default=RetrySettings(), description="Further attempts")
    health: HealthSettings = Field(default=HealthSettings(), description="When a replica gets no requests")
    discovery_interval_s: Seconds = Field(5, description="How often replicas with `discovery` are looked up")
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
    segment_bytes: int = Field(
        4_194_304, ge=65_536, le=67_108_864, description="Size of a journal file; one per worker is reserved and mapped"
    )


class RedisSettings(Section):
    """A Redis, or Valkey, of yours."""

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^rediss?://([^/?#@:\[\]\s]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/\d{1,5})?$",
        description="`redis://HOST:PORT/DATABASE`, or `rediss://` for TLS; without a password",
    )
    username: str | None = Field(None, description="Its user, where it has several")
    password_file: Path | None = Field(None, description="File that holds the password")
    ca_file: Path | None = Field(
        None, description="Certificates that may have signed the server's; the system's if absent"
    )
    prefix: str = Field(
        "tidegate", pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="Begins every key; one per installation"
    )


class LimitsSettings(Section):
    """Where limits are counted."""

    store: Literal["process", "shared", "redis"] = Field(
        "process",
        description="`shared` counts for all workers of this machine, in shared memory; `redis` for all gateways",
    )
    redis: RedisSettings = Field(default=RedisSettings(), description="Where that is")
    timeout_s: Seconds = Field(0.5, description="Longest wait for Redis; then it is away until it answers again")
    when_away: Literal["share", "refuse"] = Field(
        "share",
        description="Without Redis a process allows its `share` of a limit, or those who have a limit are `refuse`d",
    )
    processes: int = Field(
        1, ge=1, le=10_000, description="Least number of processes that share; where more were seen, that many do"
    )
    lease_s: float = Field(
        15, ge=1, le=3600, description="Time after which running requests of a gateway that died no longer count"
    )


class AuthSettings(Section):
    """How API keys are checked."""

    key_pepper_file: Path = Field(
        Path(".tidegate/secrets/key_pepper"), description="File with the secret that keys are hashed with"
    )


class IdentitySettings(Section):
    """The keys of internal tokens, by which services know on whose behalf they are called."""

    signing_key_file: Path = Field(
        Path(".tidegate/secrets/identity_private.json"), description="Private key; the gateway's alone"
    )
    public_keys_file: Path = Field(
        Path(".tidegate/secrets/identity_public.json"), description="Public keys, for every other service"
    )


class ParserPoolSettings(Section):
    """The processes that read documents: apart, limited, and replaced now and then."""

    processes: int = Field(2, ge=1, le=64, description="Documents read at once")
    timeout_s: Seconds = Field(60, description="Longest time for one document")
    memory_bytes: int = Field(1_073_741_824, ge=134_217_728, description="Most address space of one process")
    documents: int = Field(50, ge=1, description="Documents after which a process is replaced")


class ScreeningSettings(Section):
    """The processes in which large requests and answers are checked: apart, limited, killed when nobody waits."""

    processes: int = Field(2, ge=1, le=64, description="Texts checked at the same time; one project has all but one")
    timeout_s: Seconds = Field(10, description="Longest time for one text")
    memory_bytes: int = Field(201_326_592, ge=134_217_728, description="Most address space of one process")


class KnowledgeSettings(Stoppable):
    """The knowledge service: documents in, cited passages out."""

    url: str = Field("http://127.0.0.1:8090", pattern=_URL, description="Where the gateway reaches it")
    host: str = Field("127.0.0.1", description="Address of its port; for the gateway only")
    port: Port = Field(8090, description="Its port")
    management_host: str = Field("127.0.0.1", description="Address of its management port")
    management_port: Port = Field(9091, description="Port of its /metrics, /healthz and /readyz")
    directory: Path = Field(Path(".tidegate/knowledge"), description="Documents and indexes; one process owns it")
    max_file_bytes: int = Field(33_554_432, ge=1024, description="Largest document")
    max_chunks_per_file: int = Field(20_000, ge=1, description="Most chunks of one document")
    timeout_s: Seconds = Field(90, description="The gateway's patience with an upload, which is read at once")
    search_timeout_s: Seconds = Field(5, description="The gateway's patience with a search")
    embedding_threads: int = Field(0, ge=0, le=256, description="Threads of the embedder; 0 is half the cores")
    parsers: list[PluginSpec] = Field(
        default=[PluginSpec(type=name) for name in ("text", "markdown", "html", "pdf", "docx")],
        description="Kinds of documents that are read",
    )
    parser_pool: ParserPoolSettings = Field(default=ParserPoolSettings(), description="How documents are read")
    shutdown_grace_s: float = Field(10, ge=0, description="Time running requests have to finish after that")


class AgentsSettings(Stoppable):
    """The agents service: the Responses API."""

    url: str = Field("http://127.0.0.1:8092", pattern=_URL, description="Where the gateway reaches it")
    host: str = Field("127.0.0.1", description="Address of its port; for the gateway only")
    port: Port = Field(8092, description="Its port")
    management_host: str = Field("127.0.0.1", description="Address of its management port")
    management_port: Port = Field(9092, description="Port of its /metrics, /healthz and /readyz")
    max_runs: int = Field(64, ge=1, description="Runs at once; a project may have as many as it leaves free for others")
    max_turns: int = Field(16, ge=1, le=100, description="Most model calls of one run")
    max_tool_calls: int = Field(32, ge=1, description="Most tool calls of one run, unless the request says less")
    run_timeout_s: float = Field(600, gt=0, le=840, description="Longest time of one run")


class McpSettings(Section):
    """The door for tools (MCP)."""

    public_url: str | None = Field(
        None,
        pattern=_URL,
        description="The gateway's address as clients write it, for those without a key; `gateway.url` if absent",
    )
    authorization_servers: list[str] = Field(
        default=[], description="Issuers that clients may get tokens from; none means keys are handed out by people"
    )
    allowed_origins: list[str] = Field(
        default=[],
        description="Web pages that may call, as `scheme://host:port`; a request with another Origin is refused",
    )
    list_timeout_s: Seconds = Field(10, description="Patience with a tool server that says what it has")
    call_timeout_s: Seconds = Field(60, description="Longest time of a tool call")
    max_result_bytes: int = Field(1_048_576, ge=1024, description="Largest result of a tool call")
    max_request_bytes: int = Field(1_048_576, ge=1024, description="Largest request, the arguments of a call included")
    max_calls: int = Field(
        256, ge=1, description="Tool calls at the same time; a project has a quarter of them at most"
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
    limits: LimitsSettings = LimitsSettings()
    auth: AuthSettings = AuthSettings()
    identity: IdentitySettings = IdentitySettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    agents: AgentsSettings = AgentsSettings()
    mcp: McpSettings = McpSettings()
    screening: ScreeningSettings = ScreeningSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def gateway_url(self) -> str:
        """Where our own services reach the public port."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on here
        host = everywhere.get(self.gateway.host, self.gateway.host)
        return self.gateway.url or f"http://{f'[{host}]' if ':' in host else host}:{self.gateway.port}"
