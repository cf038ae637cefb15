"""The first tables: resources, keys, usage, changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _owner() -> list[sa.Column[str]]:
    names = ("organisation", "project")
    return [sa.Column(name, sa.String(128), nullable=False) for name in names]


def upgrade() -> None:
    """Creates them."""
    op.create_table(
        "resources",
        *_owner(),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("spec", sa.Text, nullable=False, comment="JSON of the resource, as in tidegate.yaml"),
        sa.PrimaryKeyConstraint("organisation", "project", "kind", "name", name="pk_resources"),
    )
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(32), nullable=False),
        *_owner(),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, comment="HMAC-SHA-256 of the whole key, hex"),
        sa.Column("created_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
        sa.PrimaryKeyConstraint("key_id", name="pk_keys"),
    )
    op.create_table(
        "usage",
        sa.Column("request_id", sa.String(64), nullable=False),
        *_owner(),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("path", sa.String(128), nullable=False),
        sa.Column("replica", sa.String(256)),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("http_status", sa.Integer),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("usage_source", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.Column("duration_ms", sa.Float),
        sa.Column("ttft_ms", sa.Float, comment="Time to the first answer byte"),
        sa.Column("parent_request_id", sa.String(64)),
        sa.Column("trace_id", sa.String(32)),
        sa.PrimaryKeyConstraint("request_id", name="pk_usage"),
    )
    op.create_index("ix_usage_organisation_project_started_at", "usage", ["organisation", "project", "started_at"])
    op.create_table(
        "changes",
        sa.Column("change_id", sa.Integer, autoincrement=True, comment="Gateways reload when the largest grows"),
        *_owner(),
        sa.Column("what", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("change_id", name="pk_changes"),
    )


def downgrade() -> None:
    """Drops them."""
    for table in ("changes", "usage", "keys", "resources"):
        op.drop_table(table)
