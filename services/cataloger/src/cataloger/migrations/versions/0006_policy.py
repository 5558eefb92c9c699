"""The policies that were in force, and what their rules decided."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("document", JSON, nullable=False),
        sa.Column("known_at", TIME, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("event", sa.Text, primary_key=True),
        sa.Column("rule", sa.Text, primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("point", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=True),
        sa.Column("volume", sa.Text, nullable=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
    )
    op.create_index("ix_decisions_at", "decisions", ["at", "event", "rule"])
    op.create_index("ix_decisions_job", "decisions", ["job", "at"])
    op.create_index("ix_decisions_rule", "decisions", ["rule", "at"])


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("policies")
