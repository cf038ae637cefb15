"""Documents: files, vector stores, and the files in them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _owner() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String(128), nullable=False) for name in ("organisation", "project")]


def upgrade() -> None:
    """Creates them."""
    op.create_table(
        "files",
        sa.Column("file_id", sa.String(64), nullable=False),
        *_owner(),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("characters", sa.BigInteger, nullable=False, comment="Length of the text that was read"),
        sa.Column("sha256", sa.String(64), nullable=False, comment="Of the bytes that came, hex"),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.PrimaryKeyConstraint("file_id", name="pk_files"),
    )
    op.create_index("ix_files_organisation_project_created_at", "files", ["organisation", "project", "created_at"])
    op.create_table(
        "vector_stores",
        sa.Column("store_id", sa.String(64), nullable=False),
        *_owner(),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False, comment="JSON object of the caller's own"),
        sa.Column("created_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.Column("last_active_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.PrimaryKeyConstraint("store_id", name="pk_vector_stores"),
    )
    columns = ["organisation", "project", "created_at"]
    op.create_index("ix_vector_stores_organisation_project_created_at", "vector_stores", columns)
    op.create_table(
        "store_files",
        sa.Column("store_id", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        *_owner(),
        sa.Column("segment", sa.String(64), nullable=False, comment="Names this text, cut and embedded in this way"),
        sa.Column("state", sa.String(16), nullable=False, comment="queued, embedding, embedded, completed, failed"),
        sa.Column("error", sa.Text, comment="What went wrong, for the caller"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="How often a worker has begun"),
        sa.Column("attributes", sa.Text, nullable=False, comment="JSON object of the caller's own"),
        sa.Column("chunking", sa.Text, nullable=False, comment="JSON of the chunking strategy"),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.PrimaryKeyConstraint("store_id", "file_id", name="pk_store_files"),
    )
    op.create_index(
        "ix_store_files_organisation_project_store_id", "store_files", ["organisation", "project", "store_id"]
    )
    op.create_index("ix_store_files_state", "store_files", ["state"])


def downgrade() -> None:
    """Drops them."""
    for table in ("store_files", "vector_stores", "files"):
        op.drop_table(table)
