"""Revisions that a quality gate keeps from becoming current."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("revisions") as table:
        table.add_column(sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()))
    with op.batch_alter_table("revisions") as table:
        table.alter_column("held", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("revisions") as table:
        table.drop_column("held")
