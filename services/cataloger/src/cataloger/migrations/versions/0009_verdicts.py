"""What the quality gates said of a volume, and whether a revision of it is held: typed, for lists are narrowed by it."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("volumes", sa.Column("verdict", sa.Text))
    op.add_column("volumes", sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()))
    for name in ("verdict", "held"):
        op.create_index(f"ix_volumes_{name}", "volumes", [name, "updated_at", "id"])


def downgrade() -> None:
    for name in ("held", "verdict"):
        op.drop_index(f"ix_volumes_{name}", "volumes")
        op.drop_column("volumes", name)
    # Rows keep what is derived, but for columns that are gone: once they are there again, they have to be derived again.
    op.execute("UPDATE volumes SET derivation = 3 WHERE derivation > 3")
