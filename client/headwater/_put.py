"""Putting documents: a plan over one stream after another.

A stream is fed until something on it was not simply acknowledged or refused for good, or until it is a minute old. It
is then closed and what is open on it is settled, and the next stream starts with what must be sent again. That is
rare, and keeps the order easy to see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ._config import MAX_TIMEOUT_SECONDS
from ._errors import DeadlineExceeded, HeadwaterError, InvalidArgument, ResourceExhausted, from_message
from ._messages import document_message
from ._plans import Plan, Sleep, backoff_seconds
from ._types import Document, OnOutcome, WriteResult, WriteToken
from ._writes import Attempt, Ledger, Write, deadline, is_final, refusal_delay, settle
from .gateway.v1 import gateway_pb2

if TYPE_CHECKING:
    from ._core import Core

MAX_IN_FLIGHT: Final = 64
MAX_IN_FLIGHT_BYTES: Final = 8 * 1024 * 1024
STREAM_SECONDS: Final = 60.0
"""A stream takes no more documents after this long, so that none nears the gateway's longest deadline."""

_CLOSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream with this first message, in place of the one before."""

    request: gateway_pb2.PutDocumentsRequest
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Send:
    """Hand this to gRPC as soon as it takes it, and stamp it then."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Nothing more will be sent on the stream."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Cancel the stream, if one is open."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait at most this long (infinite.

    For good) for a response, the stream's end or a wake-up; the result is a list of all there are.
    """

    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class NextDocument:
    """Take the next document from the caller's iterable; the result is None at its end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Event: the stream is over, well or not."""

    error: HeadwaterError | None


class Wake(Enum):
    """Event: look again."""

    WAKE = "wake"


@dataclass(slots=True)
class _Stream:
    started_at: float
    opened: bool = False
    half_closed_at: float = inf
    ended: bool = False


class Put:
    """One call of `put`."""

    def __init__(
        self,
        core: Core,
        collection: str,
        *,
        after: str,
        timeout: float,
        collect: bool,
        on_outcome: OnOutcome | None,
        wake: Callable[[], None],
    ) -> None:
        self._core = core
        self._collection = collection
        self._timeout = timeout
        self._collect = collect
        self._wake = wake
        self._ledger = Ledger(core, collection, after, on_outcome)
        self._queue: deque[Write] = deque()  # to be sent
        self._unanswered: dict[bytes, Attempt] = {}  # sent on this stream
        self._refused: list[Write] = []  # did not land, to be sent again
        self._unknown: list[Attempt] = []  # to be settled
        self._exhausted = False  # no more documents will be taken
        self._failure: Exception | None = None  # ends the call, once what is in flight is settled
        self._delay_seconds = 0.0  # before the next stream
        self._failures = 0  # streams in a row on which nothing landed
        self._stream = _Stream(0.0)

    def run(self) -> Plan[WriteResult]:
        """Raises WriteFailed, WriteUnknown, what ended the stream, or what the caller's iterable raised."""
        try:
            while (yield from self._more()):
                landed = self._ledger.accepted
                yield from self._one_stream()
                yield from self._settle()
                if self._ledger.accepted > landed:
                    self._failures = 0
                elif self._queue and not self._failure:
                    self._failures += 1
                    delay = max(self._delay_seconds, backoff_seconds(self._failures - 1))
                    yield Sleep(max(0.0, min(delay, self._queue[0].deadline - self._core.now())))
                self._delay_seconds = 0.0
        except GeneratorExit:
            raise
        except BaseException:
            # Interrupted or cancelled: what was answered meanwhile counts.
            for event in (yield Receive(0.0)):
                self._handle(event)
            raise
        finally:
            self._ledger.close()
        if self._ledger.lost:
            raise self._ledger.failure()
        if self._failure is not None:
            raise self._failure
        if self._ledger.failed and not self._collect:
            raise self._ledger.failure()
        return self._ledger.result()

    def _more(self) -> Plan[bool]:
        self._expire()
        while not self._queue and not self._exhausted:
            yield from self._take()
        return bool(self._queue) and self._failure is None

    def _take(self) -> Plan[None]:
        try:
            document: Document | None = yield NextDocument()
        except Exception as error:  # the caller's own iterable failed: let what is in flight end well first
            self._failure, self._exhausted = error, True
            return
        if document is None:
            self._exhausted = True
            return
        try:
            message = document_message(document)
        except InvalidArgument as error:
            self._refuse(document.id, error)
            return
        turn = self._core.order.join((self._collection, document.id), self._wake)
        write = Write(document.id, turn, deadline(self._core.now(), self._timeout), message)
        self._ledger.join(write)
        self._queue.append(write)

    def _one_stream(self) -> Plan[None]:
        stream = self._stream = _Stream(self._core.now())
        opening = gateway_pb2.PutDocumentsRequest(collection=self._collection, after=self._ledger.token)
        yield Open(opening, min(MAX_TIMEOUT_SECONDS, STREAM_SECONDS + self._timeout))
        while not stream.ended:
            self._expire()
            if self._overdue():
                yield Abort()
                break
            wait_seconds = 0.0
            if not stream.opened or stream.half_closed_at < inf:
                wait_seconds = self._wait_seconds()
            elif self._may_send():
                write = self._queue.popleft()
                attempt = self._unanswered[write.write_id] = write.attempted()
                yield Send(attempt)
            elif self._may_take():
                yield from self._take()
            elif self._closing() or (self._exhausted and not self._queue):
                yield HalfClose()
                stream.half_closed_at = self._core.now()
            else:
                wait_seconds = self._wait_seconds()
            for event in (yield Receive(wait_seconds)):
                self._handle(event)
        for attempt in self._unanswered.values():
            if attempt.sent_at is None:
                self._refused.append(attempt.write)  # it never left
            else:
                self._unknown.append(attempt)
        self._unanswered.clear()

    def _closing(self) -> bool:
        too_old = self._core.now() > self._stream.started_at + STREAM_SECONDS
        return too_old or bool(self._refused or self._unknown) or self._failure is not None

    def _in_flight_bytes(self) -> int:
        return sum(attempt.write.size_bytes for attempt in self._unanswered.values())

    def _may_send(self) -> bool:
        if not self._queue or self._closing() or len(self._unanswered) >= MAX_IN_FLIGHT:
            return False
        write = self._queue[0]
        # A document larger than the window goes alone.
        fits = not self._unanswered or self._in_flight_bytes() + write.size_bytes <= MAX_IN_FLIGHT_BYTES
        return fits and self._core.order.wait_seconds(write.turn) == 0.0

    def _may_take(self) -> bool:
        if self._queue or self._exhausted or self._closing():
            return False
        return len(self._unanswered) < MAX_IN_FLIGHT and self._in_flight_bytes() < MAX_IN_FLIGHT_BYTES

    def _expire(self) -> None:
        """Gives up on what waited too long to be sent. Nothing gets through any more, so no more is taken either."""
        while self._queue and self._core.now() >= self._queue[0].deadline:
            write = self._queue.popleft()
            error = write.error or DeadlineExceeded(
                f"document {write.document_id!r} could not be sent within the timeout"
            )
            self._ledger.refused(write.document_id, error, write)
            self._failure, self._exhausted = self._failure or error, True

    def _overdue(self) -> bool:
        """True when there is nothing to wait for on this stream any more."""
        if not self._stream.opened and not self._queue:
            return True
        return self._due_at() <= self._core.now()

    def _due_at(self) -> float:
        """When the gateway has been silent for too long."""
        if not self._unanswered:
            return self._stream.half_closed_at + _CLOSE_SECONDS
        return min(min(a.settled_at or inf, a.write.deadline) for a in self._unanswered.values())

    def _wait_seconds(self) -> float:
        """Until something is to be done even if the gateway says nothing."""
        wait_seconds = self._due_at() - self._core.now()
        if self._queue:
            write = self._queue[0]
            turn_seconds = self._core.order.wait_seconds(write.turn) or inf
            wait_seconds = min(wait_seconds, write.deadline - self._core.now(), turn_seconds)
        return max(wait_seconds, 0.0)

    def _handle(self, event: Any) -> None:
        match event:
            case Wake.WAKE:
                return
            case Ended(error):
                self._stream.ended = True
                self._end(error)
                return
        match event.WhichOneof("event"):
            case "opened":
                self._core.clock.opened(event.opened.now_unix_ms, self._core.now())
                self._stream.opened = True
            case "acknowledged":
                if attempt := self._unanswered.pop(event.acknowledged.write_id, None):
                    self._ledger.token = WriteToken(event.acknowledged.write_token)
                    self._ledger.landed(attempt.write)
            case "refused":
                if attempt := self._unanswered.pop(event.refused.write_id, None):
                    self._handle_refusal(attempt.write, from_message(event.refused.error))
            case "unknown":
                if attempt := self._unanswered.pop(event.unknown.write_id, None):
                    attempt.write.error = from_message(event.unknown.error)
                    self._unknown.append(attempt)

    def _handle_refusal(self, write: Write, error: HeadwaterError) -> None:
        delay = refusal_delay(error, backoff_seconds(self._failures))
        if delay is None:
            self._refuse(write.document_id, error, write)
            return
        write.error = error
        self._refused.append(write)
        self._delay_seconds = max(self._delay_seconds, delay)

    def _end(self, error: HeadwaterError | None) -> None:
        if error is None:
            return
        for write in (*self._queue, *(attempt.write for attempt in self._unanswered.values())):
            write.error = error
        if is_final(error) or (isinstance(error, ResourceExhausted) and error.retry_after is None):
            self._failure, self._exhausted = error, True
        else:
            self._delay_seconds = max(self._delay_seconds, error.retry_after or 0.0)

    def _refuse(self, document_id: str, error: HeadwaterError, write: Write | None = None) -> None:
        self._ledger.refused(document_id, error, write)
        if not self._collect:
            self._exhausted = True

    def _settle(self) -> Plan[None]:
        if self._unknown:
            settled = yield from settle(self._core, self._collection, self._ledger.token, self._unknown)
            self._unknown.clear()
            for write, token in settled.landed:
                self._ledger.token |= token
                self._ledger.landed(write)
            for write in settled.unknown:
                self._ledger.unknown(write)
                self._exhausted = True
            self._refused += settled.absent
        self._queue.extendleft(reversed(self._refused))
        self._refused.clear()
