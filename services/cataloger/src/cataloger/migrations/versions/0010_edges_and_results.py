"""Lineage edges and results of quality gates as rows: derived from the records of revisions, which the next start does."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "quality_results",
        sa.Column("volume", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("gate", sa.Text, primary_key=True),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("measured", sa.Float(53)),
        sa.Column("threshold", sa.Float(53)),
        sa.Column("slices", JSON, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
    )
    findings = {"gate": ["gate", "verdict", "at"], "verdict": ["verdict", "at"], "volume": ["volume", "revision", "gate"]}
    for name, columns in findings.items():
        found, also = sa.text("verdict <> 'pass'"), ["volume"] if name == "gate" else []
        op.create_index(
            f"ix_quality_results_{name}",
            "quality_results",
            columns,
            postgresql_where=found,
            sqlite_where=found,
            postgresql_include=also,
        )
    op.create_index("ix_quality_results_at", "quality_results", ["at"])
    op.create_table(
        "lineage_edges",
        sa.Column("volume", sa.Text, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("start", sa.Text, nullable=False),
        sa.Column("start_revision", sa.Integer),
    )
    op.create_index("ix_lineage_edges_start", "lineage_edges", ["start", "kind"])
    # Filled by the code that derives them ever after, not a second time here: what an older one derived is made anew at start.


def downgrade() -> None:
    op.drop_table("lineage_edges")
    op.drop_table("quality_results")
    # Once the tables are there again, they have to be filled again.
    op.execute("UPDATE volumes SET derivation = 4 WHERE derivation > 4")
