"""Tokens, links, budgets and scopes, each for itself."""

from __future__ import annotations

import io
import logging
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from emporter_contracts.errors import InvalidValueError
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import (
    AccessSettingsError,
    Budget,
    BudgetSpentError,
    Entry,
    ForbiddenError,
    Grant,
    LinkExpiredError,
    LinkRefusedError,
    NotAdmittedError,
    Purse,
)
from emporter_runtime.access_gate import KEPT, Access, Meter, is_loopback
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.access_tokens import Token, Tokens, changing, new_token, read_tokens
from emporter_runtime.logging import configure_logging, get_logger

OLD, NEW = "o" * 40, "n" * 40
REF = VolumeRef("phantom", 3)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def write(file: Path, *tokens: Token) -> None:
    with changing(file) as replace:
        replace(tokens)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("phantom", ["phantom", "phantom@r3"], ["phantom-2", "phanto", "x-phantom"]),
        ("idr-*", ["idr-1", "idr-1@r2", "idr-"], ["idr", "empiar-idr-1"]),
        ("*", ["phantom", "a--s0@r9"], []),
        ("s?", ["s1"], ["s", "s12"]),
        ("phantom@r3", ["phantom@r3"], ["phantom", "phantom@r2", "phantom@r33"]),
    ],
)
def test_an_entry_of_a_scope_holds_what_it_names(entry: str, inside: list[str], outside: list[str]):
    grant = Grant("x", ((Entry.parse(entry),),))
    for name in inside:
        assert grant.allows(VolumeRef(*split(name)))
    for name in outside:
        assert not grant.allows(VolumeRef(*split(name)))


def split(name: str) -> tuple[str, int | None]:
    volume, _, revision = name.partition("@r")
    return volume, int(revision) if revision else None


@pytest.mark.parametrize("text", ["", "a b", "A", "[a]", "a@r0", "a@", "../x", "a/b", "x" * 200, "a\n"])
def test_what_names_no_volumes_is_no_entry(text: str):
    with pytest.raises(InvalidValueError):
        Entry.parse(text)


def test_a_grant_of_several_scopes_holds_what_all_of_them_hold():
    grant = Grant("x", ((Entry("a*"),), (Entry("ab", 2), Entry("b"))))
    assert grant.allows(VolumeRef("ab", 2))
    assert grant.revisions("ab") == [2]
    for ref in (VolumeRef("ab", 1), VolumeRef("b", 1), VolumeRef("ac", 2)):
        with pytest.raises(ForbiddenError):
            grant.check(ref)
    assert not grant.everything


@pytest.mark.parametrize(
    ("text", "number", "seconds", "said"),
    [
        ("10GiB/day", 10 * 2**30, 86_400, "10 GiB/day"),
        ("1.5 MB / hour", 1_500_000, 3600, "1500 KB/hour"),
        ("7b/week", 7, 604_800, "7 B/week"),
    ],
)
def test_a_budget_is_written_as_people_write_it(text: str, number: int, seconds: int, said: str):
    assert Budget.parse(text) == Budget(bytes=number, seconds=seconds)
    assert str(Budget.parse(text)) == said


@pytest.mark.parametrize("text", ["", "10GiB", "10/day", "ten GB/day", "1GB/fortnight", "0GB/day", "-1GB/day", "1e9B/day"])
def test_what_is_no_budget_is_refused_with_an_example(text: str):
    with pytest.raises(InvalidValueError) as refused:
        Budget.parse(text)
    assert "10GiB/day" in refused.value.hint


def test_a_purse_is_full_again_when_its_period_ends():
    clock = Clock()
    meter, purse = Meter(clock), Purse("p", Budget(bytes=100, seconds=3600))
    meter.count((purse,), 60)
    meter.check((purse,))
    meter.count((purse,), 60)
    with pytest.raises(BudgetSpentError) as spent:
        meter.check((purse,))
    clock.now += spent.value.retry_after - 1
    with pytest.raises(BudgetSpentError):
        meter.check((purse,))
    clock.now += 1
    assert clock.now % 3600 == 0
    meter.check((purse,))
    meter.count((purse,), -60)
    meter.count((purse,), 99)
    meter.check((purse,))


def test_a_meter_forgets_what_is_over_and_nothing_else():
    clock = Clock()
    meter, spent = Meter(clock), Purse("spent", Budget(bytes=1, seconds=10**9))
    meter.count((spent,), 1)
    for number in range(KEPT):
        meter.count((Purse(str(number), Budget(bytes=9, seconds=10)),), 1)
    clock.now += 10
    meter.count((Purse("last", Budget(bytes=9, seconds=10)),), 1)
    assert len(meter._spent) == 2
    with pytest.raises(BudgetSpentError):
        meter.check((spent,))


def test_a_file_of_tokens_has_no_token_in_it_and_is_its_owners(tmp_path: Path):
    file = tmp_path / "tokens.json"
    token, text = new_token("laptop", ["idr-*"], budget=Budget.parse("1GB/day"))
    write(file, token)
    assert text not in file.read_text()
    assert text[13:] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_tokens(file).tokens == (token,)
    assert Tokens(file).known(text) == token
    of_another_secret = text[:-1] + ("A" if text[-1] != "A" else "B")
    for wrong in ("", text[:-1], text + "x", text.upper(), text.replace(token.id, "00000000"), f"{text}\n", of_another_secret):
        assert Tokens(file).known(wrong) is None


def test_a_file_others_may_read_stays_one_they_may_read(tmp_path: Path):
    file = tmp_path / "tokens.json"
    write(file)
    file.chmod(0o640)
    write(file, new_token("a", ["*"])[0])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_tokens_follow_their_file_but_not_into_half_of_it(tmp_path: Path):
    file, clock = tmp_path / "tokens.json", Clock()
    (first, first_text), (second, second_text) = new_token("a", ["*"]), new_token("b", ["*"])
    write(file, first)
    tokens = Tokens(file, clock)
    write(file, second)
    assert tokens.known(first_text) == first, "not looked at again within a second"
    clock.now += 1
    assert tokens.known(first_text) is None
    assert tokens.known(second_text) == second
    file.write_text('{"version": 1, "tok')
    clock.now += 1
    assert tokens.known(second_text) == second, "half a file locks nobody out"
    file.unlink()
    clock.now += 1
    assert tokens.known(second_text) is None, "a file that was taken away lets nobody in"
    write(file, first)
    clock.now += 1
    assert tokens.known(first_text) == first


@pytest.mark.parametrize("text", ["", "{}x", '{"version": 2}', '{"version": 1, "tokens": [{"id": "1"}]}'])
def test_a_file_that_is_none_of_ours_is_said_to_be_so(tmp_path: Path, text: str):
    file = tmp_path / "tokens.json"
    file.write_text(text)
    with pytest.raises(AccessSettingsError, match="can't be read"):
        Tokens(file)


def test_a_token_for_nothing_is_not_made():
    with pytest.raises(InvalidValueError):
        new_token("x", [])


def test_a_link_says_what_was_signed():
    keys = LinkKeys([NEW])
    link = Link((REF, VolumeRef("labels", 1)), 2_000_000, "0123abcd", Budget.parse("1GB/day"))
    assert keys.read(keys.sign(link)) == link


@given(char=st.characters(codec="ascii"))
def test_a_link_of_which_any_character_differs_is_refused(char: str):
    keys = LinkKeys([NEW])
    text = keys.sign(Link((REF,), 2_000_000))
    for at in range(len(text)):
        if text[at] != char:
            with pytest.raises(LinkRefusedError):
                keys.read(text[:at] + char + text[at + 1 :])


def test_a_secret_can_be_replaced_while_its_links_hold():
    link = Link((REF,), 2_000_000)
    old = LinkKeys.parse(OLD).sign(link)
    both = LinkKeys.parse(f"{NEW}, {OLD}")
    assert both.read(old) == link
    assert both.sign(link) == LinkKeys.parse(NEW).sign(link)
    with pytest.raises(LinkRefusedError):
        LinkKeys.parse(NEW).read(old)


@pytest.mark.parametrize("secret", ["short", "", ",", f"{NEW},short"])
def test_a_short_secret_is_refused_with_the_way_to_make_one(secret: str):
    with pytest.raises(AccessSettingsError) as refused:
        LinkKeys.parse(secret)
    assert "token_hex" in refused.value.hint


@pytest.mark.parametrize("volumes", [(), (VolumeRef("plain"),), (REF,) * 33])
def test_a_link_names_some_revisions(volumes: tuple[VolumeRef, ...]):
    with pytest.raises(InvalidValueError):
        Link(volumes, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_nothing_is_demanded_unless_it_is_asked_for(host: str, tmp_path: Path):
    write(tmp_path / "t", new_token("x", ["*"])[0])
    assert is_loopback(host)
    assert Access.of("auto", host, None, "") is None
    told = Access.of("auto", host, tmp_path / "t", "")
    assert told is not None
    assert told.demanded
    with pytest.raises(AccessSettingsError):
        Access.of("required", host, None, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "em.example.org"])
def test_elsewhere_a_service_does_not_start_until_it_is_told_who_may_read(host: str):
    for mode in ("auto", "required"):
        with pytest.raises(AccessSettingsError) as refused:
            Access.of(mode, host, None, "")  # type: ignore[arg-type]
        for word in ("emporter token new", "EMPORTER_ACCESS_FILE", "EMPORTER_LINK_SECRET_KEY", "EMPORTER_ACCESS=open"):
            assert word in refused.value.hint
    assert Access.of("open", host, None, "") is None
    told = Access.of("auto", host, None, NEW)
    assert told is not None
    assert told.demanded


def test_an_open_service_still_reads_links_and_holds_them_to_what_they_say():
    access = Access.of("open", "0.0.0.0", None, NEW)
    assert access is not None
    assert access.by_header(None).everything
    prefix = LinkKeys([NEW]).sign(Link((REF,), 2**40))
    assert not access.by_link(prefix).allows(VolumeRef("other", 1))


def test_the_end_of_tokens_and_links_is_the_end(tmp_path: Path):
    clock = Clock()
    ends = datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=10)
    token, text = new_token("x", ["*"], expires_at=ends)
    write(tmp_path / "t", token)
    access = Access(Tokens(tmp_path / "t"), LinkKeys([NEW]), demanded=True, clock=clock)
    link = LinkKeys([NEW]).sign(Link((REF,), int(clock.now) + 5))
    longer = LinkKeys([NEW]).sign(Link((REF,), int(clock.now) + 50, token.id))
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert access.by_header(f"{scheme} {text}").by == token.id
    for wrong in ("", text, f"Basic {text}", "Bearer", "Bearer ", f"Bearer {text} {text}"):
        with pytest.raises(NotAdmittedError):
            access.by_header(wrong)
    assert access.by_link(link).linked
    clock.now += 5
    with pytest.raises(LinkExpiredError):
        access.by_link(link)
    assert access.by_link(longer).token == token.id
    clock.now += 5
    with pytest.raises(NotAdmittedError):
        access.by_header(f"Bearer {text}")
    with pytest.raises(LinkRefusedError):
        access.by_link(longer)


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_of_a_log_holds_a_token_or_a_link(form, monkeypatch: pytest.MonkeyPatch):
    before = logging.getLogger().handlers, logging.getLogger().level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    token, text = new_token("x", ["*"])
    link = LinkKeys([NEW]).sign(Link((REF,), 2**40))
    header = "Bearer opaque+value/of=others"
    try:
        configure_logging("tests", "info", form)
        log = get_logger("tests.access")
        log.info("asked", path=f"/s/{link}/v1/volumes", headers=[(b"authorization", f"Bearer {text}".encode())])
        logging.getLogger("elsewhere").warning("GET %s with %s", f"/s/{link}/x", header)
        try:
            scope = {"path": f"/s/{link}/", "headers": [(b"authorization", text.encode())]}
            raise RuntimeError(f"no {scope['path']}")
        except RuntimeError:
            log.exception("bug")
    finally:
        logging.getLogger().handlers, logging.getLogger().level = before
        structlog.contextvars.clear_contextvars()
    said = stream.getvalue()
    assert "asked" in said
    assert "bug" in said
    assert token.id in said, "which token it was may be said"
    for secret in (text[13:21], text[-8:], link.split(".")[1][:8], link.split(".")[2][:8], link[-8:], "opaque"):
        assert secret not in said
