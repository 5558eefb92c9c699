"""`emporter jobs | status | watch | cancel | retry | pause | resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from emporter.cli.options import Json, Stack, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter_contracts.commands import Accepted
    from emporter_contracts.jobs import JobStatus, Tally

Job = Annotated[str, typer.Argument(metavar="JOB", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("jobs")(list_jobs)
    app.command()(status)
    app.command()(watch)
    app.command()(cancel)
    app.command()(retry)
    app.command()(pause)
    app.command()(resume)


def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    source: Annotated[str | None, typer.Option(help="Only jobs of this archive.")] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """List all jobs, the newest first."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.jobs(state=state, source=source))
    if json:
        showing.print_json(found)
    else:
        rows = (showing.job_row(job) for job in found)
        showing.print_table(showing.JOB_HEADINGS, rows, "no jobs yet: emporter ingest starts one")


def status(job: Job, json: Json = False, stack: Stack = None) -> None:
    """Say where a job stands."""
    from emporter.cli import showing

    found = with_client(stack, lambda client: client.status(job))
    if json:
        showing.print_json(found)
    else:
        _describe(found)


def watch(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", show_default=False)] = None,
    json: Json = False,
    stack: Stack = None,
) -> int:
    """Watch a job until it ends; without JOB the newest that runs. Interrupting leaves it running."""
    from emporter.cli.watching import watch_job

    async def run(client: AsyncClient) -> int:
        return await watch_job(client, job or await _newest_running(client), json=json)

    return with_client(stack, run)


def cancel(job: Job, json: Json = False, stack: Stack = None) -> None:
    """Stop a job."""
    _print_accepted(with_client(stack, lambda client: client.cancel(job)), json=json)


def retry(job: Job, json: Json = False, stack: Stack = None) -> None:
    """Go on with a failed or cancelled job where it stopped."""
    _print_accepted(with_client(stack, lambda client: client.retry(job)), json=json)


def pause(job: Job, json: Json = False, stack: Stack = None) -> None:
    """Let a job rest; what is done stays."""
    _print_accepted(with_client(stack, lambda client: client.pause(job)), json=json)


def resume(job: Job, json: Json = False, stack: Stack = None) -> None:
    """Let a paused job go on."""
    _print_accepted(with_client(stack, lambda client: client.resume(job)), json=json)


def _print_accepted(accepted: Accepted, *, json: bool) -> None:
    from emporter.cli import showing

    if json:
        showing.print_json(accepted)
    else:
        print(f"{accepted.job} {accepted.state}")


async def _newest_running(client: AsyncClient) -> str:
    from emporter.errors import MistakeError

    for found in await client.jobs():
        if found.state.running:
            return found.job
    raise MistakeError("no job is running", hint="emporter jobs lists them all")


def _describe(job: JobStatus) -> None:
    from emporter.cli import showing
    from emporter.cli.pace import pace_said

    def paced(stage: Tally) -> str:
        said = pace_said(stage) if job.state.running and not job.waiting else ""
        return f", {said}" if said else ""

    print(f"{job.job}  {job.state}  r{job.revision}, changed {showing.ago(job.updated_at)}")
    if job.waiting:
        until = f", next try {job.waiting.next_try:%H:%M:%S} UTC" if job.waiting.next_try else ""
        print(f"waiting    {job.waiting.reason}{until}  {job.waiting.message}".rstrip())
    if job.fetch.total:
        fetched, planned = showing.size(job.fetch.bytes_done), showing.size(job.fetch.bytes_total)
        print(f"fetched    {fetched} of {planned}, {job.fetch.done} of {job.fetch.total} pieces{paced(job.fetch)}")
    if job.convert.total:
        print(f"converted  {job.convert.done} of {job.convert.total} tasks{paced(job.convert)}")
    for volume in job.volumes:
        print(f"volume     {volume.volume}@r{job.revision}  {'committed' if volume.committed else 'not yet committed'}")
        for k, held in enumerate(volume.levels):
            if held.total and not volume.committed:
                print(f"  level {k}  {showing.share(held.done, held.total)}{paced(held)}")
    if job.error:
        print(f"error      {job.error.code}: {job.error.message}" + (f"; {job.error.hint}" if job.error.hint else ""))
