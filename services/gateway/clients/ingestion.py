"""The ingestion API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import grpc
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2
from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc

from serving.errors import ErrorCode, HeadwaterError, Unavailable

from ..collection_desk import FoundWrite, WriteQuery
from ..forwarding import Reply, Write
from ..messages import scope_message, token_value
from ..values import Scope, WriteToken
from . import translated

_DOCUMENT_FIELDS = frozenset(field.name for field in ingestion_pb2.Document.DESCRIPTOR.fields)


class Ingestion:
    """Is the forwarder's client and the collection desk's."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ingestion_pb2_grpc.IngestionServiceStub(channel)

    async def open_writes(self) -> Writes:
        call = self._stub.Write()  # type: ignore[call-arg]  # the stubs know only the form with an iterator
        with translated():
            await call.wait_for_connection()
        return Writes(call)

    async def find_writes(self, scope: Scope, writes: Sequence[WriteQuery]) -> Sequence[FoundWrite]:
        request = ingestion_pb2.FindWritesRequest(
            scope=scope_message(scope),
            writes=[
                ingestion_pb2.WriteQuery(
                    document_id=one.document_id, write_id=one.write_id, accepted_unix_ms=one.sent_unix_ms
                )
                for one in writes
            ],
        )
        with translated():
            response = await self._stub.FindWrites(request)
        return [
            FoundWrite(one.landed, one.settled, token_value(one.token) if one.landed else None)
            for one in response.writes
        ]

    async def create_collection(self, tenant: str, name: str, settings: object) -> tuple[object, WriteToken]:
        request = ingestion_pb2.CreateCollectionRequest(
            tenant=tenant, name=name, settings=cast(common_pb2.CollectionSettings, settings)
        )
        with translated():
            response = await self._stub.CreateCollection(request)
        return response.collection, token_value(response.token)

    async def delete_collection(self, scope: Scope) -> WriteToken:
        with translated():
            response = await self._stub.DeleteCollection(
                ingestion_pb2.DeleteCollectionRequest(scope=scope_message(scope))
            )
        return token_value(response.token)


class Writes:
    """A connected stream of writes."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[ingestion_pb2.WriteRequest, ingestion_pb2.WriteResponse]
    ) -> None:
        self._call = call

    async def send(self, scope: Scope, write: Write, collections_offset: int) -> None:
        request = ingestion_pb2.WriteRequest(
            scope=scope_message(scope),
            write_id=write.write_id,
            accepted_unix_ms=write.accepted_unix_ms,
            collections_offset=collections_offset,
        )
        if write.document is None:
            request.delete_document_id = write.document_id
        else:
            _copy(cast(gateway_pb2.Document, write.document), request.put)
        with translated(), _ended():
            await self._call.write(request)

    async def finish(self) -> None:
        with translated(), _ended():
            await self._call.done_writing()

    async def replies(self) -> AsyncIterator[Reply]:
        with translated():
            async for response in self._call:
                yield _reply(response)

    def cancel(self) -> None:
        self._call.cancel()


def _copy(document: gateway_pb2.Document, into: ingestion_pb2.Document) -> None:
    into.id = document.id
    into.body = document.body
    into.content_type = document.content_type
    into.title = document.title
    for name, value in document.metadata.items():
        into.metadata[name].CopyFrom(value)
    into.access_groups.extend(document.access_groups)


def _reply(response: ingestion_pb2.WriteResponse) -> Reply:
    match response.WhichOneof("outcome"):
        case "token":
            return Reply(response.write_id, token=token_value(response.token))
        case "refused":
            return Reply(response.write_id, refused=_error(response.refused))
        case _:
            return Reply(response.write_id, unknown=_error(response.unknown))


def _error(error: common_pb2.Error) -> HeadwaterError:
    return HeadwaterError(
        error.message,
        code=ErrorCode(error.code) if error.code in ErrorCode.__members__ else ErrorCode.INTERNAL,
        reason=error.reason,
        field=f"document.{error.field}" if error.field in _DOCUMENT_FIELDS else error.field,
        retry_after_ms=error.retry_after_ms,
    )


@contextmanager
def _ended() -> Iterator[None]:
    """A write to a stream that has ended meanwhile; whoever reads its replies sees why."""
    try:
        yield
    except asyncio.InvalidStateError as error:
        raise Unavailable("the ingestion service ended the stream") from error
