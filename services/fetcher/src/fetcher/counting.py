"""How much of a run's fetch is done, kept up with the ledger by reading only what was entered since the last look.

Nothing here is the truth: a process that starts, or finds another ledger than it knew, counts once from its first entry on.
"""

from __future__ import annotations

from emporter_contracts import subjects
from emporter_contracts.jobs import Tally
from emporter_contracts.plans import FetchPlan, Unit
from emporter_runtime.jobstore import tally
from emporter_runtime.ledger import Ledger, Tail


class RunCount:
    """The units of one run's plan that are stored, and the batches they make."""

    def __init__(self, plan: FetchPlan) -> None:
        self._plan = plan
        self._tail = Tail(subjects.raw_objects_stored(plan.job, plan.revision), self._begin, self._mark)

    def _begin(self) -> None:
        self._missing = {unit: n for n, batch in enumerate(self._plan.batches) for unit in batch}
        self._missing_of = [len(batch) for batch in self._plan.batches]
        self._total = len(self._missing)
        self._bytes = 0

    def _mark(self, subject: str) -> None:
        unit = Unit.of_entry(subject)
        batch = self._missing.pop(unit, None)
        if batch is not None:
            self._missing_of[batch] -= 1
            self._bytes += self._plan.unit_bytes(unit)

    async def catch_up(self, ledger: Ledger) -> None:
        """Tail.catch_up."""
        await self._tail.catch_up(ledger)

    async def confirmed(self, ledger: Ledger) -> bool:
        """Tail.confirmed."""
        return await self._tail.confirmed(ledger)

    @property
    def complete(self) -> bool:
        return not self._missing

    def incomplete(self) -> list[int]:
        """Batches of which a unit is missing, in order."""
        return [n for n, missing in enumerate(self._missing_of) if missing]

    @property
    def tally(self) -> Tally:
        return tally(self._total - len(self._missing), self._total, self._bytes, self._plan.raw_bytes)
