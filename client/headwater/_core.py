"""What one client keeps, and the plans of its calls. Both clients drive this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from google.protobuf.message import Message

from . import _messages as messages
from ._config import Config, check_timeout
from ._delete import Delete
from ._errors import AlreadyExists, HeadwaterError, InvalidArgument, Unavailable
from ._memory import NAMES, WriteMemory
from ._order import WriteOrder
from ._plans import Call, Clock, Plan, read, retry_seconds
from ._put import Put
from ._types import (
    OWN_WRITES,
    After,
    Collection,
    CollectionDetails,
    CollectionSettings,
    DocumentState,
    DocumentStatus,
    Done,
    Event,
    OnOutcome,
    Query,
    Retrieved,
    Sampling,
    SearchResult,
    Status,
    WriteResult,
    WriteToken,
)
from ._writes import GatewayClock
from .gateway.v1 import gateway_pb2

T_co = TypeVar("T_co", covariant=True)

OnError: TypeAlias = Literal["raise", "collect"]

QUERIES_A_CALL: Final = 64
IDS_A_WATCH: Final = 10_000
LOG_REPLACED: Final = "LOG_REPLACED"


class Subscription(Protocol[T_co]):
    """A call that answers with a stream, opened again where that may help."""

    method: str

    def open(self) -> tuple[Message, float]:
        """The request, and its timeout in seconds."""

    def receive(self, response: Any) -> T_co | None:
        """The event that a response tells of.

        None for none. Raises HeadwaterError for a failure told inside the stream.
        """

    def reopen(self, error: HeadwaterError | None) -> float | None:
        """The stream has ended.

        Seconds to wait before opening it again, None when all was told. Raises what ended it.
        """


class Core:
    """Thread-safe; knows no transport."""

    def __init__(self, config: Config, now: Clock = time.monotonic) -> None:
        self.config = config
        self.now = now
        self.clock = GatewayClock()
        self.memory = WriteMemory()
        self.order = WriteOrder(now)

    # -- documents ---------------------------------------------------------------------------------------------------

    def put(
        self,
        collection: str,
        *,
        after: After,
        on_error: OnError,
        on_outcome: OnOutcome | None,
        timeout: float | None,
        wake: Callable[[], None],
    ) -> Plan[WriteResult]:
        put = Put(
            self,
            collection,
            after=self._after(collection, after),
            timeout=self._timeout(timeout),
            collect=_collect(on_error),
            on_outcome=on_outcome,
            wake=wake,
        )
        return self._remembering(collection, put.run())

    def delete(
        self,
        collection: str,
        document_ids: Iterable[str],
        *,
        after: After,
        on_error: OnError,
        on_outcome: OnOutcome | None,
        timeout: float | None,
        wake: Callable[[], None],
    ) -> Plan[WriteResult]:
        delete = Delete(
            self,
            collection,
            [document_ids] if isinstance(document_ids, str) else document_ids,
            after=self._after(collection, after),
            timeout=self._timeout(timeout),
            collect=_collect(on_error),
            on_outcome=on_outcome,
            wake=wake,
        )
        return self._remembering(collection, delete.run())

    def get_document(
        self, collection: str, document_id: str, *, after: After, timeout: float | None
    ) -> Plan[DocumentStatus]:
        with messages.sendable("request"):
            request = gateway_pb2.GetDocumentRequest(
                collection=collection, document_id=document_id, after=self._after(collection, after)
            )
        response = yield from self._read(collection, "GetDocument", request, timeout)
        return messages.document_status(response.document)

    def document_page(
        self,
        collection: str,
        page_token: str,
        *,
        state: DocumentState | None,
        page_size: int,
        after: After,
        timeout: float | None,
    ) -> Plan[tuple[list[DocumentStatus], str]]:
        """The documents, and the next page's token: empty after the last page."""
        with messages.sendable("request"):
            request = gateway_pb2.ListDocumentsRequest(
                collection=collection,
                page_size=page_size,
                page_token=page_token,
                state=messages.state_value(state),
                after=self._after(collection, after),
            )
        response = yield from self._read(collection, "ListDocuments", request, timeout)
        return [messages.document_status(document) for document in response.documents], response.next_page_token

    def watch(
        self, collection: str, document_ids: Iterable[str], *, after: After, timeout: float | None
    ) -> Subscription[DocumentStatus]:
        return _Watch(self, collection, document_ids, self._after(collection, after), self._timeout(timeout))

    # -- questions ---------------------------------------------------------------------------------------------------

    def search(
        self,
        collection: str,
        queries: Sequence[str | Query],
        *,
        k: int,
        after: After,
        strict: bool,
        timeout: float | None,
    ) -> Plan[list[SearchResult]]:
        token = self._after(collection, after)
        results: list[SearchResult] = []
        for start in range(0, len(queries), QUERIES_A_CALL):
            batch = queries[start : start + QUERIES_A_CALL]
            request = messages.search_request(collection, batch, k=k, after=token, strict=strict)
            response = yield from self._read(collection, "Search", request, timeout)
            results += messages.search_results(response)
        return results

    def search_one(
        self, collection: str, query: str | Query, *, k: int, after: After, strict: bool, timeout: float | None
    ) -> Plan[SearchResult]:
        results = yield from self.search(collection, [query], k=k, after=after, strict=strict, timeout=timeout)
        return results[0]

    def ask(
        self,
        collection: str,
        question: str,
        *,
        k: int,
        after: After,
        strict: bool,
        cache: bool,
        sampling: Sampling | None,
        model: str,
        timeout: float | None,
    ) -> Subscription[Event]:
        request = messages.ask_request(
            collection,
            question,
            k=k,
            after=self._after(collection, after),
            strict=strict,
            cache=cache,
            sampling=sampling,
            model=model,
        )
        return _Ask(self, collection, request, self._timeout(timeout))

    # -- collections -------------------------------------------------------------------------------------------------

    def create_collection(
        self, name: str, *, settings: CollectionSettings | None, exist_ok: bool, timeout: float | None
    ) -> Plan[Collection]:
        sent = self.memory.token(NAMES)
        with messages.sendable("request"):
            request = gateway_pb2.CreateCollectionRequest(
                name=name, settings=messages.settings_message(settings), after=sent
            )
        seconds = self._timeout(timeout)
        try:
            # Only when an existing one will do is it idempotent, and tried again.
            retries = self.config.retries if exist_ok else 0
            response = yield from read("CreateCollection", request, timeout=seconds, retries=retries, now=self.now)
        except AlreadyExists:
            if not exist_ok:
                raise
            details = yield from self.get_collection(name, after=OWN_WRITES, timeout=timeout)
            return details.collection
        except HeadwaterError as error:
            raise self._forgetting(error, name) from None
        self._wrote_name(name, sent, response.write_token)
        return messages.collection(response.collection)

    def get_collection(self, name: str, *, after: After, timeout: float | None) -> Plan[CollectionDetails]:
        with messages.sendable("request"):
            request = gateway_pb2.GetCollectionRequest(name=name, after=self._after(name, after))
        response = yield from self._read(name, "GetCollection", request, timeout)
        return messages.collection_details(response)

    def list_collections(self, *, after: After, timeout: float | None) -> Plan[list[Collection]]:
        with messages.sendable("request"):
            request = gateway_pb2.ListCollectionsRequest(after=self._after(NAMES, after))
        response = yield from self._read(NAMES, "ListCollections", request, timeout)
        return [messages.collection(collection) for collection in response.collections]

    def delete_collection(self, name: str, *, after: After, timeout: float | None) -> Plan[WriteToken]:
        sent = self._after(name, after)
        with messages.sendable("request"):
            request = gateway_pb2.DeleteCollectionRequest(name=name, after=sent)
        try:
            response = yield Call("DeleteCollection", request, self._timeout(timeout))
        except HeadwaterError as error:
            raise self._forgetting(error, name) from None
        self._wrote_name(name, sent, response.write_token)
        return WriteToken(response.write_token)

    def status(self, *, timeout: float | None) -> Plan[Status]:
        response = yield from self._read(NAMES, "GetStatus", gateway_pb2.GetStatusRequest(), timeout)
        return messages.status(response)

    # -- what they share ---------------------------------------------------------------------------------------------

    def _read(self, collection: str, method: str, request: Message, timeout: float | None) -> Plan[Any]:
        plan = read(method, request, timeout=self._timeout(timeout), retries=self.config.retries, now=self.now)
        return self._remembering(collection, plan)

    def _remembering(self, collection: str, plan: Plan[Any]) -> Plan[Any]:
        try:
            return (yield from plan)
        except HeadwaterError as error:
            self._forgetting(error, collection)
            raise

    def _forgetting(self, error: HeadwaterError, collection: str) -> HeadwaterError:
        """A token of a log that is gone can never be honoured: said once, it must not fail every later call."""
        if error.reason == LOG_REPLACED:
            self.memory.forget(collection)
            self.memory.forget(NAMES)
        return error

    def _wrote_name(self, name: str, sent: str, token: str) -> None:
        for key in (name, NAMES):
            self.memory.wrote(key, sent=sent, token=token)

    def _after(self, collection: str, after: After) -> str:
        if after is None:
            return ""
        if after is OWN_WRITES:
            return self.memory.token(collection)
        return after.token if isinstance(after, WriteResult) else str(after)

    def _timeout(self, seconds: float | None) -> float:
        return self.config.timeout_seconds if seconds is None else check_timeout(seconds)


def _collect(on_error: OnError) -> bool:
    if on_error not in ("raise", "collect"):
        raise InvalidArgument('on_error is "raise" or "collect"', field="on_error")
    return on_error == "collect"


class _Ask:
    """A question's events: asked again for as long as nothing has been answered."""

    method = "Ask"

    def __init__(self, core: Core, collection: str, request: gateway_pb2.AskRequest, timeout: float) -> None:
        self._core = core
        self._collection = collection
        self._request = request
        self._deadline = core.now() + timeout
        self._retrieved = False
        self._done = False
        self._attempt = 0

    def open(self) -> tuple[Message, float]:
        return self._request, max(0.0, self._deadline - self._core.now())

    def receive(self, response: gateway_pb2.AskResponse) -> Event | None:
        event = messages.ask_event(response)
        self._retrieved |= isinstance(event, Retrieved)
        self._done |= isinstance(event, Done)
        return event

    def reopen(self, error: HeadwaterError | None) -> float | None:
        if self._done:
            return None
        error = error or Unavailable("the answer broke off before its end", reason="ANSWER_BROKE_OFF")
        delay = (
            None
            if self._retrieved or self._attempt >= self._core.config.retries
            else retry_seconds(error, self._attempt)
        )
        if delay is None or self._core.now() + delay >= self._deadline:
            raise self._core._forgetting(error, self._collection)
        self._attempt += 1
        return delay


class _Watch:
    """What becomes of documents, each told once; opened again for those not told yet."""

    method = "WatchDocuments"

    def __init__(self, core: Core, collection: str, document_ids: Iterable[str], after: str, timeout: float) -> None:
        self._core = core
        self._collection = collection
        self._waiting = dict.fromkeys([document_ids] if isinstance(document_ids, str) else document_ids)
        self._after = after
        self._timeout = timeout
        self._told = 0  # on this stream
        self._attempt = 0

    def open(self) -> tuple[Message, float]:
        self._told = 0
        some = [document_id for document_id, _ in zip(self._waiting, range(IDS_A_WATCH), strict=False)]
        with messages.sendable("request"):
            request = gateway_pb2.WatchDocumentsRequest(
                collection=self._collection, document_ids=some, after=self._after
            )
        return request, self._timeout

    def receive(self, response: gateway_pb2.WatchDocumentsResponse) -> DocumentStatus | None:
        status = messages.document_status(response.document)
        if status.document_id not in self._waiting:
            return None
        del self._waiting[status.document_id]
        self._told += 1
        self._attempt = 0
        return status

    def reopen(self, error: HeadwaterError | None) -> float | None:
        if not self._waiting:
            return None
        if self._told and (error is None or error.code == "DEADLINE_EXCEEDED"):
            return 0.0  # the next ten thousand, or news of the rest: time runs out only when there is none
        error = error or Unavailable("the gateway stopped telling before all was told", reason="WATCH_BROKE_OFF")
        delay = retry_seconds(error, self._attempt) if self._attempt < self._core.config.retries else None
        if delay is None:
            raise self._core._forgetting(error, self._collection)
        self._attempt += 1
        return delay
