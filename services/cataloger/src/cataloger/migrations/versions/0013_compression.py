"""PostgreSQL: records are kept as lz4, which is unpacked in two thirds of the time; conditions on any field unpack many."""

from alembic import op

revision = "0013"
down_revision = "0012"

# As text, and only if it can: servers before 14 have no such clause, and some are built without lz4.
# Records that are there keep what they have until they change.
LZ4 = """
DO $$ BEGIN
    EXECUTE 'ALTER TABLE revisions ALTER COLUMN record SET COMPRESSION lz4';
EXCEPTION WHEN feature_not_supported OR syntax_error THEN
    NULL;
END $$"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(LZ4)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(LZ4.replace("lz4'", "default'"))
