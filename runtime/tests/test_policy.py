"""Rules: checked as a whole, bounded, and never an allow by mistake."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Caveat, FetchPlan, Licence, PlannedVolume
from emporter_contracts.records import MetadataRecord
from emporter_runtime.policy.documents import parse_document, read_document
from emporter_runtime.policy.errors import ExpressionError, PolicyDeniedError, PolicyFileError
from emporter_runtime.policy.expressions import compiled
from emporter_runtime.policy.facts import VARIABLES, Asker, embargo_of, of_plan, of_record, of_request
from emporter_runtime.policy.judging import Policy

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ASKER = Asker("training", "", "idr", "1")
EXAMPLE = Path(__file__).parents[2] / "deploy" / "policy.yaml"


def a_record(**fields: Any) -> MetadataRecord:
    known: dict[str, Any] = {
        "id": record_uuid("v"), "volume": "v", "revision": 1, "source": "idr", "source_id": "1", "status": JobState.COMPLETE,
        "created_at": NOW, "updated_at": NOW - timedelta(days=3), "licence": Licence(spdx="CC-BY-4.0", known=True),
        "caveats": (Caveat(code="lossy", evidence="jpeg"),),
    }  # fmt: skip
    return MetadataRecord(**{**known, **fields})


UNKNOWN = Licence()


def a_plan(licence: Licence = UNKNOWN) -> FetchPlan:
    volume = PlannedVolume(
        volume="v",
        name="v",
        format="tiff",
        objects=(),
        shape=(2, 3, 4),
        dtype="uint16",
        voxel_size=VoxelSize(),
        role="image",
        source_shape=(2, 3, 4),
    )
    return FetchPlan(
        job="v", revision=1, source="idr", source_id="1", objects=(), volumes=(volume,), planned_at=NOW, licence=licence
    )


def facts(**fields: Any) -> dict[str, Any]:
    return of_record(a_record(**fields), ASKER, "access", NOW)


def a_policy(*rules: str) -> Policy:
    return Policy(parse_document("rules:\n" + "".join(f"  - {rule}\n" for rule in rules)))


def holds(text: str, **fields: Any) -> bool:
    return compiled(text, VARIABLES).holds(facts(**fields))


@pytest.mark.parametrize(
    "text",
    [
        'volume.licence == "CC-BY-4.0"',
        'volume.licence.matches("^CC-(BY|0)")',
        '"lossy" in volume.caveats',
        'volume.caveats.exists(code, code == "lossy")',
        "embargo_until == null",
        'now < timestamp("2027-01-01T00:00:00Z")',
        "age_days >= 3.0 && age_days < 4.0",
        'request.purpose in ["training", "teaching"] && request.caller == ""',
        'point == "access" // and a comment',
        "size(volume.shape) == 0 && volume.bytes == 0",
        'volume.licence_known ? volume.source == "idr" : false',
    ],
)
def test_what_rules_ask_is_answered(text: str) -> None:
    assert holds(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("volume.license == ''", "volume has no license"),
        ("nowe > now", "no variable nowe"),
        ("launch(1)", "no function launch"),
        ("volume.caveats.exists(now, now == 'x')", "name it otherwise"),
        ("true &&", "Failed to parse"),
        ("1 +" * 400 + "1 > 0", "characters"),
        ("1" + "+ 1" * 20 + " > 0", "sums"),
        ("[1].all(a, [1].all(b, [1].all(c, true)))", "macros"),
        ("[1] . all ( a, [1]. exists(b, [1].map(c, true) == []))", "macros"),
        ("[1].all(a, volume.url.matches('(a{1000}){1000}'))", "patterns"),
        (" && ".join(["volume.url.matches('x')"] * 5), "patterns"),
        ("(" * 200 + "true" + ")" * 200, "Failed to parse"),
        ("", "Failed to parse"),
    ],
)
def test_what_is_wrong_or_too_much_is_refused_before_it_runs(text: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said):
        compiled(text, VARIABLES)


def test_words_of_macros_in_texts_count_for_nothing() -> None:
    assert not holds('request.purpose.contains(".map( .all( .filter( + + + + + + + + + + + + + + + + +")')


WIDE = "[" + ",".join(["1"] * 190) + "]"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [
        f"{WIDE}.all(a, {WIDE}.all(b, a + b + a + b + a + b < 10000))",
        "[volume.description].map(x, x+x+x+x+x+x+x+x+x).map(y, y+y+y+y+y+y+y+y+y)[0].size() > 1",
        f"{WIDE}.map(x, {WIDE}).map(y, {WIDE}) == []",
        " || ".join([f"volume.description.matches('(a*)*({'b' * 20}|a){{50}}c')"] * 4),
        "!" * 900 + "true",
        "volume.description.matches('a{1000}{1000}')",
    ],
)
def test_hostile_expressions_end(text: str) -> None:
    """Without bounds these take hours, or all memory."""
    with suppress(ExpressionError):
        compiled(text, VARIABLES).holds(facts() | {"volume": {**facts()["volume"], "description": "a" * 10_000}})


def test_a_text_longer_than_rules_see_is_cut() -> None:
    assert holds("size(request.source_id) == 1")
    plan = a_plan().model_copy(update={"description": "x" * 50_000})
    assert len(of_plan(plan, plan.volumes[0], ASKER, None, NOW)["volume"]["description"]) == 10_000


ERRING = [
    "volume.shape[9] > 1",
    "volume['none'] == 1",
    "volume.voxel_size_nm[0] < 5.0",
    "volume.revision / volume.bytes == 1",
    "embargo_until < now",
    "volume.licence > 5",
    "timestamp(volume.licence) < now",
    "volume.licence.matches('(')",
    "volume.licence",
    "size(volume.caveats)",
    "9223372036854775807 + volume.revision > 0",
]


@given(
    st.sampled_from(ERRING),
    st.sampled_from(["deny", "warn"]),
    st.sampled_from(["true && ({})", "({}) && true", "({}) || false", "false || ({})", "{}", "({}) ? true : true"]),
    st.permutations(["{name: a, at: [access, request], when: 'false', then: deny}", "ERRING"]),
)
@settings(max_examples=150, deadline=None)
def test_a_rule_that_errs_never_allows(erring: str, then: str, around: str, order: list[str]) -> None:
    when = around.format(erring).replace("'", "''")
    ours = f"{{name: erring, at: [access, request, publication], when: '{when}', then: {then}}}"
    policy = a_policy(*[ours if rule == "ERRING" else rule for rule in order])
    seen = facts()
    assert policy.at_access(seen).denied is not None
    assert policy.at_access(seen).denied.error
    request = [*policy.at_arrival(seen).decisions, *policy.at_plan([seen]).decisions]
    assert [d.outcome for d in request] == ["deny"]
    published = policy.at_publication(seen)
    assert published.held == ("erring",)
    with pytest.raises(PolicyDeniedError, match="policy rule erring refuses v"):
        policy.at_access(seen).require("v")


def test_only_a_rule_that_warns_may_let_its_errors_pass() -> None:
    lenient = a_policy("{name: lenient, at: [access], when: 'volume.shape[9] > 1', then: warn, on_error: warn}")
    assert lenient.at_access(facts()).denied is None
    with pytest.raises(PolicyFileError, match="an error into an allow"):
        a_policy("{name: sly, at: [access], when: 'volume.shape[9] > 1', then: deny, on_error: warn}")


def test_rules_that_name_the_volume_wait_for_the_plan() -> None:
    policy = a_policy(
        "{name: purpose, at: [request], when: 'request.purpose == \"\"', then: deny}",
        "{name: licence, at: [request], when: '!volume.licence_known', then: deny}",
    )
    asker = Asker(source="idr", source_id="1")
    arrived = of_request(asker, None, NOW)
    assert [d.rule for d in policy.at_arrival(arrived).decisions] == ["purpose"]
    unknown, known = (a_plan(), a_plan(Licence(spdx="CC0-1.0", known=True)))
    assert [d.rule for d in policy.at_plan([of_plan(unknown, unknown.volumes[0], asker, None, NOW)]).decisions] == ["licence"]
    assert policy.at_plan([of_plan(known, known.volumes[0], asker, None, NOW)]).decisions == ()


def test_every_rule_speaks_once_of_a_plan_of_many_volumes() -> None:
    policy = a_policy("{name: licence, at: [request], when: '!volume.licence_known', then: warn}")
    plan = a_plan()
    seen = [of_plan(plan, plan.volumes[0], ASKER, None, NOW)] * 64
    assert [d.rule for d in policy.at_plan(seen).decisions] == ["licence"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rules:\n  - name: a\n    at: [access]\n    when: volume.licens == ''\n    then: deny\n",
            r"p\.yaml:4: rule a: when: volume has",
        ),
        (
            "rules:\n  - name: a\n    at: [acces]\n    when: 'true'\n    then: deny\n",
            r"p\.yaml:3: rule a: at\.0: Input should be",
        ),
        ("rules:\n  - at: [access]\n    then: deny\n", r"p\.yaml:2: rule number 1: name: Field required"),
        (
            "rules:\n  - {name: a, at: [access, publication], when: 'true', then: hold}\n",
            r"p\.yaml:2: rule a: hold is for publication",
        ),
        ("rules: []\nrule: []\n", r"p\.yaml:2: rule: Extra"),
        ("rules:\n  - {name: a, at: [access], then: deny}\n  - {name: a, at: [access], then: warn}\n", "two rules are named a"),
        ("rules: [\n", r"p\.yaml:2: no YAML"),
        ("- 1\n", r"p\.yaml:1"),
        ("retention: [{name: r, what: raw, days: 0}]\n", r"rule r: days"),
        ("rules: [{name: a, at: [], then: deny}]", r"rule a: at"),
        ("a: &a [*a]\n", "Extra inputs|recursive"),
    ],
)
def test_a_faulty_file_is_told_by_line_and_rule(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PolicyFileError, match=said):
        read_document(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="EMPORTER_POLICY names"):
        Policy.read(tmp_path / "none.yaml")


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_whatever_a_file_holds_it_is_a_policy_or_a_refusal(text: str) -> None:
    with suppress(PolicyFileError):
        assert parse_document(text).rules is not None


def test_without_a_file_no_rule_says_anything() -> None:
    policy = Policy.read(None)
    assert [j.decisions for j in policy.everywhere(a_record(), ASKER, NOW).values()] == [(), (), ()]


@pytest.mark.parametrize("licence", [Licence(), Licence(spdx="CC0-1.0", known=True)])
def test_the_policy_that_ships_refuses_holds_and_takes_away_nothing(licence: Licence) -> None:
    policy = Policy.read(EXAMPLE)
    said = [d.outcome for j in policy.everywhere(a_record(licence=licence), ASKER, NOW).values() for d in j.decisions]
    assert said == ([] if licence.known else ["warn"])
    assert policy.document.retention == ()


def test_the_examples_in_the_policy_that_ships_are_sound() -> None:
    lines = EXAMPLE.read_text().splitlines()
    rules = [line.removeprefix("#") for line in lines if line.startswith(("#  - name", "#    "))]
    kept = [line.removeprefix("#") for line in lines if line.startswith("#  - {name")]
    document = parse_document("\n".join(["rules:", *rules, "retention:", *kept]))
    assert (len(document.rules), len(document.retention)) == (4, 3)


def test_the_same_rules_have_the_same_digest_and_others_another() -> None:
    rule = "{name: a, at: [access], when: 'true', then: deny}"
    assert a_policy(rule).digest == a_policy(rule).digest != a_policy(rule.replace("deny", "warn")).digest


@pytest.mark.parametrize(
    ("said", "until"),
    [("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)), ("2027-01-31T10:00:00+02:00", datetime(2027, 1, 31, 8, tzinfo=UTC))],
)
def test_an_embargo_is_a_date_or_a_time(said: str, until: datetime) -> None:
    assert embargo_of(IngestRequest(source="url", source_id="x", parameters={"embargo_until": said})) == until


def test_an_embargo_that_is_no_date_is_refused() -> None:
    with pytest.raises(RefusedError, match="no date"):
        embargo_of(IngestRequest(source="url", source_id="x", parameters={"embargo_until": "soon"}))


def test_a_purpose_that_is_no_line_is_refused() -> None:
    request = IngestRequest(source="url", source_id="x")
    for purpose in ("x" * 101, "a\nb", "a\x00"):
        with pytest.raises(RefusedError, match="purpose"):
            Asker.of(request, purpose)
