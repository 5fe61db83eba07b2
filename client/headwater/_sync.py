"""The synchronous client: gRPC's blocking channel, and the driver of plans on the caller's thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from math import inf
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc

from ._config import Config, read_config
from ._core import Core, OnError, Subscription
from ._errors import FailedPrecondition, HeadwaterError, from_rpc_error
from ._plans import Call, Plan, Sleep
from ._put import Abort, Ended, HalfClose, NextDocument, Open, Receive, Send, Wake
from ._types import (
    OWN_WRITES,
    After,
    Answer,
    Collection,
    CollectionDetails,
    CollectionSettings,
    Coverage,
    Document,
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
from ._writes import Attempt
from .gateway.v1 import gateway_pb2, gateway_pb2_grpc

T = TypeVar("T")


class Stream(Generic[T]):
    """Events as they come.

    Closing it, leaving its `with` block or dropping it half-way cancels the call at every stage.
    """

    def __init__(self, transport: _Transport, subscription: Subscription[T]) -> None:
        self._transport = transport
        self._subscription = subscription
        self._call: Any = None
        self._closed = False

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        while not self._closed:
            if self._call is None:
                request, timeout_seconds = self._subscription.open()
                self._call = self._transport.open(self._subscription.method, request, timeout_seconds)
            error = None
            try:
                event = self._subscription.receive(next(self._call))
                if event is None:
                    continue
                return event
            except StopIteration:
                pass
            except grpc.RpcError as rpc_error:
                if self._closed:
                    break
                error = self._transport.error(rpc_error)
            except HeadwaterError:
                self.close()
                raise
            self._call = None
            self._reopen(error)
        raise StopIteration

    def _reopen(self, error: HeadwaterError | None) -> None:
        try:
            delay_seconds = self._subscription.reopen(error)
        except HeadwaterError:
            self._closed = True
            raise
        if delay_seconds is None:
            self._closed = True
        else:
            time.sleep(delay_seconds)

    def close(self) -> None:
        """Cancels the call if it is still going on; from any thread."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A client of a Headwater gateway. It may be shared by threads; make it after forking, not before.

    address: host:port, https://host[:port] for TLS, or what gRPC takes as a target; else HEADWATER_ADDRESS, else
        127.0.0.1:8001.
    api_key: else HEADWATER_API_KEY; none where the gateway asks for none.
    tls: encrypt whatever the address says.
    root_certificates: PEM of the authorities to trust, instead of the system's.
    insecure: send the API key unencrypted to another machine. Without it that is refused.
    timeout: seconds a call may take, retries included, when the call names none; at most 600. For `put` and `delete`
        it is for each document, for `watch` between two pieces of news.
    retries: most times that a read is tried again when the gateway is unavailable.

    A client reads its own writes: each call that reads is sent with what this client wrote to the collection, and
    sees it, or fails with DeadlineExceeded. `after` says otherwise: a token (or the result of a write) to see just
    that, None to see whatever there is.

    Every call raises HeadwaterError (one of its subclasses), and nothing else of its own.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        insecure: bool = False,
        timeout: float = 60.0,
        retries: int = 4,
    ) -> None:
        config = read_config(
            address,
            api_key=api_key,
            tls=tls,
            root_certificates=root_certificates,
            insecure=insecure,
            timeout=timeout,
            retries=retries,
        )
        self._core = Core(config)
        self._transport = _Transport(config)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that go on are cancelled."""
        self._transport.close()

    @property
    def address(self) -> str:
        """The gateway's address, as gRPC takes it."""
        return self._core.config.target

    def own_writes(self, collection: str) -> WriteToken:
        """What this client wrote to the collection, for another client to read after; empty when nothing."""
        return self._core.memory.token(collection)

    def put(
        self,
        collection: str,
        documents: Iterable[Document],
        *,
        after: After = OWN_WRITES,
        on_error: OnError = "raise",
        on_outcome: OnOutcome | None = None,
        timeout: float | None = None,
    ) -> WriteResult:
        """Puts documents, each whole in place of the one with its id.

        Returns once the log has them all: never lost from then on, searchable a moment later.

        documents: any iterable, taken on this thread as they are sent: at most 64 documents or 8 MiB are on their way
            at a time. An id may occur once.
        on_error: "raise" stops at the first refusal, settles what is on its way and raises WriteFailed; "collect"
            goes on, and returns the refusals.
        on_outcome: called as the outcome of each document is known: with its id, and the error unless it was accepted.
        timeout: seconds for each document, from being taken to its outcome.

        A write whose outcome is unknown is settled (that takes up to 10 s) before it is sent again, so that no late
        one undoes a newer one; WriteUnknown says that time ran out over it. Raises what `documents` raises, once what
        was on its way is settled.
        """
        return self._write(
            documents,
            lambda wake: self._core.put(
                collection, after=after, on_error=on_error, on_outcome=on_outcome, timeout=timeout, wake=wake
            ),
        )

    def delete(
        self,
        collection: str,
        document_ids: Iterable[str],
        *,
        after: After = OWN_WRITES,
        on_error: OnError = "raise",
        on_outcome: OnOutcome | None = None,
        timeout: float | None = None,
    ) -> WriteResult:
        """Deletes documents; one that does not exist counts as deleted. Its arguments and errors are those of `put`."""
        return self._write(
            (),
            lambda wake: self._core.delete(
                collection,
                document_ids,
                after=after,
                on_error=on_error,
                on_outcome=on_outcome,
                timeout=timeout,
                wake=wake,
            ),
        )

    def get_document(
        self, collection: str, document_id: str, *, after: After = OWN_WRITES, timeout: float | None = None
    ) -> DocumentStatus:
        """What became of a document.

        Indexed, or rejected and why. NotFound for one never heard of, deleted, or not to be seen.
        """
        return self._run(self._core.get_document(collection, document_id, after=after, timeout=timeout))

    def list_documents(
        self,
        collection: str,
        *,
        state: DocumentState | None = None,
        page_size: int = 100,
        after: After = OWN_WRITES,
        timeout: float | None = None,
    ) -> Iterator[DocumentStatus]:
        """The collection's documents by id, page after page; indexed and rejected ones unless `state` names one.

        page_size: documents a call, 1 to 1,000.
        """
        page_token = ""
        while True:
            page, page_token = self._run(
                self._core.document_page(
                    collection, page_token, state=state, page_size=page_size, after=after, timeout=timeout
                )
            )
            yield from page
            if not page_token:
                return

    def watch(
        self,
        collection: str,
        document_ids: Iterable[str],
        *,
        after: After = OWN_WRITES,
        timeout: float | None = None,
    ) -> Stream[DocumentStatus]:
        """Tells what becomes of each document, once: indexed, rejected or deleted.

        It is told as soon as what `after` promises of it is applied.

        timeout: seconds without news before DeadlineExceeded.
        """
        return Stream(self._transport, self._core.watch(collection, document_ids, after=after, timeout=timeout))

    def search(
        self,
        collection: str,
        query: str | Query,
        *,
        k: int = 10,
        after: After = OWN_WRITES,
        strict: bool = False,
        timeout: float | None = None,
    ) -> SearchResult:
        """The k best chunks (1 to 1,000) for a query.

        strict: Unavailable rather than an answer from some of the partitions; without it `coverage` says from how
            many it is.
        """
        return self._run(self._core.search_one(collection, query, k=k, after=after, strict=strict, timeout=timeout))

    def search_many(
        self,
        collection: str,
        queries: Sequence[str | Query],
        *,
        k: int = 10,
        after: After = OWN_WRITES,
        strict: bool = False,
        timeout: float | None = None,
    ) -> list[SearchResult]:
        """As `search`, for many queries: a result each, in order. They go 64 a call; the timeout is for each call."""
        return self._run(self._core.search(collection, queries, k=k, after=after, strict=strict, timeout=timeout))

    def ask(
        self,
        collection: str,
        question: str,
        *,
        k: int = 0,
        after: After = OWN_WRITES,
        strict: bool = False,
        cache: bool = True,
        sampling: Sampling | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> Stream[Event]:
        """Answers a question from the collection, as it is written: `Retrieved`, then `Token`s, then `Done`.

        k: chunks retrieved; 0 for the gateway's default.
        strict: Unavailable rather than an answer from some of the partitions.
        cache: False neither takes the answer from the cache nor leaves it there.
        sampling: how tokens are chosen; greedy when None.
        model: empty for the gateway's default.
        """
        subscription = self._core.ask(
            collection,
            question,
            k=k,
            after=after,
            strict=strict,
            cache=cache,
            sampling=sampling,
            model=model,
            timeout=timeout,
        )
        return Stream(self._transport, subscription)

    def answer(
        self,
        collection: str,
        question: str,
        *,
        k: int = 0,
        after: After = OWN_WRITES,
        strict: bool = False,
        cache: bool = True,
        sampling: Sampling | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> Answer:
        """As `ask`, all at once."""
        retrieved = Retrieved((), Coverage(0, 0))
        done: Done | None = None
        with self.ask(
            collection,
            question,
            k=k,
            after=after,
            strict=strict,
            cache=cache,
            sampling=sampling,
            model=model,
            timeout=timeout,
        ) as events:
            for event in events:
                if isinstance(event, Retrieved):
                    retrieved = event
                elif isinstance(event, Done):
                    done = event  # to the stream's end, or its call would count as cancelled
        assert done is not None, "a stream of events ends with Done or raises"
        return Answer.of(retrieved, done)

    def create_collection(
        self,
        name: str,
        *,
        settings: CollectionSettings | None = None,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> Collection:
        """Creates a collection.

        AlreadyExists when the name is taken, unless `exist_ok`: then that one is returned as it is.
        """
        return self._run(self._core.create_collection(name, settings=settings, exist_ok=exist_ok, timeout=timeout))

    def get_collection(
        self, name: str, *, after: After = OWN_WRITES, timeout: float | None = None
    ) -> CollectionDetails:
        """A collection and how much it holds."""
        return self._run(self._core.get_collection(name, after=after, timeout=timeout))

    def list_collections(self, *, after: After = OWN_WRITES, timeout: float | None = None) -> list[Collection]:
        """The tenant's collections, by name."""
        return self._run(self._core.list_collections(after=after, timeout=timeout))

    def delete_collection(self, name: str, *, after: After = OWN_WRITES, timeout: float | None = None) -> WriteToken:
        """Deletes a collection and all its documents. Not tried again by itself: the name may have been given anew."""
        return self._run(self._core.delete_collection(name, after=after, timeout=timeout))

    def status(self, *, timeout: float | None = None) -> Status:
        """How the services behind the gateway are."""
        return self._run(self._core.status(timeout=timeout))

    def _run(self, plan: Plan[T]) -> T:
        with closing(plan):
            return _drive(plan, self._transport.perform)

    def _write(
        self, documents: Iterable[Document], make_plan: Callable[[Callable[[], None]], Plan[WriteResult]]
    ) -> WriteResult:
        writing = _Writing(self._transport, self._core, documents)
        # The stream is cancelled before the plan is closed, which lets others write the same documents.
        with closing(make_plan(writing.wake)) as plan, writing:
            return _drive(plan, writing.perform)


def _drive(plan: Plan[T], perform: Callable[[Any], Any]) -> T:
    try:
        step = next(plan)
        while True:
            try:
                result = perform(step)
            except BaseException as error:  # the plan may want to note what was answered before an interrupt
                step = plan.throw(error)
            else:
                step = plan.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


class _Transport:
    """The channel: gRPC's errors end here."""

    def __init__(self, config: Config) -> None:
        self._config = config
        if config.tls:
            credentials = grpc.ssl_channel_credentials(config.root_certificates)
            self._channel = grpc.secure_channel(config.target, credentials, config.options)
        else:
            self._channel = grpc.insecure_channel(config.target, config.options)
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        self._closed = False

    def perform(self, step: Call | Sleep) -> Any:
        match step:
            case Call(method, request, timeout_seconds):
                try:
                    return self.open(method, request, timeout_seconds)
                except grpc.RpcError as error:
                    raise self.error(error) from None
            case Sleep(seconds):
                time.sleep(seconds)

    def open(self, method: str, request: Any, timeout_seconds: float) -> Any:
        """Starts a call; `request` is one message, or an iterator of them."""
        if self._closed:
            raise FailedPrecondition("the client is closed; make a new one", reason="CLIENT_CLOSED")
        return getattr(self._stub, method)(request, timeout=timeout_seconds, metadata=self._config.metadata)

    def error(self, error: grpc.RpcError) -> HeadwaterError:
        return from_rpc_error(error, self._config.target)

    def close(self) -> None:
        self._closed = True
        self._channel.close()


class _Writing:
    """Performs the steps of one write call.

    Only this thread touches the plan; gRPC's threads reach it through the inbox.
    """

    def __init__(self, transport: _Transport, core: Core, documents: Iterable[Document]) -> None:
        self._transport = transport
        self._core = core
        self._documents = documents
        self._source: Iterator[Document] | None = None
        self._inbox: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()  # (stream, event)
        self._outbox: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._call: Any = None

    def __enter__(self) -> _Writing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abort()

    def wake(self) -> None:
        self._inbox.put((None, Wake.WAKE))

    def perform(self, step: Any) -> Any:
        match step:
            case Open(request, timeout_seconds):
                self._open(request, timeout_seconds)
            case Send(attempt):
                self._outbox.put(attempt)
            case HalfClose():
                self._outbox.put(None)
            case Abort():
                self._abort()
            case Receive(timeout_seconds):
                return self._receive(timeout_seconds)
            case NextDocument():
                if self._source is None:
                    self._source = iter(self._documents)
                return next(self._source, None)
            case _:
                return self._transport.perform(step)

    def _open(self, request: gateway_pb2.PutDocumentsRequest, timeout_seconds: float) -> None:
        self._abort()
        self._outbox = queue.SimpleQueue()
        self._call = self._transport.open("PutDocuments", self._requests(request, self._outbox), timeout_seconds)
        threading.Thread(target=self._read, args=(self._call,), name="headwater-put", daemon=True).start()

    def _requests(
        self, first: gateway_pb2.PutDocumentsRequest, outbox: queue.SimpleQueue[Attempt | None]
    ) -> Iterator[gateway_pb2.PutDocumentsRequest]:
        # Taken by a thread of gRPC, each as the one before has gone out: stamped here, no waiting is left between
        # stamp and wire.
        yield first
        while (attempt := outbox.get()) is not None:
            attempt.stamp(self._core.clock, self._core.now())
            yield attempt.put_request()

    def _read(self, call: Any) -> None:
        error = None
        try:
            for response in call:
                self._inbox.put((call, response))
        except grpc.RpcError as rpc_error:
            error = self._transport.error(rpc_error)
        self._inbox.put((call, Ended(error)))

    def _receive(self, timeout_seconds: float) -> list[Any]:
        events = []
        try:
            timeout = None if timeout_seconds == inf else timeout_seconds
            events.append(self._inbox.get(block=timeout_seconds > 0, timeout=timeout))
            while True:
                events.append(self._inbox.get_nowait())
        except queue.Empty:
            return [event for call, event in events if call is None or call is self._call]

    def _abort(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self._outbox.put(None)  # lets gRPC's thread go
