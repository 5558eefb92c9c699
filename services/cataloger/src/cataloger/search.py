"""Words: full text in each database's own way (decision 0010). PostgreSQL: tsvector and trigrams; SQLite: two FTS5 tables.

A word is found where a text holds it, inside another word too, or holds another form of it (`neuron`, `neurons`).
A word of one or two characters is found only as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
)

from cataloger.models import Volume

MAX_WORDS = 8
"""Words of a search that count."""
MAX_WORD = 100
"""Characters of one word that count; longer ones are no words."""
GRAM = 3
"""Characters a part of a word must have to be looked up."""
TITLE_WEIGHT = 10.0
"""How much more a word in a volume's title counts than one in the rest, for SQLite; PostgreSQL has it in TS_WEIGHTS."""
TS_WEIGHTS = "{0.1, 0.1, 0.1, 1.0}"
"""Of D, C, B and A, in that order; titles are A, the rest is D."""


class Search(Protocol):
    """How one database finds words."""

    def matches(self, word: str) -> ColumnElement[bool]:
        """Volumes whose text holds a word."""
        ...

    def rank(self, words: list[str]) -> ColumnElement[float]:
        """How well a volume fits; the larger the better, never NULL."""
        ...


def words_of(text: str | None) -> list[str]:
    """The words of a search, each once."""
    words = (text or "").replace("\x00", " ").lower().split()
    return list(dict.fromkeys(word[:MAX_WORD] for word in words))[:MAX_WORDS]


def search_of(dialect: str) -> Search:
    """The way of the database of this name."""
    return PostgresSearch() if dialect == "postgresql" else SqliteSearch()


class PostgresSearch:
    """`search_document` holds stems and words as they stand, `search_by_grams` every three letters of the text."""

    def matches(self, word: str) -> ColumnElement[bool]:
        if len(word) < GRAM:
            return self._document().op("@@", is_comparison=True)(_query("simple", word))
        return or_(self._stem(word), Volume.search.contains(word, autoescape=True))

    def matches_by(self, word: str, part: str) -> ColumnElement[bool]:
        """The same volumes, where the index of letters is entered by this part of the word alone."""
        # As a value and not as a condition: that would enter the index too.
        whole = Volume.search.contains(word, autoescape=True).is_(true())
        return or_(self._stem(word), and_(Volume.search.contains(part, autoescape=True), whole))

    def rank(self, words: list[str]) -> ColumnElement[float]:
        query: ColumnElement[Any] = _query("english", words[0])
        for word in words[1:]:
            query = query.op("||")(_query("english", word))
        weights: ColumnElement[Any] = literal_column(f"'{TS_WEIGHTS}'::float4[]")
        return cast(func.ts_rank(weights, self._document(), query), Float(53))

    def _stem(self, word: str) -> ColumnElement[bool]:
        return self._document().op("@@", is_comparison=True)(_query("english", word))

    def _document(self) -> ColumnElement[Any]:
        return literal_column("volumes.search_document")


def _query(language: str, word: str) -> ColumnElement[Any]:
    # The language as a constant: only so is the whole a constant, and not made anew for each row that is looked at.
    return func.plainto_tsquery(literal_column(f"'{language}'::regconfig"), word)


_NATIVE = MetaData()
_IDS = Table("search_ids", _NATIVE, Column("number", Integer), Column("id", Text))
_WORDS = Table("search_words", _NATIVE, Column("rowid", Integer))
_GRAMS = Table("search_grams", _NATIVE, Column("rowid", Integer))


@dataclass(frozen=True, slots=True)
class SqliteSearch:
    """`search_words` stems English, `search_grams` holds every three letters; their rows are numbered by `search_ids`."""

    def matches(self, word: str) -> ColumnElement[bool]:
        phrase = _phrase(word)
        rows: Any = select(_WORDS.c.rowid).where(literal_column("search_words").op("MATCH")(phrase))
        if len(word) >= GRAM:
            rows = rows.union(select(_GRAMS.c.rowid).where(literal_column("search_grams").op("MATCH")(phrase)))
        return Volume.id.in_(select(_IDS.c.id).where(_IDS.c.number.in_(rows)))

    def rank(self, words: list[str]) -> ColumnElement[float]:
        any_of = " OR ".join(_phrase(word) for word in words)
        score: Select[Any] = (
            select(-func.bm25(literal_column("search_words"), TITLE_WEIGHT, 1.0, type_=Float(53)))
            .select_from(_WORDS)
            .where(
                literal_column("search_words").op("MATCH")(any_of),
                _WORDS.c.rowid == select(_IDS.c.number).where(_IDS.c.id == Volume.id).correlate(Volume).scalar_subquery(),
            )
        )
        return func.coalesce(score.correlate(Volume).scalar_subquery(), 0.0, type_=Float(53))


def _phrase(word: str) -> str:
    """A word as FTS5 takes it literally."""
    return '"' + word.replace('"', '""') + '"'
