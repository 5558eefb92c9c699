"""What is held is looked at again and again, and few of many revisions are."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index(
        "ix_revisions_held",
        "revisions",
        ["volume", "revision"],
        postgresql_where=sa.text("held"),
        sqlite_where=sa.text("held = 1"),
    )


def downgrade() -> None:
    op.drop_index("ix_revisions_held", "revisions")
