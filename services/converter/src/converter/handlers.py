"""Messages in, one domain call each, events out."""

from __future__ import annotations

from dataclasses import dataclass, field

from converter.census import empty_of
from converter.entered import Entered
from converter.finishing import finish_volume
from converter.ngff import create_arrays
from converter.overlapping import once_there, with_readiness
from converter.planning import plan_conversion
from converter.quality_policy import QualityPolicy
from converter.settings import ConverterSettings
from converter.sources import Awaited, open_early, open_reader
from converter.steward import say_complete
from converter.writing import write_task
from emporter_contracts import storage, subjects
from emporter_contracts.commands import ConvertTask, FinishVolume, IngestRequest, JobCommand, PlanConversion
from emporter_contracts.events import ConvertDone, RawManifestComplete, ShardWritten
from emporter_contracts.plans import ConversionPlan, FetchPlan, Manifest, StoredRequest, VolumePlan
from emporter_contracts.policy import RuleDecision
from emporter_contracts.records import MetadataRecord
from emporter_readers.protocol import Reader
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.deadletters import handle_dead_letters
from emporter_runtime.heartbeat import Work, Workers
from emporter_runtime.jobstore import JobStore
from emporter_runtime.ledger import Ledger
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.plans import StoredPlans, required
from emporter_runtime.policy.errors import PolicyDeniedError
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.saying import say
from emporter_runtime.stewarding import Steward
from emporter_runtime.telemetry import GATES, SHARDS

READERS_KEPT = 4
"""Open readers a process keeps: opening a TIFF of a thousand pages reads a thousand headers."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the handlers work with."""

    settings: ConverterSettings
    bus: Bus
    jobs: JobStore
    ledger: Ledger
    objects: Objects
    plans: StoredPlans
    workers: Workers
    steward: Steward
    policy: QualityPolicy
    rules: Policy = field(default_factory=Policy)
    readers: dict[tuple[str, int], Reader] = field(default_factory=dict)
    early_readers: dict[tuple[str, int], Reader] = field(default_factory=dict)
    """Of volumes that are still being fetched."""
    arrays: set[tuple[str, int]] = field(default_factory=set)

    async def fetch(self, command: JobCommand) -> tuple[FetchPlan, Manifest | None]:
        """What a run fetches, and the manifest where everything was."""
        plan = required(await self.plans.plan(command.job, command.revision), "the plan")
        return plan, await self.plans.manifest(command.job, command.revision)

    async def fetched(self, command: JobCommand) -> tuple[FetchPlan, Manifest]:
        """What the fetch left of a run."""
        plan, manifest = await self.fetch(command)
        return plan, required(manifest, "the manifest")

    async def conversion(self, command: JobCommand) -> ConversionPlan:
        return required(await self.plans.conversion(command.job, command.revision), "the conversion plan")

    async def request(self, command: JobCommand) -> IngestRequest:
        return required(await self.plans.request(command.job, command.revision), "the request").request

    async def record(self, command: FinishVolume) -> MetadataRecord:
        """The record of a volume that is committed."""
        body = await self.objects.get(storage.VOLUMES, storage.record(command.volume, command.revision))
        return MetadataRecord.model_validate_json(body)

    def reader(self, plan: FetchPlan, manifest: Manifest | None, volume: str) -> Reader:
        """The reader of a volume, opened once, and once more when all is fetched; called from worker threads."""
        known = self.early_readers if manifest is None else self.readers
        kept = known.get((volume, plan.revision))
        if kept is None:
            roots = self.settings.file_roots
            if manifest is None:
                kept = open_early(self.objects, plan, volume, roots, Awaited())
            else:
                kept = open_reader(self.objects, plan, manifest, volume, roots)
            while len(known) >= READERS_KEPT:
                known.pop(next(iter(known)), None)
            known[volume, plan.revision] = kept
        return kept

    def lay_out(self, plan: VolumePlan, revision: int) -> None:
        """Write the array metadata of every level, once a process; others may have."""
        if (plan.volume, revision) not in self.arrays:
            create_arrays(self.objects, plan, revision)
            self.arrays.add((plan.volume, revision))


def register(rooms: Rooms) -> None:
    """Subscribe every handler."""
    _register_planning(rooms)
    _register_tasks(rooms)
    _register_finish(rooms)
    handle_dead_letters(rooms.bus, rooms.jobs, "converter-dead-letters")

    @rooms.bus.consume("converter-manifests")
    async def on_manifest(event: RawManifestComplete, _: Delivery) -> None:
        rooms.steward.soon(event.job)

    @rooms.bus.consume("convert-steward")
    async def on_done(entry: ConvertDone, _: Delivery) -> None:
        rooms.steward.soon(entry.job)


def _register_planning(rooms: Rooms) -> None:
    @rooms.bus.consume("converter-plan")
    async def on_plan(command: PlanConversion, delivery: Delivery) -> None:
        async with rooms.workers.on(command, delivery) as work:
            if await rooms.plans.conversion(command.job, command.revision) is None:
                plan = await work.heavy(_plan, rooms, *await rooms.fetch(command), await rooms.request(command))
                if plan is None:
                    log.info("planned_later", reason="what it needs is not fetched yet")
                    return
                await rooms.objects.put_json(storage.RAW, storage.conversion(command.job, command.revision), plan)
            rooms.steward.soon(command.job)


def _register_tasks(rooms: Rooms) -> None:
    @rooms.bus.consume("converter-task", workers=rooms.settings.converter_tasks)
    async def on_task(command: ConvertTask, delivery: Delivery) -> None:
        async with rooms.workers.on(command, delivery) as work:
            place = (command.volume, command.level, command.n)
            subject = subjects.convert_done(command.job, command.revision, *place)
            if await rooms.ledger.has(subject):
                return
            plan, manifest = await rooms.fetch(command)
            volume = (await rooms.conversion(command)).volume(command.volume)
            shards = await work.large(_write, rooms, plan, manifest, volume, command, work)
            # This task's own level last: until it is entered, a redelivery does all of it again.
            for level, written in sorted(shards.items(), reverse=True):
                entry = ConvertDone.of(command, volume=command.volume, level=level, n=command.n, shards=written)
                at = subjects.convert_done(command.job, command.revision, command.volume, level, command.n)
                await rooms.ledger.enter(at, entry)
            SHARDS.inc(sum(map(len, shards.values())))


def _register_finish(rooms: Rooms) -> None:
    @rooms.bus.consume("converter-finish")
    async def on_finish(command: FinishVolume, delivery: Delivery) -> None:
        async with rooms.workers.on(command, delivery) as work:
            wildcard = subjects.convert_dones(command.job, command.revision, command.volume)
            plan, manifest = await rooms.fetched(command)
            conversion = await rooms.conversion(command)
            entered = Entered(conversion.volume(command.volume))
            async for entry in rooms.ledger.entries(wildcard, ConvertDone):
                entered.enter(entry.shards)
            claim = required(await rooms.plans.request(command.job, command.revision), "the request")
            try:
                digest = await work.large(
                    finish_volume,
                    rooms.objects,
                    plan,
                    manifest,
                    conversion,
                    command.volume,
                    claim.request,
                    entered,
                    lambda: rooms.reader(plan, manifest, command.volume),
                    work.check,
                    rooms.policy,
                    rooms.rules,
                    claim.purpose,
                )
            except PolicyDeniedError as denied:
                await _say_decisions(rooms, command, claim, (denied.decision,))
                raise
            record = await rooms.record(command)
            _count_gates(record)
            await _say_decisions(rooms, command, claim, record.decisions)
            await say_complete(rooms.bus, command, command.volume, digest)
            rooms.steward.soon(command.job)


def _count_gates(record: MetadataRecord) -> None:
    """What the gates said of a volume, for whoever watches; a finish that is done twice counts twice."""
    for gate in record.metadata.quality.gates:
        GATES.labels(gate.gate, gate.verdict).inc()


async def _say_decisions(rooms: Rooms, command: FinishVolume, claim: StoredRequest, decisions: tuple[RuleDecision, ...]) -> None:
    """What rules said of a volume, for the catalog."""
    asker = Asker.of(claim.request, claim.purpose)
    judgement = Judgement(decisions)
    await say(rooms.bus, rooms.rules, judgement, "publication", asker, command.job, command.revision, command.volume)


def _plan(rooms: Rooms, plan: FetchPlan, manifest: Manifest | None, request: IngestRequest) -> ConversionPlan | None:
    """The conversion plan; None where it needs what is still being fetched."""
    memory, awaited = rooms.settings.converter_memory_bytes // rooms.settings.converter_tasks, Awaited()

    def reader(volume: str) -> Reader:
        if manifest is not None:
            return rooms.reader(plan, manifest, volume)
        return open_early(rooms.objects, plan, volume, rooms.settings.file_roots, awaited)

    def planned() -> ConversionPlan:
        readers = {volume.volume: reader(volume.volume) for volume in plan.volumes}
        return with_readiness(plan_conversion(plan, readers, request, memory), plan, readers)

    return once_there(awaited, planned)


def _write(
    rooms: Rooms, plan: FetchPlan, manifest: Manifest | None, volume: VolumePlan, command: ConvertTask, work: Work
) -> dict[int, tuple[ShardWritten, ...]]:
    rooms.lay_out(volume, command.revision)
    return write_task(
        rooms.objects,
        volume,
        command.revision,
        command.level,
        command.n,
        empty_of(plan, command.volume),
        lambda: rooms.reader(plan, manifest, command.volume),
        work.check,
    )
