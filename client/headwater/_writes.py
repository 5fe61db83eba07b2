"""What puts and deletes share: the gateway's clock, a write and its attempts, and the settling of unknown outcomes.

An attempt is stamped with the gateway's time as it is handed to gRPC. The log refuses it when it is late, so that ten
seconds after the stamp it has either landed or never will. Only then is it safe to send again: a late attempt can no
longer undo a newer write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from ._errors import DeadlineExceeded, HeadwaterError, ResourceExhausted, Unavailable, WriteFailed, WriteUnknown
from ._plans import Call, Plan, Sleep
from ._types import OnOutcome, Refusal, WriteResult, WriteToken
from .gateway.v1 import gateway_pb2

if TYPE_CHECKING:
    from ._core import Core
    from ._order import Turn

SETTLED_SECONDS: Final = 10.0
"""After its stamp an attempt has landed or never will."""

_ASK_AGAIN_SECONDS: Final = 0.5
_FIND_SECONDS: Final = 5.0
LAST_ASK_SECONDS: Final = 1.0

TOO_OLD: Final = "WRITE_TOO_OLD"
"""The reason of a refusal for being late: it did not land, and a new attempt may."""

_FINAL: Final = frozenset(
    {
        "INVALID_ARGUMENT",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
    }
)


class GatewayClock:
    """The gateway's clock, as its streams tell it.

    Conservative: the gateway read its clock before we got it, so a stamp is never later than the gateway's true time.
    """

    def __init__(self) -> None:
        self._offset_ms: float | None = None

    @property
    def known(self) -> bool:
        """True once a stream has opened."""
        return self._offset_ms is not None

    def opened(self, now_unix_ms: int, received_at: float) -> None:
        """The gateway said what time it is; `received_at` is ours, monotonic."""
        self._offset_ms = now_unix_ms - received_at * 1000

    def unix_ms(self, now: float) -> int:
        """The gateway's time at our monotonic `now`."""
        if self._offset_ms is None:
            raise RuntimeError("the gateway's clock is asked for before it was told")
        return floor(self._offset_ms + now * 1000)


@dataclass(slots=True, eq=False)
class Write:
    """One document's way into the log.

    deadline: monotonic; past it nothing more is tried.
    document: what is put; None for a deletion.
    attempt: the last one.
    error: why that did not land.
    """

    document_id: str
    turn: Turn
    deadline: float
    document: gateway_pb2.Document | None = None
    write_id: bytes = field(default_factory=lambda: uuid4().bytes)
    attempt: Attempt | None = None
    error: HeadwaterError | None = None

    @property
    def size_bytes(self) -> int:
        """What it holds of the window."""
        return len(self.document.body) if self.document is not None else 0

    def attempted(self) -> Attempt:
        """A new attempt."""
        self.attempt = Attempt(self)
        return self.attempt


@dataclass(slots=True, eq=False)
class Attempt:
    """One sending of a write.

    sent_at: our monotonic time of handing it to gRPC; None before that.
    sent_unix_ms: the same in the gateway's time: its stamp.
    """

    write: Write
    sent_at: float | None = None
    sent_unix_ms: int = 0

    def stamp(self, clock: GatewayClock, now: float) -> None:
        """It is being handed to gRPC."""
        self.sent_unix_ms = clock.unix_ms(now)
        self.sent_at = now

    def put_request(self) -> gateway_pb2.PutDocumentsRequest:
        """The message, with its stamp."""
        return gateway_pb2.PutDocumentsRequest(
            document=self.write.document, write_id=self.write.write_id, sent_unix_ms=self.sent_unix_ms
        )

    @property
    def settled_at(self) -> float:
        """From when on (monotonic) it has landed or never will; 0 when it was not sent."""
        return 0.0 if self.sent_at is None else self.sent_at + SETTLED_SECONDS


@dataclass(slots=True)
class Settled:
    """What became of attempts with unknown outcomes."""

    landed: list[tuple[Write, WriteToken]] = field(default_factory=list)
    absent: list[Write] = field(default_factory=list)
    unknown: list[Write] = field(default_factory=list)


def is_final(error: HeadwaterError) -> bool:
    """True when sending again can never help."""
    return error.code in _FINAL and error.reason != TOO_OLD


def refusal_delay(error: HeadwaterError, backoff: float) -> float | None:
    """How long to wait before a refused write is sent again.

    None when that would not help. A refused write did not land.
    """
    if error.reason == TOO_OLD:
        return 0.0
    if isinstance(error, Unavailable):
        return max(backoff, error.retry_after or 0.0)
    if isinstance(error, ResourceExhausted) and error.retry_after is not None:
        return error.retry_after
    return None


def settle(core: Core, collection: str, after: str, attempts: Iterable[Attempt]) -> Plan[Settled]:
    """Finds out what became of attempts, within the deadlines of their writes.

    Asks at once, since most have landed, and again once those that have not can no longer land. Past a deadline it
    asks a last time.
    """
    outcome = Settled()
    waiting = list(attempts)
    while waiting:
        request = gateway_pb2.FindWritesRequest(
            collection=collection,
            writes=[
                gateway_pb2.WriteQuery(
                    document_id=a.write.document_id, write_id=a.write.write_id, sent_unix_ms=a.sent_unix_ms
                )
                for a in waiting
            ],
            after=after,
        )
        left = min(attempt.write.deadline for attempt in waiting) - core.now()
        found: Iterable[gateway_pb2.FoundWrite]
        try:
            found = (yield Call("FindWrites", request, min(max(left, LAST_ASK_SECONDS), _FIND_SECONDS))).writes
        except HeadwaterError as error:
            found = [gateway_pb2.FoundWrite() for _ in waiting]
            final = is_final(error)
        else:
            final = False
        now = core.now()
        still = []
        for attempt, write in zip(waiting, found, strict=True):
            if write.landed:
                outcome.landed.append((attempt.write, WriteToken(write.write_token)))
            elif write.settled and now >= attempt.settled_at:
                outcome.absent.append(attempt.write)
            elif final or now >= attempt.write.deadline:
                outcome.unknown.append(attempt.write)
            else:
                still.append(attempt)
        waiting = still
        if waiting:
            again = min(
                min(a.settled_at if a.settled_at > now else now + _ASK_AGAIN_SECONDS, a.write.deadline) for a in waiting
            )
            yield Sleep(max(0.0, again - now))
    return outcome


def deadline(now: float, timeout: float) -> float:
    """Until when (monotonic) a write of this timeout is tried.

    What is left after it is for asking a last time what became of it.
    """
    return now + timeout - min(LAST_ASK_SECONDS, timeout / 10)


class Ledger:
    """A call's writes and what has become of them so far.

    token: what the next stream or call is to be sent after, and what a read of all this is to carry: what the first
        one was sent after, and every write that landed since.
    """

    def __init__(self, core: Core, collection: str, after: str, on_outcome: OnOutcome | None) -> None:
        self._core = core
        self._collection = collection
        self._after = after
        self._on_outcome = on_outcome
        self._open: set[Write] = set()
        self._refused: list[Refusal] = []
        self._unknown: list[Refusal] = []
        self.token = WriteToken(after)
        self.accepted = 0

    @property
    def failed(self) -> bool:
        """True when something was refused, or its outcome stayed unknown."""
        return bool(self._refused or self._unknown)

    @property
    def lost(self) -> bool:
        """True when an outcome stayed unknown."""
        return bool(self._unknown)

    def join(self, write: Write) -> None:
        """Its outcome is open from now on."""
        self._open.add(write)

    def landed(self, write: Write) -> None:
        """The log has it; the caller has updated `token`."""
        self._leave(write)
        self.accepted += 1
        self._tell(write.document_id, None)

    def refused(self, document_id: str, error: HeadwaterError, write: Write | None = None) -> None:
        """It did not land, and never will. A document that could not even be sent is no `Write`."""
        if write is not None:
            self._leave(write)
        self._refused.append(Refusal(document_id, error))
        self._tell(document_id, error)

    def unknown(self, write: Write) -> None:
        """It may have landed, or may still."""
        self._leave(write, closed=True)
        why = f": {write.error.message}" if write.error is not None else ""
        error = DeadlineExceeded(
            f"time ran out before it was known whether it was written{why}", reason="WRITE_UNKNOWN"
        )
        self._unknown.append(Refusal(write.document_id, error))
        self._tell(write.document_id, error)

    def close(self) -> None:
        """The call is over, however it ended.

        Its client reads what landed, and does not overtake what may still land.
        """
        for write in tuple(self._open):
            self._leave(write, closed=True)
        if self.accepted:
            self._core.memory.wrote(self._collection, sent=self._after, token=self.token)

    def result(self) -> WriteResult:
        """All of it."""
        token = self.token if self.accepted else WriteToken()
        return WriteResult(token, self.accepted, tuple(self._refused), tuple(self._unknown))

    def failure(self) -> WriteFailed:
        """What to raise when `failed`."""
        result = self.result()
        first = (result.unknown or result.refused)[0]
        others = len(result.unknown or result.refused) - 1
        more = f" (and {others} more)" if others else ""
        if result.unknown:
            return WriteUnknown(
                f"document {first.document_id!r}{more}: {first.error}", result=result, cause=first.error
            )
        return WriteFailed(
            f"document {first.document_id!r}{more} was refused: {first.error}", result=result, cause=first.error
        )

    def _leave(self, write: Write, *, closed: bool = False) -> None:
        self._open.discard(write)
        closed_until = write.attempt.settled_at if closed and write.attempt is not None else 0.0
        self._core.order.leave(write.turn, closed_until=closed_until)

    def _tell(self, document_id: str, error: HeadwaterError | None) -> None:
        if self._on_outcome is not None:
            self._on_outcome(document_id, error)
