"""`emporter policy show | check | decisions | test`: the operator's rules, what they decided, what they would say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli.options import Json, Stack, with_client

if TYPE_CHECKING:
    from emporter_contracts.records import MetadataRecord
    from emporter_runtime.policy.judging import Policy

REFUSED = 1
"""Exit status where a rule refuses."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Rules on licence, embargo, purpose and retention.", no_args_is_help=True)
    group.command()(show)
    group.command()(check)
    group.command()(decisions)
    group.command("test")(try_out)
    app.add_typer(group, name="policy")


def show(json: Json = False, stack: Stack = None) -> None:
    """Show the rules that are in force."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.policy())
    if json:
        showing.print_json(found)
        return
    rows = [(r["name"], ", ".join(r["at"]), r["then"], r["when"], r["message"]) for r in found["rules"]]
    kept = [(r["name"], "gc", f"{r['what']} go after {r['days']:g} d", r["when"], "") for r in found["retention"]]
    showing.print_table(("rule", "at", "then", "when", "message"), [*rows, *kept], "no rules: EMPORTER_POLICY names no file")
    print(f"policy {found['name']} {found['digest'][:12]}")


def check(
    volume: Annotated[str, typer.Argument(metavar="VOLUME[@rN]", show_default=False)],
    purpose: Annotated[str, typer.Option(help="What it would be for.")] = "",
    json: Json = False,
    stack: Stack = None,
) -> int:
    """Say what the rules would say of a volume now. Exit status 1 where they refuse to let it be read."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.check_policy(volume, purpose))
    if json:
        showing.print_json(found)
    else:
        _print_results(found["volume"], found["results"], allowed=found["allowed"])
    return 0 if found["allowed"] else REFUSED


def decisions(
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    volume: Annotated[str | None, typer.Option(help="Only of this volume and its job.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only of this rule.")] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """List what rules decided at request and publication, the newest first."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.policy_decisions(job=job, volume=volume, rule=rule))
    if json:
        showing.print_json(found)
        return
    headings = ("when", "rule", "at", "said", "about", "purpose", "why")
    rows = [
        (d["at"][:19], d["rule"], d["point"], d["outcome"], _about(d), d["purpose"], d["error"] or d["message"]) for d in found
    ]
    showing.print_table(headings, rows, "no rule has said anything")


def try_out(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A policy file.", show_default=False)],
    record: Annotated[
        Path | None, typer.Option(metavar="RECORD.json", help="Ask the rules about this metadata record (emporter show --json).")
    ] = None,
    purpose: Annotated[str, typer.Option(help="What it would be for.")] = "",
    at: Annotated[str | None, typer.Option(metavar="TIME", help="As if it were then, such as 2027-01-31.")] = None,
    json: Json = False,
) -> int:
    """Check a policy file, and ask its rules about a record. Exit status 1 where they refuse; no stack is needed."""
    from emporter.cli import showing
    from emporter_contracts.records import MetadataRecord
    from emporter_runtime.policy.judging import Policy

    policy = Policy.read(file)
    results: list[dict[str, Any]] = []
    if record is not None:
        results = _judged(policy, MetadataRecord.model_validate_json(record.read_bytes()), purpose, at)
    allowed = not any(r["outcome"] == "deny" for r in results)
    if json:
        showing.print_json({"valid": True, "name": policy.document.name, "allowed": allowed, "results": results})
    else:
        print(f"{file}: {len(policy.document.rules)} rules, {len(policy.document.retention)} of retention, all sound")
        if record is not None:
            _print_results(str(record), results, allowed=allowed)
    return 0 if allowed else REFUSED


def _judged(policy: Policy, record: MetadataRecord, purpose: str, at: str | None) -> list[dict[str, Any]]:
    from datetime import UTC, datetime

    from emporter_runtime.policy.facts import Asker, checked_purpose, moment

    try:
        now = datetime.now(UTC) if at is None else moment(at)
    except ValueError:
        raise typer.BadParameter(f"--at {at}: write 2027-01-31 or 2027-01-31T12:00") from None
    said = policy.everywhere(record, Asker(checked_purpose(purpose)), now)
    return [{"point": point, **d.model_dump()} for point, judgement in said.items() for d in judgement.decisions]


def _print_results(about: str, results: list[dict[str, Any]], *, allowed: bool) -> None:
    from emporter.cli import showing

    rows = [(r["point"], r["rule"], r["outcome"], r["error"] or r["message"]) for r in results]
    if rows:
        showing.print_table(("at", "rule", "says", "why"), rows, "")
    print(f"{about}: {'may be read' if allowed else 'may not be read'}" + ("" if rows else "; no rule says anything"))


def _about(decision: dict[str, Any]) -> str:
    name = decision["volume"] or decision["job"]
    return f"{name}@r{decision['revision']}" if decision["revision"] else str(name)
