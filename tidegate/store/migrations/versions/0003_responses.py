"""Answers of the Responses API, and the journal of the runs that made them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _owner() -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String(128), nullable=False) for name in ("organisation", "project")]


def upgrade() -> None:
    """Creates them."""
    op.create_table(
        "responses",
        sa.Column("response_id", sa.String(64), nullable=False),
        *_owner(),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("previous_response_id", sa.String(64)),
        sa.Column("body", sa.Text, nullable=False, comment="JSON of the response object"),
        sa.Column(
            "messages", sa.Text, nullable=False, comment="JSON of the conversation up to its end, as chat messages"
        ),
        sa.Column("created_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.Column("expires_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.PrimaryKeyConstraint("response_id", name="pk_responses"),
    )
    op.create_index("ix_responses_expires_at", "responses", ["expires_at"])
    op.create_table(
        "run_events",
        sa.Column("response_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        *_owner(),
        sa.Column(
            "kind", sa.String(32), nullable=False, comment="started, model_called, tool_began, tool_ended, ended"
        ),
        sa.Column("data", sa.Text, nullable=False, comment="JSON; content only where the response is kept"),
        sa.Column("at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.Column("expires_at", sa.Float, nullable=False, comment="Unix time, s"),
        sa.PrimaryKeyConstraint("response_id", "sequence", name="pk_run_events"),
    )
    op.create_index("ix_run_events_expires_at", "run_events", ["expires_at"])


def downgrade() -> None:
    """Drops them."""
    for table in ("run_events", "responses"):
        op.drop_table(table)
