"""Resources: what the platform offers and to whom. Applied to the database, which is the truth while serving."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tidegate.config.settings import PluginSpec, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]

GUARDED_FIELDS = frozenset(
    {
        "priority",
        "cache_salt",
        "kv_transfer_params",
        "vllm_xargs",
        "request_id",
        "session_id",
        "chat_template",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "ec_transfer_params",
        "uuid",
    }
)
"""Request fields by which a caller acts beyond his own request; refused unless the policy allows them."""
PART_FIELDS = frozenset({"uuid"})
"""Those that stand in a message's content parts."""


class Replica(Section):
    """One model server."""

    url: str = Field(
        pattern=r"^https?://[^/?#@\s]+$", max_length=256, description="Scheme, host and port of a vLLM server"
    )
    api_key_file: Path | None = Field(None, description="File with the key that this server expects")
    audience: Literal["knowledge"] | None = Field(
        None, description="A service of the platform's own: it is called with an internal token for this audience"
    )

    discovery: Literal["dns"] | None = Field(
        None,
        description="`dns`: every address of the host name, as a headless Service has them, is a server of its own",
    )

    @model_validator(mode="after")
    def _one_credential(self) -> "Replica":
        if self.api_key_file and self.audience:
            raise ValueError("a replica has either api_key_file or audience")
        if self.discovery and self.audience:
            raise ValueError("a replica with an audience is one service: it has no discovery")
        return self


class Model(Section):
    """The name a client sends, and the servers behind it."""

    name: Name
    replicas: list[Replica] = Field(min_length=1)
    upstream_model: Name | None = Field(None, description="The name the servers know it by, if another")


class Preset(Section):
    """A model with a prompt and documents, offered under a name of its own."""

    name: Name
    model: Name = Field(description="The model that answers")
    system_prompt: str = Field("", max_length=32_768, description="Stands before whatever the caller sends")
    vector_stores: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default=[], max_length=16, description="Stores of the calling project, by name or id, that are searched first"
    )
    max_passages: int = Field(4, ge=1, le=20, description="Most passages that are shown to the model")
    max_passage_characters: int = Field(4000, ge=200, description="Most characters of all passages together")


class McpServer(Section):
    """A hosted tool server; its tools are offered as `<name>__<tool>`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$", max_length=32, description="Its name")
    url: str = Field(
        pattern=r"^https?://[^/?#@\s]+$", max_length=256, description="Scheme, host and port; it serves /mcp"
    )
    acts_for_caller: bool = Field(
        False, description="Its tools get a token with which they may use the public door as the caller, for a minute"
    )


class Policy(Section):
    """What may pass for the projects that use it."""

    name: Name
    guardrails: list[PluginSpec] = Field(default=[], description="Applied in order")
    allow_request_fields: list[str] = Field(default=[], description="Guarded fields that callers may set all the same")
    allow_media_schemes: list[str] = Field(
        default=["data"], description="URL schemes of images, audio and video; vLLM itself fetches anything but data"
    )

    @model_validator(mode="after")
    def _known_fields(self) -> "Policy":
        if unknown := sorted(set(self.allow_request_fields) - GUARDED_FIELDS):
            raise ValueError(f"allow_request_fields: {unknown} are not guarded; guarded are {sorted(GUARDED_FIELDS)}")
        return self


class ProjectLimits(Section):
    """Limits of one project; absent is no limit."""

    requests_per_minute: int | None = Field(None, ge=1)
    concurrent_requests: int | None = Field(None, ge=1)
    max_body_bytes: int | None = Field(None, ge=1024)


class Project(Section):
    """A unit of access and accounting inside an organisation."""

    name: Name
    models: list[Name] = Field(default=[], description="Models and presets its keys may use; deny by default")
    all_models: bool = Field(False, description="May use every model, also future ones")
    mcp_servers: list[str] = Field(default=[], description="Tool servers its keys may use; deny by default")
    all_mcp_servers: bool = Field(False, description="May use every tool server, also future ones")
    store_responses: bool = Field(True, description="Whether answers of the Responses API may be kept")
    keep_responses_days: float = Field(30, gt=0, le=3650, description="Days until a kept answer is deleted")
    policy: Name = Field("default", description="Name of the policy its requests obey")
    limits: ProjectLimits = ProjectLimits()


class Organisation(Section):
    """A tenant."""

    name: Name
    projects: list[Project] = Field(default=[])


class Resources(Section):
    """The `resources` half of `tidegate.yaml`."""

    organisations: list[Organisation] = Field(default=[])
    models: list[Model] = Field(default=[])
    presets: list[Preset] = Field(default=[])
    mcp_servers: list[McpServer] = Field(default=[])
    policies: list[Policy] = Field(default=[])

    @model_validator(mode="after")
    def _references(self) -> "Resources":
        models = _unique("model", [model.name for model in self.models])
        for preset in self.presets:
            if preset.model not in models:
                raise ValueError(f"preset {preset.name!r} names model {preset.model!r}, which does not exist")
        offered = _unique(
            "model or preset", [model.name for model in self.models] + [preset.name for preset in self.presets]
        )
        policies = _unique("policy", [policy.name for policy in self.policies])
        tool_servers = _unique("tool server", [server.name for server in self.mcp_servers])
        _unique("organisation", [organisation.name for organisation in self.organisations])
        for organisation in self.organisations:
            _unique(f"project of {organisation.name!r}", [project.name for project in organisation.projects])
            for project in organisation.projects:
                if project.policy not in policies:
                    raise ValueError(f"project {project.name!r} names policy {project.policy!r}, which does not exist")
                if missing := sorted(set(project.mcp_servers) - tool_servers):
                    raise ValueError(f"project {project.name!r} names tool servers that do not exist: {missing}")
                if missing := sorted(set(project.models) - offered):
                    raise ValueError(f"project {project.name!r} names models that do not exist: {missing}")
        return self


def _unique(what: str, names: list[str]) -> set[str]:
    if len(set(names)) != len(names):
        raise ValueError(f"two entries of {what} share a name: {sorted({n for n in names if names.count(n) > 1})}")
    return set(names)
