"""What the shard shows: the current searcher, or why there is none; and those who wait for a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field

from serving import deadlines, limits
from serving.errors import DeadlineExceeded, FailedPrecondition

from .errors import NotReady
from .reader import Reader
from .searcher import Searcher


@dataclass(frozen=True, slots=True)
class Requirement:
    """What must be seen first: what a write token says of documents."""

    log_id: bytes = b""
    """Empty for any."""
    documents_offsets: Mapping[int, int] = field(default_factory=dict)
    """By partition, the documents offset to be seen."""

    def of(self, partitions: Collection[int]) -> Requirement:
        """As far as it concerns these partitions."""
        offsets = self.documents_offsets.items()
        return Requirement(self.log_id, {partition: offset for partition, offset in offsets if partition in partitions})


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A searcher and the reader of the database it was made of."""

    searcher: Searcher
    reader: Reader


class Publication:
    """One reference that is swapped. Used on the event loop alone."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._why_not = NotReady("the shard is starting", reason="CATCHING_UP")
        self._changed = asyncio.Event()
        self.damage = asyncio.Event()
        """Set by whoever finds the database damaged; the follower makes it anew."""
        self.problem = ""
        """What keeps the shard from applying what is new; empty when all is well."""

    @property
    def ready(self) -> bool:
        """Whether there is something to answer from."""
        return self._view is not None

    def publish(self, view: View) -> None:
        """Answer from this from now on."""
        self._view = view
        self._wake()

    def withdraw(self, why: NotReady) -> None:
        """Answer nothing until the next publication."""
        self._view = None
        self._why_not = why
        self._wake()

    def current(self) -> View:
        """What to answer from. Raises NotReady."""
        if self._view is None:
            raise NotReady(self._why_not.message, reason=self._why_not.reason)
        return self._view

    async def readiness(self) -> AsyncIterator[bool]:
        """Whether there is something to answer from: at once, and at each change."""
        said: bool | None = None
        while True:
            changed = self._changed
            if said != self.ready:
                said = self.ready
                yield said
            else:
                await changed.wait()

    async def wait_for(self, requirement: Requirement) -> View:
        """The first view that has seen what is required. Raises NotReady, DeadlineExceeded, and FailedPrecondition when
        it is of another log."""
        view = self.current()
        while behind := _unmet(view, requirement):
            changed = self._changed
            try:
                async with asyncio.timeout(min(deadlines.remaining(), limits.MAX_DEADLINE_SECONDS)):
                    await changed.wait()
            except TimeoutError as error:
                partition, offset = next(iter(behind.items()))
                reached = view.searcher.progress[partition].documents_offset
                raise DeadlineExceeded(
                    f"the index has not caught up with the write token: partition {partition} is applied up to offset"
                    f" {reached}, and {offset} must be seen; allow more time",
                    reason="INDEX_BEHIND",
                ) from error
            view = self.current()
        return view

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _unmet(view: View, requirement: Requirement) -> dict[int, int]:
    """Offsets that the view has not seen, by partition. Raises FailedPrecondition when it is of another log."""
    if requirement.log_id and requirement.log_id != view.searcher.log_id:
        raise FailedPrecondition(
            "the write token is of a log that has been replaced; what it speaks of must be written again",
            reason="LOG_REPLACED",
        )
    return view.searcher.behind(requirement.documents_offsets)
