"""PostgreSQL: one index of the fields of records for every kind of condition; its own of JSON answers `=` alone."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

# Keys: a path, each name after chr(31); after a path, chr(30) and bits ':' n, the range of a number; chr(29), three letters of a
# text; chr(26), a value that is no number, a text after a quote; chr(28), a list that is not looked into; chr(27), more than one
# number. `fields.py` asks for them. A histogram's numbers, and the names of a thousand slices, are not what is looked for.
# Numbers are put in the order of their binary64 form; those a double has no room for become the nearest it has.
# ASCII letters are made small by the rules of C, as the questions' are: a Turkish database would make another letter of I.
# pg_trgm is named with its schema: what maintains an index has no search_path.
FIELDS = """
CREATE FUNCTION search_fields(record jsonb) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT COST 10000 AS $$
    WITH RECURSIVE node (path, value, kind) AS (
        SELECT '', record, jsonb_typeof(record)
        UNION ALL
        SELECT CASE WHEN inner_.name IS NULL THEN path ELSE path || chr(31) || inner_.name END, inner_.value,
               CASE WHEN jsonb_typeof(inner_.value) <> 'array' THEN jsonb_typeof(inner_.value)
                    WHEN jsonb_array_length(inner_.value)
                         > CASE jsonb_typeof(inner_.value -> 0) WHEN 'number' THEN 100 ELSE 1000 END THEN 'long' ELSE 'array' END
        FROM node CROSS JOIN LATERAL (
            SELECT key, value FROM jsonb_each(CASE kind WHEN 'object' THEN node.value END)
            UNION ALL
            SELECT NULL, value FROM jsonb_array_elements(CASE kind WHEN 'array' THEN node.value END)
        ) AS inner_ (name, value)
        WHERE kind IN ('object', 'array')
    ), number (path, first) AS (
        SELECT path, ('x' || encode(substring(float8send(n::float8) FOR 3), 'hex'))::bit(24)::int
        FROM (
            SELECT path, CASE WHEN abs(exact) > 1e308 THEN sign(exact) * 1e308 WHEN abs(exact) < 1e-300 THEN 0 ELSE exact END
            FROM (SELECT path, (value #>> '{{}}')::numeric FROM node WHERE kind = 'number') AS said (path, exact)
        ) AS near (path, n)
    ), placed (path, place) AS (
        SELECT path, CASE WHEN first > 8388607 THEN 16777215 - first ELSE 8388608 + first END FROM number
    )
    SELECT array_agg(hashtext(key)) FROM (
        SELECT DISTINCT path FROM node
        UNION ALL
        SELECT DISTINCT path || chr(28) FROM node WHERE kind = 'long'
        UNION ALL
        SELECT path || chr(27) FROM number GROUP BY path HAVING count(*) > 1
        UNION ALL
        SELECT path || chr(30) || shift || ':' || (place >> shift)
        FROM placed CROSS JOIN (VALUES (0), (6), (12), (18)) AS coarser (shift)
        UNION ALL
        SELECT path || chr(26) || CASE kind WHEN 'string' THEN '"' || (value #>> '{{}}') ELSE value::text END
        FROM node WHERE kind IN ('string', 'boolean', 'null')
        UNION ALL
        SELECT path || chr(29) || gram
        FROM node CROSS JOIN LATERAL unnest({trigrams}.show_trgm(lower(value #>> '{{}}' COLLATE "C"))) AS grams (gram)
        WHERE kind = 'string'
    ) AS keys (key)
$$"""
KEYS = """
CREATE FUNCTION search_keys(keys text[]) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
    SELECT array_agg(hashtext(key)) FROM unnest(keys) AS asked (key)
$$"""
INDEX = "CREATE INDEX search_by_fields ON revisions USING gin (search_fields(record)) WITH (fastupdate = off)"
PLACES = "CREATE INDEX search_by_id ON volumes (id) INCLUDE (revision, updated_at)"
"""What the index of fields finds is put in the order of lists without reading its rows, which are wide and lie anywhere."""


def upgrade() -> None:
    if not on_postgres():
        return
    found = sa.text(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm'"
    )
    # regnamespace writes a name with quotes where it needs them. Sent as it stands: a colon in it is no parameter.
    op.get_bind().exec_driver_sql(FIELDS.format(trigrams=op.get_bind().execute(found).scalar_one()))
    for statement in (KEYS, INDEX, PLACES, "DROP INDEX search_by_record"):
        op.execute(statement)


def downgrade() -> None:
    if not on_postgres():
        return
    op.execute("CREATE INDEX search_by_record ON revisions USING gin (record jsonb_path_ops)")
    op.execute("DROP INDEX search_by_id")
    op.execute("DROP INDEX search_by_fields")
    op.execute("DROP FUNCTION search_keys(text[])")
    op.execute("DROP FUNCTION search_fields(jsonb)")


def on_postgres() -> bool:
    return op.get_bind().dialect.name == "postgresql"
