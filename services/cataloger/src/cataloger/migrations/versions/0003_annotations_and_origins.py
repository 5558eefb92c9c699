"""What users note, what outside scripts enter, and the raw objects of every run."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("revisions", sa.Column("external", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "annotations",
        sa.Column("volume", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
    )
    op.create_index("ix_annotations_key", "annotations", ["key", "value"])
    op.create_table(
        "raw_objects",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("url_key", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
    )
    op.create_index("ix_raw_objects_sha256", "raw_objects", ["sha256"])
    op.create_index("ix_raw_objects_url_key", "raw_objects", ["url_key"])


def downgrade() -> None:
    op.drop_table("raw_objects")
    op.drop_table("annotations")
    op.drop_column("revisions", "external")
