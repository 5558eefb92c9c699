"""Typed columns for what is filtered, and each database's own full-text search."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
COLUMNS: dict[str, Any] = {
    "labels_of": sa.Text(), "organism": sa.Text(),
    "shape_z": sa.BigInteger(), "shape_y": sa.BigInteger(), "shape_x": sa.BigInteger(),
    "voxel_nm_z": sa.Float(53), "voxel_nm_y": sa.Float(53), "voxel_nm_x": sa.Float(53), "min_voxel_nm": sa.Float(53),
    "stored_bytes": sa.BigInteger(), "mean": sa.Float(53), "std": sa.Float(53),
    "zero_share": sa.Float(53), "saturated_share": sa.Float(53), "nan_share": sa.Float(53),
}  # fmt: skip
FILLED: dict[str, tuple[Any, str]] = {
    "verified": (sa.Text(), "no"),
    "title": (sa.Text(), ""),
    "caveats": (JSON, "[]"),
    "derivation": (sa.Integer(), "0"),
}
INDEXES = {
    "ix_volumes_created_at": ["created_at", "updated_at", "id"],
    "ix_volumes_source_updated_at": ["source", "updated_at", "id"],
    "ix_volumes_status_updated_at": ["status", "updated_at", "id"],
    "ix_volumes_modality": ["modality", "updated_at", "id"],
    "ix_volumes_organism": ["organism", "updated_at", "id"],
    "ix_volumes_dtype": ["dtype", "updated_at", "id"],
    "ix_volumes_licence": ["licence", "updated_at", "id"],
    "ix_volumes_labels_of": ["labels_of"],
    "ix_volumes_min_voxel_nm": ["min_voxel_nm"],
    "ix_volumes_bytes": ["bytes"],
    "ix_volumes_shape": ["shape_z", "shape_y", "shape_x"],
    "ix_volumes_derivation": ["derivation"],
}
SORTED = {"search_by_bytes": "coalesce(bytes, -1)", "search_by_max_voxel_nm": "coalesce(max_voxel_nm, 1e300)"}

DOCUMENT = (
    "setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('simple', title), 'A')"
    " || to_tsvector('english', search) || to_tsvector('simple', search)"
)
"""Stems find other forms of a word, the words as they stand find what a stemmer drops ("of", "3d")."""
SQLITE = (
    "CREATE TABLE search_ids (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)",
    "CREATE VIRTUAL TABLE search_words USING fts5(title, search, tokenize = 'porter unicode61')",
    "CREATE VIRTUAL TABLE search_grams USING fts5(search, tokenize = 'trigram')",
    """CREATE TRIGGER search_added AFTER INSERT ON volumes BEGIN
        INSERT INTO search_ids (id) VALUES (new.id);
        INSERT INTO search_words (rowid, title, search)
            VALUES ((SELECT number FROM search_ids WHERE id = new.id), new.title, new.search);
        INSERT INTO search_grams (rowid, search) VALUES ((SELECT number FROM search_ids WHERE id = new.id), new.search);
    END""",
    """CREATE TRIGGER search_changed AFTER UPDATE OF title, search ON volumes
        WHEN old.title <> new.title OR old.search <> new.search BEGIN
        UPDATE search_words SET title = new.title, search = new.search
            WHERE rowid = (SELECT number FROM search_ids WHERE id = new.id);
        UPDATE search_grams SET search = new.search WHERE rowid = (SELECT number FROM search_ids WHERE id = new.id);
    END""",
    """CREATE TRIGGER search_gone AFTER DELETE ON volumes BEGIN
        DELETE FROM search_words WHERE rowid = (SELECT number FROM search_ids WHERE id = old.id);
        DELETE FROM search_grams WHERE rowid = (SELECT number FROM search_ids WHERE id = old.id);
        DELETE FROM search_ids WHERE id = old.id;
    END""",
    "INSERT INTO search_ids (id) SELECT id FROM volumes",
    """INSERT INTO search_words (rowid, title, search)
        SELECT number, title, search FROM volumes JOIN search_ids USING (id)""",
    "INSERT INTO search_grams (rowid, search) SELECT number, search FROM volumes JOIN search_ids USING (id)",
)
POSTGRES = (
    # A page of common words reads some thousands of rows: out of line or compressed, each text costs 40 us more.
    "ALTER TABLE volumes SET (toast_tuple_target = 8160)",
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    f"ALTER TABLE volumes ADD COLUMN search_document tsvector GENERATED ALWAYS AS ({DOCUMENT}) STORED",
    "CREATE INDEX search_by_words ON volumes USING gin (search_document) WITH (fastupdate = off)",
    "CREATE INDEX search_by_grams ON volumes USING gin (search gin_trgm_ops) WITH (fastupdate = off)",
    "CREATE INDEX search_by_caveats ON volumes USING gin (caveats jsonb_path_ops)",
    "CREATE INDEX search_by_record ON revisions USING gin (record jsonb_path_ops)",
)


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("volumes", sa.Column(name, kind))
    for name, (kind, default) in FILLED.items():
        op.add_column("volumes", sa.Column(name, kind, nullable=False, server_default=default))
    for name, columns in INDEXES.items():
        op.create_index(name, "volumes", columns)
    for name, expression in SORTED.items():
        op.execute(f"CREATE INDEX {name} ON volumes ({expression}, id)")
    for statement in POSTGRES if on_postgres() else SQLITE:
        op.execute(statement)


def downgrade() -> None:
    if on_postgres():
        for name in ("search_by_record", "search_by_caveats", "search_by_grams", "search_by_words"):
            op.execute(f"DROP INDEX {name}")
        op.execute("ALTER TABLE volumes DROP COLUMN search_document")
        op.execute("ALTER TABLE volumes RESET (toast_tuple_target)")
    else:
        for name in ("search_gone", "search_changed", "search_added"):
            op.execute(f"DROP TRIGGER {name}")
        for name in ("search_grams", "search_words", "search_ids"):
            op.execute(f"DROP TABLE {name}")
    for name in SORTED:
        op.execute(f"DROP INDEX {name}")
    for name in INDEXES:
        op.drop_index(name, "volumes")
    for name in [*FILLED, *COLUMNS]:
        op.drop_column("volumes", name)


def on_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"
