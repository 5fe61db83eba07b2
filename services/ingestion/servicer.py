"""IngestionService: protos in, one call, protos out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from headwater.common.v1 import common_pb2
from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving import telemetry
from serving.errors import HeadwaterError, Unimplemented
from serving.eventlog import OutcomeUnknown

from . import metrics, records
from .budget import Budget
from .documents import Content, Landed, Write
from .intake import Attempt, Intake, OrderedWrites
from .registry import Registry, Wishes

_log = telemetry.get_logger(__name__)
_propagator = TraceContextTextMapPropagator()


class IngestionServicer(ingestion_pb2_grpc.IngestionServiceServicer):
    """The API role."""

    def __init__(self, intake: Intake, registry: Registry, *, max_stream_writes: int, budget: Budget) -> None:
        self._intake = intake
        self._registry = registry
        self._max_stream_writes = max_stream_writes
        self._budget = budget

    async def Write(
        self, request_iterator: AsyncIterator[ingestion_pb2.WriteRequest], context: Any
    ) -> AsyncIterator[ingestion_pb2.WriteResponse]:
        writes = OrderedWrites(self._intake.accept)
        answers: asyncio.Queue[ingestion_pb2.WriteResponse | None] = asyncio.Queue()
        # given back when the answer is taken: a caller that does not read its answers is not read from either
        room = asyncio.Semaphore(self._max_stream_writes)

        async def answer(write_id: bytes, accept: Callable[[], Awaitable[Landed]]) -> None:
            answers.put_nowait(await self._answer(write_id, accept))

        async def take() -> None:
            async with asyncio.TaskGroup() as group:
                async for request in request_iterator:
                    await room.acquire()
                    size = request.ByteSize()
                    await self._budget.acquire(size)
                    accept = writes.submit(_write_of(request))
                    task = group.create_task(answer(request.write_id, accept))
                    task.add_done_callback(partial(self._release, size))

        taking = asyncio.create_task(take())
        taking.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (response := await answers.get()) is not None:
                yield response
                room.release()
            await taking
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def FindWrites(
        self, request: ingestion_pb2.FindWritesRequest, context: Any
    ) -> ingestion_pb2.FindWritesResponse:
        attempts = [Attempt(one.document_id, one.write_id, one.accepted_unix_ms) for one in request.writes]
        found = await self._intake.find(request.scope.tenant, request.scope.collection_id, attempts)
        return ingestion_pb2.FindWritesResponse(
            writes=[
                ingestion_pb2.FoundWrite(
                    landed=one.landed is not None,
                    settled=one.settled,
                    token=None if one.landed is None else self._token(one.landed),
                )
                for one in found
            ]
        )

    async def CreateCollection(
        self, request: ingestion_pb2.CreateCollectionRequest, context: Any
    ) -> ingestion_pb2.CreateCollectionResponse:
        settings = request.settings
        if settings.policies:
            raise Unimplemented("policies are not known yet", field="settings.policies")
        if settings.semantic_cache_error_bound:
            raise Unimplemented("the semantic cache is not there yet", field="settings.semantic_cache_error_bound")
        wishes = Wishes(
            settings.embedding_fingerprint, settings.max_chunk_tokens, settings.chunk_overlap_tokens, settings.spread
        )
        collection, offset = await self._registry.create(request.tenant, request.name, wishes)
        return ingestion_pb2.CreateCollectionResponse(
            collection=records.collection_message(collection), token=self._collections_token(offset)
        )

    async def DeleteCollection(
        self, request: ingestion_pb2.DeleteCollectionRequest, context: Any
    ) -> ingestion_pb2.DeleteCollectionResponse:
        offset = await self._registry.delete(request.scope.tenant, request.scope.collection_id)
        return ingestion_pb2.DeleteCollectionResponse(token=self._collections_token(offset))

    async def _answer(self, write_id: bytes, accept: Callable[[], Awaitable[Landed]]) -> ingestion_pb2.WriteResponse:
        """What became of one write; the stream goes on whatever it is."""
        try:
            token = self._token(await accept())
            metrics.WRITES.labels("accepted").inc()
            return ingestion_pb2.WriteResponse(write_id=write_id, token=token)
        except OutcomeUnknown as error:
            metrics.WRITES.labels("unknown").inc()
            return ingestion_pb2.WriteResponse(write_id=write_id, unknown=_error_of(error))
        except HeadwaterError as error:
            metrics.WRITES.labels(error.reason).inc()
            return ingestion_pb2.WriteResponse(write_id=write_id, refused=_error_of(error))
        except Exception as error:
            # a fault of ours, anywhere: whether the write landed before it is not known
            _log.error("write failed unexpectedly", exc_info=error)
            metrics.WRITES.labels("unknown").inc()
            message = f"internal error; the server's log has it under request id {telemetry.request_id()}"
            return ingestion_pb2.WriteResponse(write_id=write_id, unknown=_error_of(HeadwaterError(message)))

    def _release(self, size: int, _: asyncio.Task[None]) -> None:
        self._budget.release(size)

    def _token(self, landed: Landed) -> common_pb2.WriteToken:
        return common_pb2.WriteToken(
            log_id=self._intake.log_id,
            collections_offset=landed.collections_offset,
            documents_offsets={landed.partition: landed.offset},
        )

    def _collections_token(self, offset: int) -> common_pb2.WriteToken:
        return common_pb2.WriteToken(log_id=self._intake.log_id, collections_offset=offset)


def _write_of(request: ingestion_pb2.WriteRequest) -> Write:
    content = None
    if request.HasField("put"):
        put = request.put
        content = Content(
            body=put.body,
            content_type=put.content_type or "text/plain",
            title=put.title,
            metadata=records.metadata_of(put.metadata),
            access_groups=tuple(put.access_groups),
        )
    carried: dict[str, str] = {}
    _propagator.inject(carried)
    return Write(
        tenant=request.scope.tenant,
        collection_id=request.scope.collection_id,
        # neither put nor delete leaves an empty id, which is refused
        document_id=request.put.id if content is not None else request.delete_document_id,
        write_id=request.write_id,
        accepted_ms=request.accepted_unix_ms,
        collections_offset=request.collections_offset,
        content=content,
        traceparent=carried.get("traceparent", ""),
    )


def _error_of(error: HeadwaterError) -> common_pb2.Error:
    return common_pb2.Error(
        code=error.code.value,
        reason=error.reason,
        message=error.message,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
    )
