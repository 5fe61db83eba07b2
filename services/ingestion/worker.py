"""The worker: a tenure for each partition that its group gives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from serving import telemetry
from serving.errors import HeadwaterError
from serving.eventlog import Assignment, Fenced, LogMissing, LogReplaced, Membership, Owner, Topic

from . import metrics
from .errors import LogDisagrees
from .tenure import Tenure

_log = telemetry.get_logger(__name__)

GROUP: Final = "headwater-ingestion"
_HAND_OVER_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0


class Worker:
    """Follows its group's assignments; what ends it is fatal to the process."""

    def __init__(self, log: Owner, open_tenure: Callable[[int], Tenure], *, member: str, report_seconds: float) -> None:
        self._log = log
        self._open_tenure = open_tenure
        self._member = member
        self._report_seconds = report_seconds
        self._assignment = Assignment(-1, frozenset())
        self._owned: dict[int, Tenure | None] = {}
        self._owning: set[asyncio.Task[None]] = set()
        self._joined = asyncio.Event()
        self._membership: Membership | None = None

    async def joined(self) -> None:
        """Return once the group has given this worker its partitions."""
        await self._joined.wait()

    async def run(self) -> None:
        """Raises LogReplaced, LogMissing and LogDisagrees (rule 5), and Fenced when another runs under this name."""
        try:
            async with self._log.join(GROUP, self._member, Topic.DOCUMENTS) as membership, asyncio.TaskGroup() as group:
                self._membership = membership
                group.create_task(self._report(membership))
                async for assignment in membership.assignments():
                    _log.info("assigned", generation=assignment.generation, partitions=sorted(assignment.partitions))
                    self._assignment = assignment
                    # one that was revoked keeps working until its next owner fences it: there is no gap between them
                    for partition in assignment.partitions - self._owned.keys():
                        self._owned[partition] = None
                        owning = group.create_task(self._own(partition))
                        self._owning.add(owning)
                        owning.add_done_callback(self._owning.discard)
                    self._joined.set()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def hand_over(self) -> None:
        """Leave the group and work on for the few seconds in which the others take over, so that no partition waits.

        An idle owner does not notice that it was taken over, so that the time is the same. Alone, do nothing.
        """
        if self._membership is not None and await self._membership.leave() and self._owning:
            self._assignment = Assignment(-1, frozenset())  # or what is fenced would be taken back
            _log.info("handing over", partitions=sorted(self._owned))
            await asyncio.wait(self._owning, timeout=_HAND_OVER_SECONDS)
            _log.info("handed over")

    async def _own(self, partition: int) -> None:
        """One tenure after another, for as long as the group wants this worker to have the partition."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        after = "assignment"
        try:
            while True:
                generation = self._assignment.generation
                metrics.TAKE_OVERS.labels(after).inc()
                tenure = self._owned[partition] = self._open_tenure(partition)
                began_at = time.monotonic()
                try:
                    await tenure.run()
                except Fenced:
                    after = "fence"
                    _log.info("fenced", partition=partition, generation=generation)
                    # it was taken by another: it is ours again only if the group has said so since (rule 1)
                    if self._assignment.generation == generation:
                        return
                except (LogReplaced, LogMissing, LogDisagrees):
                    raise
                except Exception as error:
                    after = "failure"
                    reason = error.reason if isinstance(error, HeadwaterError) else type(error).__name__
                    _log.error("partition abandoned", partition=partition, reason=reason, exc_info=error)
                    if time.monotonic() - began_at > _LONGEST_PAUSE_SECONDS:
                        pause_seconds = _FIRST_PAUSE_SECONDS
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
                if partition not in self._assignment.partitions:
                    return
        finally:
            del self._owned[partition]

    async def _report(self, membership: Membership) -> None:
        while True:
            await asyncio.sleep(self._report_seconds)
            try:
                await membership.report(
                    {partition: tenure.reached for partition, tenure in self._owned.items() if tenure is not None}
                )
            except HeadwaterError as error:
                _log.warning("position not reported", reason=error.reason, message=error.message)
