"""`emporter webhooks add | list | rm | deliveries | retry`: who is told of events, and what could not be told."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from emporter.cli.options import Json, Stack, with_client

Webhook = Annotated[str, typer.Argument(metavar="WEBHOOK", help="As `emporter webhooks list` shows it.", show_default=False)]


class State(StrEnum):
    """Of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Who is told of events over HTTP.", no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_all)
    group.command("rm")(remove)
    group.command()(deliveries)
    group.command()(retry)
    app.add_typer(group, name="webhooks")


def add(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False)],
    kind: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only these, such as volume_complete; again for more.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME=VALUE", help="source=, job=, volume= or state=; again for more.")
    ] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Have events told to a URL, signed; prints the secret, this once."""
    from emporter.cli import showing

    types = [name if "." in name else f"io.emporter.{name}.v1" for name in kind or []]
    where = dict(_pair(text) for text in only or [])
    made = with_client(stack, lambda client: client.subscribe(url, types, where))
    if json:
        showing.print_json(made)
    else:
        print(f"{made['id']}  secret {made['secret']}")


def list_all(json: Json = False, stack: Stack = None) -> None:
    """List who is told what."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.webhooks())
    if json:
        showing.print_json(found)
        return
    rows = (
        (w["id"], w["url"], " ".join(w["types"]) or "all", " ".join(f"{k}={v}" for k, v in w["filter"].items())) for w in found
    )
    showing.print_table(("webhook", "url", "types", "only"), rows, "no webhooks: emporter webhooks add URL")


def remove(webhook: Webhook, stack: Stack = None) -> None:
    """Tell a URL nothing more."""
    with_client(stack, lambda client: client.unsubscribe(webhook))
    print(f"{webhook} removed")


def deliveries(
    webhook: Webhook,
    state: Annotated[
        State | None, typer.Option(help="Only these; dead is what no try could deliver.", show_default=False)
    ] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """List what was told, what is to be told, and what could not be told."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.deliveries(webhook, state.value if state else None))
    if json:
        showing.print_json(found)
        return
    rows = ((d["event"], d["body"]["type"], d["state"], d["tries"], d["next_try"] or "", d["error"]) for d in found)
    showing.print_table(("event", "type", "state", "tries", "next try", "error"), rows, "nothing")


def retry(webhook: Webhook, json: Json = False, stack: Stack = None) -> None:
    """Send once more what no try could deliver."""
    from emporter.cli import showing

    again = with_client(stack, lambda client: client.redeliver(webhook))
    if json:
        showing.print_json({"webhook": webhook, "again": again})
    else:
        print(f"{again} sent again")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise typer.BadParameter(f"--only {text}: write NAME=VALUE, such as source=idr")
    return name, value
