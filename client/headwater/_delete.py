"""Deleting documents: a plan over one call after another, with the same care for unknown outcomes as putting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ._errors import DeadlineExceeded, HeadwaterError, Unavailable, from_message
from ._messages import sendable
from ._plans import Call, Plan, Sleep, backoff_seconds, retry_seconds
from ._put import Abort, Ended, Open, Receive
from ._types import OnOutcome, WriteResult, WriteToken
from ._writes import SETTLED_SECONDS, TOO_OLD, Attempt, Ledger, Write, deadline, is_final, refusal_delay, settle
from .gateway.v1 import gateway_pb2

if TYPE_CHECKING:
    from ._core import Core

MAX_IDS: Final = 1000
"""Documents a call, as the gateway takes them."""


class Delete:
    """One call of `delete`."""

    def __init__(
        self,
        core: Core,
        collection: str,
        document_ids: Iterable[str],
        *,
        after: str,
        timeout: float,
        collect: bool,
        on_outcome: OnOutcome | None,
        wake: Callable[[], None],
    ) -> None:
        self._core = core
        self._collection = collection
        self._document_ids = list(dict.fromkeys(document_ids))
        self._timeout = timeout
        self._collect = collect
        self._wake = wake
        self._ledger = Ledger(core, collection, after, on_outcome)
        self._failures = 0
        self._clock_is_stale = False

    def run(self) -> Plan[WriteResult]:
        """Raises WriteFailed, WriteUnknown, or what failed the call as a whole."""
        try:
            for start in range(0, len(self._document_ids), MAX_IDS):
                yield from self._delete(self._document_ids[start : start + MAX_IDS])
                if self._ledger.lost or (self._ledger.failed and not self._collect):
                    break
        finally:
            self._ledger.close()
        if self._ledger.lost or (self._ledger.failed and not self._collect):
            raise self._ledger.failure()
        return self._ledger.result()

    def _delete(self, document_ids: Sequence[str]) -> Plan[None]:
        until = deadline(self._core.now(), self._timeout)
        waiting = []
        for document_id in document_ids:
            turn = self._core.order.join((self._collection, document_id), self._wake)
            write = Write(document_id, turn, until)
            self._ledger.join(write)
            waiting.append(write)
        while waiting:
            waits = {write: self._core.order.wait_seconds(write.turn) for write in waiting}
            ready = [write for write, wait_seconds in waits.items() if wait_seconds == 0.0]
            if self._core.now() >= until:
                raise waiting[0].error or DeadlineExceeded("the deletion could not be sent within the timeout")
            if not ready:
                yield Receive(min(*waits.values(), until - self._core.now()))
                continue
            again = yield from self._send(ready, until)
            waiting = again + [write for write in waiting if write not in ready]

    def _send(self, writes: list[Write], until: float) -> Plan[list[Write]]:
        """One call; the result is what is to be sent again."""
        if not self._core.clock.known or self._clock_is_stale:
            yield from self._learn_the_time(until)
        attempts = {write.write_id: write.attempted() for write in writes}
        sent_at = self._core.now()
        for attempt in attempts.values():
            attempt.stamp(self._core.clock, sent_at)
        with sendable("deletion"):
            request = gateway_pb2.DeleteDocumentsRequest(
                collection=self._collection,
                document_ids=[write.document_id for write in writes],
                write_ids=list(attempts),
                sent_unix_ms=self._core.clock.unix_ms(sent_at),
                after=self._ledger.token,
            )
        again: list[Write] = []
        unknown: list[Attempt] = []
        delay_seconds = 0.0
        try:
            response = yield Call("DeleteDocuments", request, min(until - self._core.now(), SETTLED_SECONDS))
        except HeadwaterError as error:
            if is_final(error):
                raise
            for write in writes:
                write.error = error
            unknown = list(attempts.values())
            attempts.clear()
        else:
            self._ledger.token = WriteToken(response.write_token or self._ledger.token)
            for refused in response.refused:
                write = attempts.pop(refused.write_id).write
                write.error = refusal = from_message(refused.error)
                self._clock_is_stale |= refusal.reason == TOO_OLD
                delay = refusal_delay(refusal, backoff_seconds(self._failures))
                if delay is None:
                    self._ledger.refused(write.document_id, refusal, write)
                    continue
                again.append(write)
                delay_seconds = max(delay_seconds, delay)
            for open_ in response.unknown:
                attempt = attempts.pop(open_.write_id)
                attempt.write.error = from_message(open_.error)
                unknown.append(attempt)
        for attempt in attempts.values():
            self._ledger.landed(attempt.write)
        if unknown:
            settled = yield from settle(self._core, self._collection, self._ledger.token, unknown)
            for write, token in settled.landed:
                self._ledger.token |= token
                self._ledger.landed(write)
            for write in settled.unknown:
                self._ledger.unknown(write)
            again += settled.absent
        if again:
            self._failures += 1
            yield Sleep(max(0.0, min(delay_seconds, until - self._core.now())))
        return again

    def _learn_the_time(self, until: float) -> Plan[None]:
        """Opens a stream of documents for the sake of the gateway's clock, and sends none."""
        attempt = 0
        while True:
            error = yield from self._open_and_abort(until)
            if error is None:
                self._clock_is_stale = False
                return
            delay = retry_seconds(error, attempt) if attempt < self._core.config.retries else None
            if delay is None or self._core.now() + delay >= until:
                raise error
            attempt += 1
            yield Sleep(delay)

    def _open_and_abort(self, until: float) -> Plan[HeadwaterError | None]:
        left = until - self._core.now()
        yield Open(gateway_pb2.PutDocumentsRequest(collection=self._collection, after=self._ledger.token), left)
        while True:
            for event in (yield Receive(until - self._core.now())):
                if isinstance(event, Ended):
                    return event.error or Unavailable("the gateway closed the stream before it opened")
                if isinstance(event, gateway_pb2.PutDocumentsResponse) and event.WhichOneof("event") == "opened":
                    self._core.clock.opened(event.opened.now_unix_ms, self._core.now())
                    yield Abort()
                    return None
            if self._core.now() >= until:
                return DeadlineExceeded("the gateway did not open a stream within the timeout")
