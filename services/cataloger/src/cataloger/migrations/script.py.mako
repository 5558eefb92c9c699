"""${message}."""

import sqlalchemy as sa
from alembic import op

from cataloger.models import UtcDateTime, json_type

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
