"""Whether a volume's voxels are kept here or read where they lie: typed, for lists are narrowed by it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("volumes", sa.Column("managed", sa.Boolean, nullable=False, server_default=sa.true()))
    # At once, not at the next start: until then those read where they lie would be listed among those kept here.
    volumes = sa.table("volumes", sa.column("managed", sa.Boolean), sa.column("summary", sa.JSON))
    elsewhere = volumes.c.summary["managed"].as_boolean() == sa.false()
    op.execute(volumes.update().where(elsewhere).values(managed=False))
    op.create_index("ix_volumes_managed", "volumes", ["managed", "updated_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_volumes_managed", "volumes")
    op.drop_column("volumes", "managed")
