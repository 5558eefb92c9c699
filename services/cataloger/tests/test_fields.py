"""The keys of a record's fields: whatever a condition holds for has the keys that are asked for."""

import asyncio
import itertools
import json

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cataloger.fields import BITS, STEP, grams_of, keys_of, led_to, looked_up_at_once, place_of, ranges_over
from cataloger.jsonpaths import match_document, parse, together
from cataloger.testing import create_database

KEYS = """
    SELECT coalesce(search_fields(record) @> search_keys($2::text[]) AND cardinality($2::text[]) > 0
                    OR search_fields(record) && search_keys($3::text[]), false)
    FROM (SELECT $1::jsonb) AS one (record)"""
HOLDS = "SELECT jsonb_path_exists($1::jsonb, $2::text::jsonpath)"
LED_TO = "SELECT coalesce($1::jsonb @@ $2::text::jsonpath, false)"


class Postgres:
    """One connection, asked from tests that are no coroutines."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.connection = self.loop.run_until_complete(asyncpg.connect(url.replace("+asyncpg", "")))

    def ask(self, statement: str, *values):
        return self.loop.run_until_complete(self.connection.fetchval(statement, *values))

    def entered(self, record: str, *where: str) -> bool:
        """Whether the index of fields leads to a record."""
        keys = keys_of([parse(condition) for condition in where])
        return self.ask(KEYS, record, list(keys.all_of), list(keys.any_of))

    def holds(self, record: str, where: str) -> bool:
        return self.ask(HOLDS, record, parse(where).jsonpath())

    def close(self) -> None:
        self.loop.run_until_complete(self.connection.close())
        self.loop.close()


@pytest.fixture(scope="module")
def postgres_asked(postgres_url, migrated_postgres):
    asked = Postgres(asyncio.run(create_database(postgres_url, migrated_postgres)))
    yield asked
    asked.close()


NAMES = st.sampled_from(["a", "b", "n", "a key", "A", "é"])
TEXTS = st.text(st.sampled_from("abcABC019 .-_/éßİ\u0131KΣ\n\t%\\\"'"), max_size=12)
NUMBERS = (
    st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, -0.0, 1, 2020, 2021, 63.5, 64, 1e-30])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)


@st.composite
def conditions(draw, record):
    """A path, mostly one of the record, and what is near a value that lies there."""
    names, value = [], record
    while isinstance(value, dict | list) and value:
        if isinstance(value, list):
            value = draw(st.sampled_from(value))
            continue
        name = draw(st.sampled_from(sorted(value)))
        names.append(name)
        value = value[name]
        if draw(st.integers(0, 5)) == 0:
            break
    path = ".".join(json.dumps(name, ensure_ascii=False) for name in names[:16] or ["a"])
    operator = draw(st.sampled_from(["", "=", "=", "!=", "<", "<=", ">", ">=", "~", "~", ">="]))
    if not operator:
        return path
    if isinstance(value, str) and operator == "~":
        start = draw(st.integers(0, len(value)))
        said = value[start : start + draw(st.integers(0, 8))]
        return path + operator + draw(st.sampled_from([said, said.upper(), said.lower()])).replace("\n", " ").replace("\t", " ")
    if operator == "=" and (isinstance(value, str | bool) or value is None) and draw(st.booleans()):
        said = value if isinstance(value, str) else json.dumps(value)
        return path + operator + said.replace("\n", " ").replace("\t", " ")
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e90:
        return path + operator + json.dumps(draw(st.sampled_from([value, round(value), 0, 2020])))
    return path + operator + draw(st.sampled_from(["5", "abc", "true", "null", "-1", "1e99"]))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_condition_holds_for_is_entered(postgres_asked, data):
    record = data.draw(RECORDS)
    where = data.draw(conditions(record))
    written = json.dumps(record)
    if postgres_asked.holds(written, where):
        assert postgres_asked.entered(written, where), (written, where)


@pytest.mark.parametrize(
    ("where", "entered"),
    [
        ("dose>=12", True), ("dose>12.6", False), ("dose<12.4", False), ("dose<=12.5", True), ("dose>-1", True), ("dose<-1", False),
        ("year>=2021", False), ("year>2019", True), ("cold<=-5", True), ("cold<-6", False), ("zero>=0", True), ("zero<0", True),
        ("huge>1e99", True), ("huge<1e99", False), ("tiny>0", True), ("tiny>1e-90", False), ("large>1e99", True), ("large<0", True), ("large=0", False), ("list.n>3", False), ("list.n>=2", True),
        ("name~UCCH", True), ("name~lucchi et", True), ("name~et hi", False), ("name~xyz", False), ("name~ et al.", True),
        ("name~cchi", True), ("name~cchi ", True), ("name~ucch ", False), ("other~lucchi", False), ("name", True), ("nothing", False),
        ("list.name", True), ("list.nothing", False), ("name~é", True), ("name>M", True), ("name!=Lucchi", True),
        ("name=Lucchi et al.", True), ("name=Lucchi", False), ("dose=12.5", True), ("dose=12", False), ("year=2020", True),
        ("list.n=2", True), ("list.n=3", False), ("good=true", True), ("good=false", False), ("good=1", False), ("none=null", True),
        ("year=null", False), ("code=5", True), ("code=6", False), ("good", True), ("zero=0", True),
    ],
)  # fmt: skip
def test_what_can_not_fit_is_not_entered(postgres_asked, where, entered):
    record = {
        "dose": 12.5, "year": 2020, "cold": -5.5, "zero": -0.0, "name": "Lucchi et al.", "list": [{"name": "alpha", "n": 1}, {"n": 2}],
        "good": True, "none": None, "code": "5",
    }  # fmt: skip
    written = json.dumps(record)[:-1] + ', "huge": 1e400, "tiny": 1e-400, "large": [1.9e308, -1e400]}'
    assert postgres_asked.entered(written, where) is entered


def test_a_list_too_long_to_be_looked_into_is_entered_by_all_that_lies_in_it(postgres_asked):
    record = json.dumps({"files": [{"name": f"slice {n}", "n": n} for n in range(1001)], "histogram": list(range(101)), "n": 5})
    for where in "files.name~slice 77", "files.n>=1000", "files.name", "files.nothing", "files>5", "histogram=7", "files.name=x":
        assert postgres_asked.entered(record, where)
    assert not postgres_asked.entered(record, "n>6")
    assert postgres_asked.ask("SELECT cardinality(search_fields($1::jsonb))", record) < 25


@pytest.mark.parametrize(
    ("where", "led"),
    [
        (["n>=5"], True), (["n>=6"], False), (["n>=4", "n<4.5"], False), (["n>=4", "n<6"], True), (["n=5"], True), (["n!=5"], True),
        (["two>=20"], False), (["two>=20", "two<30"], True), (["parts.n>=20", "parts.n<30"], True), (["parts.n>=20"], False),
        (["long>=7"], True), (["long=7"], True), (["deep.long>=7"], True), (["deep.long.n>=7"], True), (["deep.n>=7"], False),
        (["name~cch"], True), (["name~xyz"], False), (["name~zz"], True), (["name!=Lucchi"], True), (["name>Z"], True),
        (["name=Lucchi"], True), (["name=x"], False), (["name"], True), (["nothing"], False), (["nothing!=3"], False), (["nothing~zz"], False),
    ],
)  # fmt: skip
def test_what_the_index_leads_to_is_known_of_a_record_too(postgres_asked, where, led):
    record = json.dumps(
        {"n": 5, "two": [1, 9], "parts": [{"n": 1}, {"n": 9}], "long": [0] * 101, "deep": {"long": [0] * 101}, "name": "Lucchi"}
    )
    assert postgres_asked.entered(record, *where) is led
    assert postgres_asked.ask(LED_TO, record, led_to([parse(condition) for condition in where])) is led


def test_a_range_is_looked_up_by_both_its_ends(postgres_asked):
    between = looked_up_at_once([parse("n>=500"), parse("m>=1"), parse("n<503"), parse("n~5")])
    assert [[one.operator for one in some] for some in between] == [[">=", "<"], [">="], ["~"]]
    keys = keys_of(between[0])
    for record, entered in (
        ({"n": 501}, True),
        ({"n": 400}, False),
        ({"n": 600}, False),
        ({"n": [400, 600]}, True),
        ({"n": "501"}, False),
    ):
        assert postgres_asked.ask(KEYS, json.dumps(record), list(keys.all_of), list(keys.any_of)) is entered


def test_an_index_is_kept_where_no_schema_is_looked_in(postgres_asked):
    postgres_asked.ask("SELECT set_config('search_path', '', false)")
    try:
        assert postgres_asked.ask("""SELECT cardinality(public.search_fields('{"a": "some text"}'))""")
    finally:
        postgres_asked.ask("SELECT set_config('search_path', 'public', false)")


@given(lowest=st.integers(0, 2**BITS - 1), highest=st.integers(0, 2**BITS - 1))
def test_ranges_cover_what_they_are_asked_to_and_nothing_else(lowest, highest):
    ranges = list(ranges_over(lowest, highest))
    spans = sorted((n << shift, ((n + 1) << shift) - 1) for shift, n in ranges)
    assert len(ranges) <= 2 * (BITS // STEP) * (1 << STEP)
    assert sum(end - start + 1 for start, end in spans) == max(0, highest - lowest + 1)
    assert not spans or (spans[0][0], spans[-1][1]) == (lowest, highest)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


@given(a=NUMBERS, b=NUMBERS)
def test_places_are_in_the_order_of_numbers(a, b):
    assert place_of(min(a, b)) <= place_of(max(a, b))
    assert 0 <= place_of(a) < 1 << BITS


@pytest.mark.parametrize(
    ("part", "grams"),
    [
        ("ab", ()), ("abc", ("abc",)), ("ABCD", ("abc", "bcd")), ("ab cd", ("ab ", "  c", " cd")), (" a ", ("  a", " a ")),
        ("é abc", ("  a", " ab", "abc")), ("éabc", ("abc",)), ("abcé", ("abc",)), ("a_b", ("  b",)), ("é", ()), ("", ()),
    ],
)  # fmt: skip
def test_letters_are_taken_as_a_text_with_that_part_has_them(part, grams):
    assert grams_of(part) == grams


@pytest.mark.parametrize(
    ("record", "holds"),
    [
        ({"a": {"b c": 2}}, True), ({"a": {"b c": 3}}, False), ({"a": {"b c": 1}}, False), ({}, False),
        # Each is about some value at the path: one is large enough, the other small enough.
        ({"a": [{"b c": 1}, {"b c": 9}]}, True),
    ],
)  # fmt: skip
def test_conditions_of_one_path_are_asked_of_a_record_at_once(postgres_asked, record, holds):
    path = together([parse('a."b c">=2'), parse('a."b c"<3')])
    assert postgres_asked.ask(HOLDS, json.dumps(record), path) is holds


def test_sqlite_reads_a_condition_as_postgresql_does(postgres_asked):
    record = json.dumps({"a": [{"b": 1}, {"b": "1"}], "b": None})
    for where in "a.b>=1", "a.b~1", "b", "a.b!=2", "b!=null", "a.c":
        assert bool(match_document(record, parse(where).document())) is postgres_asked.holds(record, where)
