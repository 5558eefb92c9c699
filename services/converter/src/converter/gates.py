"""Quality gates: what the facts gathered on the way say of a volume. Pure; the thresholds are a policy's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from converter.quality_policy import QualityPolicy, Rule
from converter.sequence import SequenceFindings, look_at_order
from converter.slices import SliceFacts
from emporter_contracts.records import Gate, GateResult, MetadataRecord, Quality, Statistics, Verdict

NAMED = 100
"""Slices a result lists at most."""
WORST: tuple[Verdict, ...] = ("pass", "warn", "fail")
DOUBTFUL = 0.5
"""What a gap that is only suspected counts, however many there are: it is to be looked at, no more."""
FEWEST_GREYS = 8
"""Values that a picture has at least: of a drawing, the largest one is frequent and clipped by nobody."""
BLANK_FAILS = 0.1
"""Share of slices of one value from which on a volume is not what somebody meant to store."""


def judged(record: MetadataRecord, facts: SliceFacts, policy: QualityPolicy) -> Quality:
    """The record's quality with every gate's result, the worst of them, and whether the policy holds the revision for it."""
    statistics = record.metadata.technical.statistics or Statistics()
    gates = [_shape(record, policy), _voxel_size(record, policy)]
    if record.metadata.core.role == "image":
        gates = [*_voxels(facts, statistics, policy), *_order(facts, policy), *gates]
    gates.append(_completeness(record, policy))
    held = any(g.verdict == "fail" and g.gate in policy.hold for g in gates)
    return _quality(record, gates, policy, held=held)


def judged_again(record: MetadataRecord, policy: QualityPolicy, *, held: bool) -> Quality:
    """The quality of a record whose voxels were judged before: the gates that look at the record alone are asked again.

    What failed before holds the new revision only where it `held` the one before: somebody may have released that.
    """
    before = record.metadata.quality
    if before.verdict is None:
        return before
    anew = {result.gate: result for result in (_voxel_size(record, policy), _completeness(record, policy))}
    gates = [anew.get(result.gate, result) for result in before.gates]
    failed = {result.gate for result in before.gates if result.verdict == "fail"}
    holding = [g.gate for g in gates if g.verdict == "fail" and g.gate in policy.hold]
    return _quality(record, gates, policy, held=any(held or gate not in failed for gate in holding))


def _quality(record: MetadataRecord, gates: Sequence[GateResult], policy: QualityPolicy, *, held: bool) -> Quality:
    verdict = max((g.verdict for g in gates), key=WORST.index)
    score = round(completeness(record)[0], 3)
    told = {"verdict": verdict, "gates": tuple(gates), "completeness": score, "policy": policy.name, "held": held}
    return record.metadata.quality.model_copy(update=told)


def _completeness(record: MetadataRecord, policy: QualityPolicy) -> GateResult:
    score, unknown = completeness(record)
    return _result("completeness", policy.completeness, 1 - score, evidence=f"not known: {', '.join(unknown)}" if unknown else "")


def completeness(record: MetadataRecord) -> tuple[float, list[str]]:
    """Share of what a user would want to know that is known, and what is not."""
    core, provenance = record.metadata.core, record.metadata.provenance
    known = {
        "description": bool(core.description),
        "voxel size z": core.voxel_size_nm[0] is not None,
        "voxel size y": core.voxel_size_nm[1] is not None,
        "voxel size x": core.voxel_size_nm[2] is not None,
        "modality": core.modality != "unknown",
        "licence": record.licence.known,
        "citation": bool(record.citation),
        "where it came from": bool(provenance.download_url),
        "checksums of the archive": bool(provenance.objects) and all(o.checksum for o in provenance.objects),
        "axes": not any(c.code == "axes_assumed" for c in record.caveats),
    }
    unknown = [name for name, is_known in known.items() if not is_known]
    return 1 - len(unknown) / len(known), unknown


def _voxels(facts: SliceFacts, statistics: Statistics, policy: QualityPolicy) -> Iterable[GateResult]:
    yield _empty(facts, statistics, policy)
    yield _saturated(facts, statistics, policy)
    yield _histogram(statistics, policy)
    yield _contrast(facts, policy)


def _empty(facts: SliceFacts, statistics: Statistics, policy: QualityPolicy) -> GateResult:
    blank = [z for z, constant in enumerate(facts.constant) if constant]
    limit = policy.empty.warn if policy.empty.warn is not None else 1.0
    hollow = [z for z, share in enumerate(facts.zero_share) if share >= limit or facts.constant[z]]
    result = _result("empty", policy.empty, statistics.zero_share, hollow)
    if blank and result.verdict != "fail":
        result = result.model_copy(update={"verdict": "fail" if len(blank) >= BLANK_FAILS * len(facts.constant) else "warn"})
    said = f"{statistics.zero_share:.1%} of all voxels are 0" + (f"; slices {_ranges(blank)} hold one value" if blank else "")
    return result.model_copy(
        update={"evidence": said, "slices": tuple((blank or hollow)[:NAMED]) if result.verdict != "pass" else ()}
    )


def _saturated(facts: SliceFacts, statistics: Statistics, policy: QualityPolicy) -> GateResult:
    if sum(count > 0 for count in statistics.histogram) < FEWEST_GREYS:
        return GateResult(gate="saturated", verdict="pass", evidence=f"fewer than {FEWEST_GREYS} grey values: a drawing")
    # A slice of next to nothing is clipped at no value that counts as bright in the whole volume.
    high = statistics.window[1] if statistics.window else None
    bright = high if isinstance(high, int | float) else -math.inf
    shares = [share if top >= bright else 0.0 for share, top in zip(facts.saturated_share, facts.top, strict=True)]
    usual = median(shares)
    over = [share - usual for share in shares]
    worst = max(*over, usual)
    limit = policy.saturated.warn if policy.saturated.warn is not None else 1.0
    slices = [z for z, share in enumerate(over) if share >= limit] if usual < limit else list(range(len(over)))
    result = _result("saturated", policy.saturated, worst, slices)
    most = max(range(len(shares)), key=shares.__getitem__)
    said = (
        f"up to {shares[most]:.1%} of a slice at the largest value, {facts.top[most]:g}" if shares[most] else "nothing is clipped"
    )
    return result.model_copy(update={"evidence": said})


def _histogram(statistics: Statistics, policy: QualityPolicy) -> GateResult:
    counts = list(statistics.histogram)
    zeros = statistics.zero_share * sum(counts)
    lit = sum(counts) - zeros
    if lit <= 0:
        return GateResult(gate="histogram", verdict="pass", evidence="no voxel but 0")
    dominant = max(
        counts[k] - (zeros if low <= 0 < high else 0)
        for k, (low, high) in enumerate(zip(statistics.edges, statistics.edges[1:], strict=False))
    )
    return _result("histogram", policy.histogram, dominant / lit, evidence=f"{dominant / lit:.1%} of voxels above 0 in one bin")


def _contrast(facts: SliceFacts, policy: QualityPolicy) -> GateResult:
    shown = [z for z, std in enumerate(facts.std) if not facts.constant[z] and math.isfinite(std) and std > 0]
    if len(shown) < policy.fewest_slices:
        return GateResult(gate="contrast", verdict="pass", evidence="too few slices to compare")
    usual = median(facts.std[z] for z in shown)
    bright = [facts.mean[z] / usual for z in shown]
    strong = [math.log(facts.std[z]) for z in shown]
    # Where tissue begins or ends contrast changes by itself from slice to slice; one unlike both beside it is odd.
    apart = [min(pair) for pair in zip(_off_their_own(strong), _off_both_beside(strong), strict=True)]
    in_deviations = _drift(bright), dict(zip(shown, _off_their_own(bright), strict=True))
    in_times = math.exp(_drift(strong)), {z: math.exp(off) for z, off in zip(shown, apart, strict=True)}
    results = [_uneven(policy.contrast, *in_deviations), _uneven(policy.contrast_times, *in_times)]
    worst = max(results, key=lambda result: WORST.index(result.verdict))
    odd = sorted({z for result in results for z in result.slices})[:NAMED]
    said = (
        f"from the first to the last tenth brightness drifts by {in_deviations[0]:.2f} deviations of a slice, "
        f"contrast changes {in_times[0]:.2f} times"
    )
    return worst.model_copy(update={"slices": tuple(odd), "evidence": said + (f"; slices {_ranges(odd)} differ" if odd else "")})


def _uneven(rule: Rule, drift: float, off: dict[int, float]) -> GateResult:
    limit = rule.warn if rule.warn is not None else rule.fail
    odd = [z for z, much in off.items() if limit is not None and much >= limit]
    return _result("contrast", rule, max(drift, *off.values()), odd)


def _drift(values: Sequence[float]) -> float:
    tenth = max(1, len(values) // 10)
    return abs(median(values[:tenth]) - median(values[-tenth:]))


def _off_their_own(values: Sequence[float]) -> list[float]:
    """How far each is from the median of the five before and after."""
    return [abs(value - median(values[max(0, n - 5) : n + 6])) for n, value in enumerate(values)]


def _off_both_beside(values: Sequence[float]) -> list[float]:
    """How far each is from the one before or after, whichever is nearer."""
    beside = [[*values[max(0, n - 1) : n], *values[n + 1 : n + 2]] for n in range(len(values))]
    return [min(abs(value - other) for other in others) for value, others in zip(values, beside, strict=True)]


def _order(facts: SliceFacts, policy: QualityPolicy) -> Iterable[GateResult]:
    found = look_at_order(facts, policy)
    yield _missing(found, policy)
    said: dict[Gate, str] = {
        "duplicated": "slices {} are copies of the one before",
        "swapped": "slices {} are exchanged",
        "shifted": "slices {} are displaced against the one before",
        "jump": "slices {} are unlike both neighbours",
    }
    for gate, words in said.items():
        slices: list[int] = getattr(found, gate)
        rule: Rule = getattr(policy, gate)
        evidence = words.format(_ranges(slices)) if slices else found.why_not
        if gate == "shifted" and slices:
            evidence += " by " + ", ".join(f"y {dy:g} x {dx:g}" for dy, dx in list(found.shifts.values())[:5]) + " voxels"
        yield _result(gate, rule, len(slices), slices, evidence)


def _missing(found: SequenceFindings, policy: QualityPolicy) -> GateResult:
    said = [f"slices are lost before {_ranges(found.missing)}"] if found.missing else []
    if found.doubtful:
        said.append(
            f"perhaps lost before {_ranges(found.doubtful)}, where the step is greater than those beside it, but not by much"
        )
    measured = len(found.missing) or (DOUBTFUL if found.doubtful else 0)
    return _result("missing", policy.missing, measured, found.missing or found.doubtful, "; ".join(said) or found.why_not)


def _shape(record: MetadataRecord, policy: QualityPolicy) -> GateResult:
    """Axes whose length is not what the archive announced, as the fetcher compared them."""
    said = [c.evidence for c in record.caveats if c.about == "shape"]
    return _result("shape", policy.shape, len(said), evidence="; ".join(said)[:500])


def _voxel_size(record: MetadataRecord, policy: QualityPolicy) -> GateResult:
    sizes = record.metadata.core.voxel_size_nm
    known = [nm for nm in sizes if nm is not None]
    impossible = [nm for nm in known if not policy.possible_nm[0] <= nm <= policy.possible_nm[1]]
    unusual = [nm for nm in known if not policy.usual_nm[0] <= nm <= policy.usual_nm[1]]
    notes = [f"{nm:g} nm is no voxel size of electron microscopy" for nm in impossible or unusual]
    if len(known) == len(sizes) and max(known) > policy.most_anisotropic * min(known):
        notes.append(f"one axis is {max(known) / min(known):.0f} times another")
    _, y, x = sizes
    if y is not None and x is not None and max(y, x) > policy.most_anisotropic_in_plane * min(y, x):
        notes.append(f"y {y:g} and x {x:g} nm differ")
    measured = 2 if impossible else 1 if notes else 0
    return _result("voxel_size", policy.voxel_size, measured, evidence="; ".join(notes))


def _result(gate: Gate, rule: Rule, measured: float, slices: Sequence[int] = (), evidence: str = "") -> GateResult:
    verdict: Verdict = "pass"
    threshold = rule.warn if rule.warn is not None else rule.fail
    if rule.fail is not None and measured >= rule.fail:
        verdict, threshold = "fail", rule.fail
    elif rule.warn is not None and measured >= rule.warn:
        verdict, threshold = "warn", rule.warn
    named = tuple(slices[:NAMED]) if verdict != "pass" else ()
    measure = float(f"{measured:.6g}")
    return GateResult(gate=gate, verdict=verdict, measured=measure, threshold=threshold, slices=named, evidence=evidence)


def _ranges(slices: Sequence[int]) -> str:
    """`3, 7-9` of 3, 7, 8, 9; the first twenty ranges."""
    parts: list[list[int]] = []
    for z in slices:
        if parts and z == parts[-1][1] + 1:
            parts[-1][1] = z
        else:
            parts.append([z, z])
    text = [str(a) if a == b else f"{a}-{b}" for a, b in parts[:20]]
    return ", ".join(text) + (", …" if len(parts) > 20 else "")
