"""Labels are looked up by their image, whichever revision of it they name."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("volumes", sa.Column("image", sa.Text))
    op.create_index("ix_volumes_image", "volumes", ["image"])


def downgrade() -> None:
    op.drop_index("ix_volumes_image", "volumes")
    op.drop_column("volumes", "image")
