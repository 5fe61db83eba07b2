"""headwater.gateway.v1.GatewayService: proto in, one call, proto out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from serving.errors import Unimplemented

from . import requests
from .admission import Admission
from .answerer import Answerer
from .authentication import Caller, KeyFile, OpenDoor
from .collection_desk import CollectionDesk
from .documents import Documents
from .events import degradation_message, error_message, event_message
from .forwarding import Acknowledged, Outcome, Refused, Unknown
from .messages import coverage_message, hit_message, progress_message, timing_messages
from .overview import Probe, overview
from .searching import Searching
from .tokens import TokenCodec
from .values import WriteToken
from .writer import Opened, Put, Writer

Context = Any


@dataclass(frozen=True, slots=True)
class Desk:
    """Who does what behind the front door."""

    tokens: TokenCodec
    answerer: Answerer
    searching: Searching
    writer: Writer
    documents: Documents
    collections: CollectionDesk
    probes: Sequence[Probe]
    status_timeout_seconds: float


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """The front door."""

    def __init__(self, authenticator: OpenDoor | KeyFile, admission: Admission, desk: Desk) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._desk = desk

    @contextmanager
    def _admitted(self, context: Context) -> Iterator[Caller]:
        metadata = dict(context.invocation_metadata() or ())
        caller = self._authenticator.authenticate(str(metadata.get("authorization", "")))
        with self._admission.call(caller):
            yield caller

    async def Ask(
        self, request: gateway_pb2.AskRequest, context: Context
    ) -> AsyncGenerator[gateway_pb2.AskResponse, None]:
        with self._admitted(context) as caller:
            question = requests.question(request, self._desk.tokens)
            async with aclosing(self._desk.answerer.ask(caller, question)) as events:
                async for event in events:
                    yield event_message(event)

    async def Search(self, request: gateway_pb2.SearchRequest, context: Context) -> gateway_pb2.SearchResponse:
        with self._admitted(context) as caller:
            answer = await self._desk.searching.search(caller, requests.queries(request, self._desk.tokens))
        return gateway_pb2.SearchResponse(
            results=[
                gateway_pb2.QueryResult(id=query.id, hits=[hit_message(hit) for hit in hits])
                for query, hits in zip(request.queries, answer.found.results, strict=True)
            ],
            coverage=coverage_message(answer.found.coverage),
            progress=[progress_message(one) for one in answer.found.progress],
            degradations=[degradation_message(one) for one in answer.degradations],
            timings=timing_messages(answer.timings),
        )

    async def PutDocuments(
        self, request_iterator: AsyncIterator[gateway_pb2.PutDocumentsRequest], context: Context
    ) -> AsyncGenerator[gateway_pb2.PutDocumentsResponse, None]:
        async def puts() -> AsyncGenerator[Put, None]:
            async for request in request_iterator:
                yield requests.put(request, self._desk.tokens)

        with self._admitted(context) as caller:
            async with aclosing(puts()) as incoming, aclosing(self._desk.writer.put(caller, incoming)) as events:
                async for event in events:
                    yield self._put_message(event)

    async def DeleteDocuments(
        self, request: gateway_pb2.DeleteDocumentsRequest, context: Context
    ) -> gateway_pb2.DeleteDocumentsResponse:
        with self._admitted(context) as caller:
            outcomes, token = await self._desk.writer.delete(
                caller,
                request.collection,
                requests.deletions(request),
                sent_unix_ms=request.sent_unix_ms,
                after=self._desk.tokens.decode(request.after),
            )
        return gateway_pb2.DeleteDocumentsResponse(
            write_token=self._token_text(token),
            refused=[_refused_message(one) for one in outcomes if isinstance(one, Refused)],
            unknown=[_refused_message(one) for one in outcomes if isinstance(one, Unknown)],
        )

    async def FindWrites(
        self, request: gateway_pb2.FindWritesRequest, context: Context
    ) -> gateway_pb2.FindWritesResponse:
        with self._admitted(context) as caller:
            found = await self._desk.collections.find_writes(
                caller, request.collection, requests.write_queries(request), self._desk.tokens.decode(request.after)
            )
        return gateway_pb2.FindWritesResponse(
            writes=[
                gateway_pb2.FoundWrite(landed=one.landed, settled=one.settled, write_token=self._token_text(one.token))
                for one in found
            ]
        )

    async def GetDocument(
        self, request: gateway_pb2.GetDocumentRequest, context: Context
    ) -> gateway_pb2.GetDocumentResponse:
        with self._admitted(context) as caller:
            document = await self._desk.documents.get(
                caller, request.collection, requests.document_id(request), self._desk.tokens.decode(request.after)
            )
        return gateway_pb2.GetDocumentResponse(document=cast(common_pb2.DocumentStatus, document))

    async def ListDocuments(
        self, request: gateway_pb2.ListDocumentsRequest, context: Context
    ) -> gateway_pb2.ListDocumentsResponse:
        with self._admitted(context) as caller:
            page = await self._desk.documents.list(
                caller,
                request.collection,
                page_size=requests.page_size(request),
                page_token=request.page_token,
                state=requests.state(request),
                after=self._desk.tokens.decode(request.after),
            )
        return gateway_pb2.ListDocumentsResponse(
            documents=[cast(common_pb2.DocumentStatus, document) for document in page.documents],
            next_page_token=page.next_page_token,
            coverage=coverage_message(page.coverage),
        )

    async def WatchDocuments(
        self, request: gateway_pb2.WatchDocumentsRequest, context: Context
    ) -> AsyncGenerator[gateway_pb2.WatchDocumentsResponse, None]:
        with self._admitted(context) as caller:
            token = self._desk.tokens.decode(request.after)
            watching = self._desk.documents.watch(caller, request.collection, requests.watched(request), token)
            async with aclosing(watching) as documents:
                async for document in documents:
                    yield gateway_pb2.WatchDocumentsResponse(document=cast(common_pb2.DocumentStatus, document))

    async def ListDeadLetters(
        self, request: gateway_pb2.ListDeadLettersRequest, context: Context
    ) -> gateway_pb2.ListDeadLettersResponse:
        with self._admitted(context):
            raise Unimplemented("dead letters are not there yet: ListDocuments with state REJECTED says which and why")

    async def ReplayDeadLetters(
        self, request: gateway_pb2.ReplayDeadLettersRequest, context: Context
    ) -> gateway_pb2.ReplayDeadLettersResponse:
        with self._admitted(context):
            raise Unimplemented("dead letters are not there yet: put the document again")

    async def CreateCollection(
        self, request: gateway_pb2.CreateCollectionRequest, context: Context
    ) -> gateway_pb2.CreateCollectionResponse:
        with self._admitted(context) as caller:
            name, after = requests.collection_name(request.name), self._desk.tokens.decode(request.after)
            collection, token = await self._desk.collections.create(caller, name, request.settings, after)
        return gateway_pb2.CreateCollectionResponse(
            collection=cast(common_pb2.Collection, collection), write_token=self._token_text(token)
        )

    async def GetCollection(
        self, request: gateway_pb2.GetCollectionRequest, context: Context
    ) -> gateway_pb2.GetCollectionResponse:
        with self._admitted(context) as caller:
            name, after = requests.collection_name(request.name), self._desk.tokens.decode(request.after)
            collection, counts, coverage = await self._desk.collections.get(caller, name, after)
        return gateway_pb2.GetCollectionResponse(
            collection=cast(common_pb2.Collection, collection),
            documents=counts.documents,
            chunks=counts.chunks,
            rejected=counts.rejected,
            coverage=coverage_message(coverage),
        )

    async def ListCollections(
        self, request: gateway_pb2.ListCollectionsRequest, context: Context
    ) -> gateway_pb2.ListCollectionsResponse:
        with self._admitted(context) as caller:
            collections = await self._desk.collections.list(caller, self._desk.tokens.decode(request.after))
        return gateway_pb2.ListCollectionsResponse(
            collections=[cast(common_pb2.Collection, collection) for collection in collections]
        )

    async def DeleteCollection(
        self, request: gateway_pb2.DeleteCollectionRequest, context: Context
    ) -> gateway_pb2.DeleteCollectionResponse:
        with self._admitted(context) as caller:
            name, after = requests.collection_name(request.name), self._desk.tokens.decode(request.after)
            token = await self._desk.collections.delete(caller, name, after)
        return gateway_pb2.DeleteCollectionResponse(write_token=self._token_text(token))

    async def GetStatus(self, request: gateway_pb2.GetStatusRequest, context: Context) -> gateway_pb2.GetStatusResponse:
        with self._admitted(context) as caller:
            services = await overview(self._desk.probes, self._desk.status_timeout_seconds)
        return gateway_pb2.GetStatusResponse(
            services=[
                gateway_pb2.ServiceStatus(name="gateway", ready=True, detail="serving"),
                *(gateway_pb2.ServiceStatus(name=one.name, ready=one.ready, detail=one.detail) for one in services),
            ],
            tenant=caller.tenant,
        )

    def _put_message(self, event: Opened | Outcome) -> gateway_pb2.PutDocumentsResponse:
        match event:
            case Opened():
                return gateway_pb2.PutDocumentsResponse(opened=gateway_pb2.Opened(now_unix_ms=event.now_unix_ms))
            case Acknowledged():
                return gateway_pb2.PutDocumentsResponse(
                    acknowledged=gateway_pb2.Acknowledged(
                        write_id=event.write.write_id,
                        document_id=event.write.document_id,
                        write_token=self._token_text(event.token),
                    )
                )
            case Refused():
                return gateway_pb2.PutDocumentsResponse(refused=_refused_message(event))
            case Unknown():
                return gateway_pb2.PutDocumentsResponse(unknown=_refused_message(event))

    def _token_text(self, token: WriteToken | None) -> str:
        return self._desk.tokens.encode(token) if token else ""


def _refused_message(outcome: Refused | Unknown) -> gateway_pb2.Refused:
    return gateway_pb2.Refused(
        write_id=outcome.write.write_id,
        document_id=outcome.write.document_id,
        error=error_message(outcome.error),
    )
