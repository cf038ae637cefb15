"""Every table. Each has organisation and project, so that no query can forget them.

Platform-wide rows (models, policies) carry `PLATFORM` in both.
"""

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text

PLATFORM = "*"

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"},
)


def _owner() -> list[Column[str]]:
    return [Column("organisation", String(128), nullable=False), Column("project", String(128), nullable=False)]


resources = Table(
    "resources",
    metadata,
    Column("organisation", String(128), primary_key=True),
    Column("project", String(128), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("spec", Text, nullable=False, comment="JSON of the resource, as in tidegate.yaml"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    *_owner(),
    Column("name", String(128), nullable=False),
    Column("digest", String(64), nullable=False, comment="HMAC-SHA-256 of the whole key, hex"),
    Column("created_at", Float, nullable=False, comment="Unix time, s"),
    Column("expires_at", Float, nullable=True),
    Column("revoked_at", Float, nullable=True),
)

usage = Table(
    "usage",
    metadata,
    Column("request_id", String(64), primary_key=True),
    *_owner(),
    Column("key_id", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("path", String(128), nullable=False),
    Column("replica", String(256), nullable=True),
    Column("stream", Boolean, nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("http_status", Integer, nullable=True),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("usage_source", String(16), nullable=False),
    Column("started_at", Float, nullable=False, comment="Unix time, s"),
    Column("duration_ms", Float, nullable=True),
    Column("ttft_ms", Float, nullable=True, comment="Time to the first answer byte"),
    Column("parent_request_id", String(64), nullable=True),
    Column("trace_id", String(32), nullable=True),
    Index(None, "organisation", "project", "started_at"),
)

changes = Table(
    "changes",
    metadata,
    Column(
        "change_id", Integer, primary_key=True, autoincrement=True, comment="Gateways reload when the largest grows"
    ),
    *_owner(),
    Column("what", String(64), nullable=False),
    Column("at", Float, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("file_id", String(64), primary_key=True),
    *_owner(),
    Column("filename", String(512), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("characters", BigInteger, nullable=False, comment="Length of the text that was read"),
    Column("sha256", String(64), nullable=False, comment="Of the bytes that came, hex"),
    Column("media_type", String(128), nullable=False),
    Column("created_at", Float, nullable=False, comment="Unix time, s"),
    Index(None, "organisation", "project", "created_at"),
)

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("store_id", String(64), primary_key=True),
    *_owner(),
    Column("name", String(256), nullable=False),
    Column("metadata", Text, nullable=False, comment="JSON object of the caller's own"),
    Column("created_at", Float, nullable=False, comment="Unix time, s"),
    Column("last_active_at", Float, nullable=False, comment="Unix time, s"),
    Index(None, "organisation", "project", "created_at"),
)

store_files = Table(
    "store_files",
    metadata,
    Column("store_id", String(64), primary_key=True),
    Column("file_id", String(64), primary_key=True),
    *_owner(),
    Column("segment", String(64), nullable=False, comment="Names this text, cut and embedded in this way"),
    Column("state", String(16), nullable=False, comment="queued, embedding, embedded, completed, failed"),
    Column("error", Text, nullable=True, comment="What went wrong, for the caller"),
    Column("attempts", Integer, nullable=False, comment="How often a worker has begun"),
    Column("attributes", Text, nullable=False, comment="JSON object of the caller's own"),
    Column("chunking", Text, nullable=False, comment="JSON of the chunking strategy"),
    Column("chunks", Integer, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False, comment="Unix time, s"),
    Index(None, "organisation", "project", "store_id"),
    Index(None, "state", "organisation", "project", "created_at"),
    Index(None, "file_id"),
)

responses = Table(
    "responses",
    metadata,
    Column("response_id", String(64), primary_key=True),
    *_owner(),
    Column("model", String(128), nullable=False),
    Column("status", String(16), nullable=False),
    Column("previous_response_id", String(64), nullable=True),
    Column("body", Text, nullable=False, comment="JSON of the response object"),
    Column("messages", Text, nullable=False, comment="JSON of the conversation up to its end, as chat messages"),
    Column("created_at", Float, nullable=False, comment="Unix time, s"),
    Column("expires_at", Float, nullable=False, comment="Unix time, s"),
    Index(None, "expires_at"),
)

run_events = Table(
    "run_events",
    metadata,
    Column("response_id", String(64), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    *_owner(),
    Column("kind", String(32), nullable=False, comment="started, model_called, tool_began, tool_ended, ended"),
    Column("data", Text, nullable=False, comment="JSON; content only where the response is kept"),
    Column("at", Float, nullable=False, comment="Unix time, s"),
    Column("expires_at", Float, nullable=False, comment="Unix time, s"),
    Index(None, "expires_at"),
)
