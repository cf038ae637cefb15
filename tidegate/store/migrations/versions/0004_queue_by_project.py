"""Indexes for taking queued files project by project, and for finding a file in every store."""

from alembic import op

revision = "0004"
down_revision = "0003"

_BY_PROJECT = "ix_store_files_state_organisation_project_created_at"


def upgrade() -> None:
    """Replaces the index over the state alone."""
    op.drop_index("ix_store_files_state", "store_files")
    op.create_index(_BY_PROJECT, "store_files", ["state", "organisation", "project", "created_at"])
    op.create_index("ix_store_files_file_id", "store_files", ["file_id"])


def downgrade() -> None:
    """Brings it back."""
    op.drop_index("ix_store_files_file_id", "store_files")
    op.drop_index(_BY_PROJECT, "store_files")
    op.create_index("ix_store_files_state", "store_files", ["state"])
