"""Jobs, revisions, volumes, events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

# A migration never changes, so it does not import the types of the models, which do.
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("status", JSON, nullable=False),
    )
    op.create_index("ix_jobs_created_at", "jobs", ["created_at", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_index("ix_jobs_source", "jobs", ["source"])
    op.create_table(
        "revisions",
        sa.Column("volume", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("committed", sa.Boolean, nullable=False),
        sa.Column("stub", sa.Boolean, nullable=False),
        sa.Column("removed_at", TIME),
        sa.Column("record", JSON, nullable=False),
        sa.Column("problems", JSON, nullable=False),
    )
    op.create_index("ix_revisions_job", "revisions", ["job"])
    op.create_table(
        "volumes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("modality", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("dtype", sa.Text),
        sa.Column("licence", sa.Text),
        sa.Column("max_voxel_nm", sa.Float(53)),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("search", sa.Text, nullable=False),
        sa.Column("summary", JSON, nullable=False),
        sa.Column("problems", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
    )
    op.create_index("ix_volumes_updated_at", "volumes", ["updated_at", "id"])
    op.create_index("ix_volumes_job", "volumes", ["job"])
    op.create_index("ix_volumes_source", "volumes", ["source"])
    op.create_index("ix_volumes_status", "volumes", ["status"])
    op.create_index("ix_volumes_max_voxel_nm", "volumes", ["max_voxel_nm"])
    op.create_table(
        "events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("volume", sa.Text),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("at", TIME, nullable=False),
        sa.Column("data", JSON, nullable=False),
    )
    op.create_index("ix_events_job", "events", ["job", "at", "id"])


def downgrade() -> None:
    for table in ("events", "volumes", "revisions", "jobs"):
        op.drop_table(table)
