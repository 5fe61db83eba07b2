"""The asynchronous client: gRPC's asyncio channel, and the driver of plans on the caller's event loop."""

# ruff: noqa: ASYNC109 -- a timeout is the deadline that goes with the call, to the gateway and beyond

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from math import inf
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

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


class AsyncStream(Generic[T]):
    """Events as they come.

    Closing it, leaving its `async with` block or dropping it half-way cancels the call at every stage.
    """

    def __init__(self, transport: _Transport, subscription: Subscription[T]) -> None:
        self._transport = transport
        self._subscription = subscription
        self._call: Any = None
        self._responses: AsyncIterator[Any] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncStream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._closed:
            if self._responses is None:
                request, timeout_seconds = self._subscription.open()
                self._call = self._transport.open(self._subscription.method, request, timeout_seconds)
                self._responses = aiter(self._call)
            error = None
            try:
                event = self._subscription.receive(await anext(self._responses))
                if event is None:
                    continue
                return event
            except StopAsyncIteration:
                pass
            except grpc.RpcError as rpc_error:
                error = self._transport.error(rpc_error)
            except asyncio.CancelledError:
                if not self._closed:
                    raise
                break  # it is the call that was cancelled, by `close`
            except HeadwaterError:
                await self.close()
                raise
            self._responses = None
            await self._reopen(error)
        raise StopAsyncIteration

    async def _reopen(self, error: HeadwaterError | None) -> None:
        try:
            delay_seconds = self._subscription.reopen(error)
        except HeadwaterError:
            self._closed = True
            raise
        if delay_seconds is None:
            self._closed = True
        else:
            await asyncio.sleep(delay_seconds)

    def __del__(self) -> None:
        # gRPC's tasks hold on to a call that was dropped half-way; they let go once it is cancelled.
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        """Cancels the call if it is still going on."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncClient:
    """A client of a Headwater gateway, for one event loop. What its arguments and methods mean is said in `Client`."""

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

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._transport.close()

    @property
    def address(self) -> str:
        """As `Client.address`."""
        return self._core.config.target

    def own_writes(self, collection: str) -> WriteToken:
        """As `Client.own_writes`."""
        return self._core.memory.token(collection)

    async def put(
        self,
        collection: str,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        after: After = OWN_WRITES,
        on_error: OnError = "raise",
        on_outcome: OnOutcome | None = None,
        timeout: float | None = None,
    ) -> WriteResult:
        """As `Client.put`; `documents` may be an asynchronous iterable."""
        return await self._write(
            documents,
            lambda wake: self._core.put(
                collection, after=after, on_error=on_error, on_outcome=on_outcome, timeout=timeout, wake=wake
            ),
        )

    async def delete(
        self,
        collection: str,
        document_ids: Iterable[str],
        *,
        after: After = OWN_WRITES,
        on_error: OnError = "raise",
        on_outcome: OnOutcome | None = None,
        timeout: float | None = None,
    ) -> WriteResult:
        """As `Client.delete`."""
        return await self._write(
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

    async def get_document(
        self, collection: str, document_id: str, *, after: After = OWN_WRITES, timeout: float | None = None
    ) -> DocumentStatus:
        """As `Client.get_document`."""
        return await self._run(self._core.get_document(collection, document_id, after=after, timeout=timeout))

    async def list_documents(
        self,
        collection: str,
        *,
        state: DocumentState | None = None,
        page_size: int = 100,
        after: After = OWN_WRITES,
        timeout: float | None = None,
    ) -> AsyncIterator[DocumentStatus]:
        """As `Client.list_documents`."""
        page_token = ""
        while True:
            page, page_token = await self._run(
                self._core.document_page(
                    collection, page_token, state=state, page_size=page_size, after=after, timeout=timeout
                )
            )
            for document in page:
                yield document
            if not page_token:
                return

    def watch(
        self,
        collection: str,
        document_ids: Iterable[str],
        *,
        after: After = OWN_WRITES,
        timeout: float | None = None,
    ) -> AsyncStream[DocumentStatus]:
        """As `Client.watch`."""
        return AsyncStream(self._transport, self._core.watch(collection, document_ids, after=after, timeout=timeout))

    async def search(
        self,
        collection: str,
        query: str | Query,
        *,
        k: int = 10,
        after: After = OWN_WRITES,
        strict: bool = False,
        timeout: float | None = None,
    ) -> SearchResult:
        """As `Client.search`."""
        return await self._run(
            self._core.search_one(collection, query, k=k, after=after, strict=strict, timeout=timeout)
        )

    async def search_many(
        self,
        collection: str,
        queries: Sequence[str | Query],
        *,
        k: int = 10,
        after: After = OWN_WRITES,
        strict: bool = False,
        timeout: float | None = None,
    ) -> list[SearchResult]:
        """As `Client.search_many`."""
        return await self._run(self._core.search(collection, queries, k=k, after=after, strict=strict, timeout=timeout))

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
    ) -> AsyncStream[Event]:
        """As `Client.ask`."""
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
        return AsyncStream(self._transport, subscription)

    async def answer(
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
        """As `Client.answer`."""
        retrieved = Retrieved((), Coverage(0, 0))
        done: Done | None = None
        async with self.ask(
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
            async for event in events:
                if isinstance(event, Retrieved):
                    retrieved = event
                elif isinstance(event, Done):
                    done = event  # to the stream's end, or its call would count as cancelled
        assert done is not None, "a stream of events ends with Done or raises"
        return Answer.of(retrieved, done)

    async def create_collection(
        self,
        name: str,
        *,
        settings: CollectionSettings | None = None,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> Collection:
        """As `Client.create_collection`."""
        return await self._run(
            self._core.create_collection(name, settings=settings, exist_ok=exist_ok, timeout=timeout)
        )

    async def get_collection(
        self, name: str, *, after: After = OWN_WRITES, timeout: float | None = None
    ) -> CollectionDetails:
        """As `Client.get_collection`."""
        return await self._run(self._core.get_collection(name, after=after, timeout=timeout))

    async def list_collections(self, *, after: After = OWN_WRITES, timeout: float | None = None) -> list[Collection]:
        """As `Client.list_collections`."""
        return await self._run(self._core.list_collections(after=after, timeout=timeout))

    async def delete_collection(
        self, name: str, *, after: After = OWN_WRITES, timeout: float | None = None
    ) -> WriteToken:
        """As `Client.delete_collection`."""
        return await self._run(self._core.delete_collection(name, after=after, timeout=timeout))

    async def status(self, *, timeout: float | None = None) -> Status:
        """As `Client.status`."""
        return await self._run(self._core.status(timeout=timeout))

    async def _run(self, plan: Plan[T]) -> T:
        with closing(plan):
            return await _drive(plan, self._transport.perform)

    async def _write(
        self,
        documents: Iterable[Document] | AsyncIterable[Document],
        make_plan: Callable[[Callable[[], None]], Plan[WriteResult]],
    ) -> WriteResult:
        writing = _Writing(self._transport, self._core, documents)
        # The stream is cancelled before the plan is closed, which lets others write the same documents.
        with closing(make_plan(writing.wake)) as plan:
            async with writing:
                return await _drive(plan, writing.perform)


async def _drive(plan: Plan[T], perform: Callable[[Any], Awaitable[Any]]) -> T:
    try:
        step = next(plan)
        while True:
            try:
                result = await perform(step)
            except BaseException as error:  # the plan may want to note what was answered before an interrupt
                step = plan.throw(error)
            else:
                step = plan.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


class _Transport:
    """The channel, opened by the first call so that it belongs to the running event loop: gRPC's errors end here."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._closed = False

    async def perform(self, step: Call | Sleep) -> Any:
        match step:
            case Call(method, request, timeout_seconds):
                try:
                    return await self.open(method, request, timeout_seconds)
                except grpc.RpcError as error:
                    raise self.error(error) from None
            case Sleep(seconds):
                await asyncio.sleep(seconds)

    def open(self, method: str, request: Any, timeout_seconds: float) -> Any:
        """Starts a call; `request` is one message, or an iterator of them."""
        if self._closed:
            raise FailedPrecondition("the client is closed; make a new one", reason="CLIENT_CLOSED")
        if self._channel is None:
            if self._config.tls:
                credentials = grpc.ssl_channel_credentials(self._config.root_certificates)
                self._channel = grpc.aio.secure_channel(self._config.target, credentials, self._config.options)
            else:
                self._channel = grpc.aio.insecure_channel(self._config.target, self._config.options)
            self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        return getattr(self._stub, method)(request, timeout=timeout_seconds, metadata=self._config.metadata)

    def error(self, error: grpc.RpcError) -> HeadwaterError:
        return from_rpc_error(error, self._config.target)

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None:
            await self._channel.close(grace=None)


class _Writing:
    """Performs the steps of one write call."""

    def __init__(
        self, transport: _Transport, core: Core, documents: Iterable[Document] | AsyncIterable[Document]
    ) -> None:
        self._transport = transport
        self._core = core
        self._documents = documents
        self._source: Iterator[Document] | AsyncIterator[Document] | None = None
        self._inbox: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()  # (stream, event)
        self._outbox: asyncio.Queue[Attempt | None] = asyncio.Queue()
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Writing:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._abort()

    def wake(self) -> None:
        self._inbox.put_nowait((None, Wake.WAKE))

    async def perform(self, step: Any) -> Any:
        match step:
            case Open(request, timeout_seconds):
                self._open(request, timeout_seconds)
            case Send(attempt):
                self._outbox.put_nowait(attempt)
            case HalfClose():
                self._outbox.put_nowait(None)
            case Abort():
                self._abort()
            case Receive(timeout_seconds):
                return await self._receive(timeout_seconds)
            case NextDocument():
                return await self._next_document()
            case _:
                return await self._transport.perform(step)

    async def _next_document(self) -> Document | None:
        if self._source is None:
            documents = self._documents
            self._source = aiter(documents) if isinstance(documents, AsyncIterable) else iter(documents)
        if isinstance(self._source, AsyncIterator):
            return await anext(self._source, None)
        return next(self._source, None)

    def _open(self, request: gateway_pb2.PutDocumentsRequest, timeout_seconds: float) -> None:
        self._abort()
        self._outbox = asyncio.Queue()
        self._call = self._transport.open("PutDocuments", self._requests(request, self._outbox), timeout_seconds)
        self._reader = asyncio.create_task(self._read(self._call), name="headwater-put")

    async def _requests(
        self, first: gateway_pb2.PutDocumentsRequest, outbox: asyncio.Queue[Attempt | None]
    ) -> AsyncIterator[gateway_pb2.PutDocumentsRequest]:
        # Taken by gRPC, each as the one before has gone out: stamped here, no waiting is left between stamp and wire.
        yield first
        while (attempt := await outbox.get()) is not None:
            attempt.stamp(self._core.clock, self._core.now())
            yield attempt.put_request()

    async def _read(self, call: Any) -> None:
        error = None
        try:
            async for response in call:
                self._inbox.put_nowait((call, response))
        except grpc.RpcError as rpc_error:
            error = self._transport.error(rpc_error)
        except asyncio.CancelledError:
            return  # by `_abort`: nobody listens any more
        self._inbox.put_nowait((call, Ended(error)))

    async def _receive(self, timeout_seconds: float) -> list[Any]:
        events = []
        if timeout_seconds > 0 and self._inbox.empty():
            try:
                async with asyncio.timeout(None if timeout_seconds == inf else timeout_seconds):
                    events.append(await self._inbox.get())
            except TimeoutError:
                return []
        elif self._inbox.empty():
            await asyncio.sleep(0)  # lets gRPC work while documents are taken from an iterable that never waits
        while not self._inbox.empty():
            events.append(self._inbox.get_nowait())
        return [event for call, event in events if call is None or call is self._call]

    def _abort(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
            self._outbox.put_nowait(None)
