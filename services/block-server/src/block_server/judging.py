"""What the quality gates said of a revision, as HTML for people: the verdict, and each finding with its slices."""

from __future__ import annotations

import html

from emporter_contracts.ids import VolumeRef
from emporter_contracts.records import GateResult, MetadataRecord

SHOWN = 8
"""Slices a finding names on a page; the record has up to a hundred."""


def verdict_cell(record: MetadataRecord) -> str:
    """The verdict in few words for a table, all of it when one points at it; empty where no gate was asked."""
    quality = record.metadata.quality
    if quality.verdict is None:
        return ""
    gates = [f"{gate.gate}{_slices(gate)}" for gate in _found(record)]
    all_of_it = html.escape("\n".join(_finding(gate) for gate in _found(record)), quote=True)
    words = html.escape(": ".join(filter(None, (quality.verdict, ", ".join(gates)))))
    return f'<span class="{quality.verdict}" title="{all_of_it}">{words}</span>'


def verdict_block(record: MetadataRecord, *, held: bool) -> str:
    """The verdict above a volume's picture, its findings below it, and whether the revision is held."""
    quality = record.metadata.quality
    if quality.verdict is None and not held:
        return ""
    findings = "".join(f'<li class="{gate.verdict}">{html.escape(_finding(gate))}</li>' for gate in _found(record))
    waiting = ""
    if held:
        ref = html.escape(f"{record.volume}@r{record.revision}")
        waiting = f'<p class="fail">held: not current until somebody releases it (emporter release {ref})</p>'
    verdict = quality.verdict or "not judged"
    opened = " open" if held or verdict == "fail" else ""
    return (
        f'<details id="quality"{opened}><summary>quality: <span class="{verdict}">{verdict}</span></summary>'
        f"{waiting}<ul>{findings}</ul></details>"
    )


def held_table(found: list[tuple[VolumeRef, MetadataRecord | None]]) -> str:
    """Revisions that gates hold back, each with why; empty where there are none."""
    if not found:
        return ""
    rows = "".join(
        f'<tr><td><a href="view/{html.escape(str(ref))}">{html.escape(str(ref))}</a></td>'
        f"<td>{verdict_cell(record) if record is not None else ''}</td>"
        f"<td>emporter release {html.escape(str(ref))}</td></tr>"
        for ref, record in found
    )
    head = "<tr><th>revision</th><th>quality</th><th>makes it current</th></tr>"
    return f'<section id="held"><h1>Held</h1><table><thead>{head}</thead><tbody>{rows}</tbody></table></section>'


def _found(record: MetadataRecord) -> list[GateResult]:
    """What did not pass, the worst first."""
    failing = [gate for gate in record.metadata.quality.gates if gate.verdict != "pass"]
    return sorted(failing, key=lambda gate: gate.verdict != "fail")


def _finding(gate: GateResult) -> str:
    return f"{gate.verdict} {gate.gate}: {gate.evidence}{_slices(gate)}"


def _slices(gate: GateResult) -> str:
    if not gate.slices:
        return ""
    more = ", …" if len(gate.slices) > SHOWN else ""
    return f" (z {', '.join(map(str, gate.slices[:SHOWN]))}{more})"
