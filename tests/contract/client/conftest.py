"""A small gateway of our own, in memory, that speaks the real protos and can be told to misbehave."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from headwater import AsyncClient, Client
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc

Context = grpc.ServicerContext


def packed(message: Any) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def abort(
    context: Context, code: grpc.StatusCode, message: str, *, reason: str = "", field: str = "", retry_ms: int = 0
) -> None:
    """Ends the call as Headwater's gateway does."""
    details = [packed(error_details_pb2.ErrorInfo(reason=reason or code.name, domain="headwater"))]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if retry_ms:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_ms)
        details.append(packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    context.abort_with_status(
        rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=details))
    )


@dataclass
class Landed:
    document_id: str
    write_id: bytes
    text: str | None
    sent_unix_ms: int


class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
    """A log in memory; a write token is the number of writes in it, so each includes all before it.

    actions: what to do with the next documents, one each; "acknowledge" when there are none left.
    failures: what to do with the next calls other than puts: None for nothing, or the arguments of `abort`.
    """

    def __init__(self) -> None:
        self.actions: deque[str] = deque()
        self.failures: deque[Any] = deque()
        self.log: list[Landed] = []
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.attempts: list[gateway_pb2.PutDocumentsRequest] = []
        self.collections: dict[str, common_pb2.Collection] = {}
        self.rejects: dict[str, str] = {}
        self.clock_offset_ms = 0
        self.may_open = threading.Event()
        self.may_open.set()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.cancelled, self.finished = threading.Event(), threading.Event()
        """What became of a question: its caller hung up, or its stream was heard to the end."""
        self.tokens_sent = threading.Event()
        self.settled = True

    # -- what tests ask ------------------------------------------------------------------------------------------------

    def texts(self, document_id: str) -> list[str | None]:
        return [landed.text for landed in self.log if landed.document_id == document_id]

    def calls_of(self, name: str) -> list[Any]:
        return [request for called, request in self.calls if called == name]

    def now_unix_ms(self) -> int:
        return int(time.time() * 1000) + self.clock_offset_ms

    # -- the service ---------------------------------------------------------------------------------------------------

    def _called(self, name: str, request: Any, context: Context) -> None:
        self.calls.append((name, request))
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata()})
        if name != "PutDocuments" and self.failures and (failure := self.failures.popleft()):
            code, message, options = failure
            abort(context, code, message, **options)

    def _land(self, document_id: str, write_id: bytes, text: str | None, sent_unix_ms: int) -> str:
        self.log.append(Landed(document_id, write_id, text, sent_unix_ms))
        return str(len(self.log))

    def PutDocuments(self, request_iterator: Any, context: Context) -> Iterator[gateway_pb2.PutDocumentsResponse]:
        first = next(request_iterator)
        self._called("PutDocuments", first, context)
        self.may_open.wait(10)
        if first.collection == "absent":
            abort(context, grpc.StatusCode.NOT_FOUND, "no collection 'absent'", reason="COLLECTION_NOT_FOUND")
        yield gateway_pb2.PutDocumentsResponse(opened=gateway_pb2.Opened(now_unix_ms=self.now_unix_ms()))
        for request in request_iterator:
            self.attempts.append(request)
            action, _, argument = (self.actions.popleft() if self.actions else "acknowledge").partition(" ")
            landing = (request.document.id, request.write_id, request.document.body.decode(), request.sent_unix_ms)
            names = {"write_id": request.write_id, "document_id": request.document.id}
            match action:
                case "acknowledge":
                    self.may_answer.wait(10)
                    acknowledged = gateway_pb2.Acknowledged(**names, write_token=self._land(*landing))
                    yield gateway_pb2.PutDocumentsResponse(acknowledged=acknowledged)
                case "refuse":
                    code, _, reason = argument.partition(" ")
                    error = common_pb2.Error(
                        code=code, reason=reason or code, message="it was refused", field="document.body"
                    )
                    yield gateway_pb2.PutDocumentsResponse(refused=gateway_pb2.Refused(**names, error=error))
                case "unknown":
                    if argument == "landed":
                        self._land(*landing)
                    error = common_pb2.Error(code="UNAVAILABLE", message="the log did not answer")
                    yield gateway_pb2.PutDocumentsResponse(unknown=gateway_pb2.Refused(**names, error=error))
                case "drop":
                    if argument == "landed":
                        self._land(*landing)
                    abort(context, grpc.StatusCode.UNAVAILABLE, "going away", reason="SHUTTING_DOWN")
                case "silence":
                    pass

    def FindWrites(self, request: Any, context: Context) -> gateway_pb2.FindWritesResponse:
        self._called("FindWrites", request, context)
        found = []
        for query in request.writes:
            landed = any(one.write_id == query.write_id for one in self.log)
            token = str(len(self.log)) if landed else ""
            found.append(gateway_pb2.FoundWrite(landed=landed, settled=self.settled, write_token=token))
        return gateway_pb2.FindWritesResponse(writes=found)

    def DeleteDocuments(self, request: Any, context: Context) -> gateway_pb2.DeleteDocumentsResponse:
        self._called("DeleteDocuments", request, context)
        for document_id, write_id in zip(request.document_ids, request.write_ids, strict=True):
            self._land(document_id, write_id, None, request.sent_unix_ms)
        return gateway_pb2.DeleteDocumentsResponse(write_token=str(len(self.log)))

    def Search(self, request: Any, context: Context) -> gateway_pb2.SearchResponse:
        self._called("Search", request, context)
        newest = {one.document_id: one.text for one in self.log}
        hits = [
            common_pb2.Hit(document_id=document_id, score=1.0, text=text)
            for document_id, text in newest.items()
            if text is not None
        ]
        return gateway_pb2.SearchResponse(
            results=[gateway_pb2.QueryResult(id=query.id, hits=hits[: request.k]) for query in request.queries],
            coverage=common_pb2.Coverage(partitions_answered=4, partitions_total=4),
            timings=[common_pb2.StageTiming(stage="total", milliseconds=1.5)],
        )

    def Ask(self, request: Any, context: Context) -> Iterator[gateway_pb2.AskResponse]:
        self._called("Ask", request, context)
        told = threading.Event()
        context.add_callback(lambda: (self.finished if told.is_set() else self.cancelled).set())
        hit = common_pb2.Hit(
            document_id="leave", chunk=0, score=0.5, text="Leave is 30 days. It is paid.", title="Leave"
        )
        yield gateway_pb2.AskResponse(
            retrieved=gateway_pb2.Retrieved(
                passages=[gateway_pb2.Passage(number=1, hit=hit)],
                coverage=common_pb2.Coverage(partitions_answered=3, partitions_total=4, partitions_missing=[2]),
            )
        )
        if request.question == "break":
            abort(context, grpc.StatusCode.UNAVAILABLE, "going away", reason="SHUTTING_DOWN")
        if request.question == "fail":
            error = common_pb2.Error(code="UNAVAILABLE", reason="NO_GENERATOR", message="no generator")
            yield gateway_pb2.AskResponse(failed=gateway_pb2.Failed(error=error))
            return
        count = 10_000 if request.question == "endless" else 2
        for number in range(count):
            if not context.is_active():
                return
            yield gateway_pb2.AskResponse(token=gateway_pb2.Token(text="30 " if number == 0 else "days [1]."))
            self.tokens_sent.set()
            if count > 2:
                time.sleep(0.005)
        yield gateway_pb2.AskResponse(
            done=gateway_pb2.Done(
                answer="30 days [1].",
                citations=[
                    gateway_pb2.Citation(passage=1, document_id="leave", evidence="Leave is 30 days.", position=8)
                ],
                evidence=[gateway_pb2.Evidence(passage=1, text="Leave is 30 days.", score=0.9)],
                usage=common_pb2.Usage(prompt_tokens=10, completion_tokens=3),
                timings=[common_pb2.StageTiming(stage="total", milliseconds=12.5)],
                cache=gateway_pb2.CACHE_OUTCOME_MISS,
                degradations=[
                    common_pb2.Degradation(
                        kind=common_pb2.DEGRADATION_KIND_PARTIAL_COVERAGE,
                        message="one of four partitions did not answer",
                    )
                ],
                finish_reason="stop",
                model="fake",
            )
        )
        time.sleep(0.05)  # who hung up after the last event would be seen
        told.set()

    def GetDocument(self, request: Any, context: Context) -> gateway_pb2.GetDocumentResponse:
        self._called("GetDocument", request, context)
        texts = self.texts(request.document_id)
        if not texts or texts[-1] is None:
            abort(
                context, grpc.StatusCode.NOT_FOUND, "no such document", reason="DOCUMENT_NOT_FOUND", field="document_id"
            )
        return gateway_pb2.GetDocumentResponse(document=self._status(request.document_id))

    def ListDocuments(self, request: Any, context: Context) -> gateway_pb2.ListDocumentsResponse:
        self._called("ListDocuments", request, context)
        newest = {one.document_id: one.text for one in self.log}
        ids = sorted(document_id for document_id, text in newest.items() if text is not None)
        start = int(request.page_token or 0)
        end = start + request.page_size
        return gateway_pb2.ListDocumentsResponse(
            documents=[self._status(document_id) for document_id in ids[start:end]],
            next_page_token=str(end) if end < len(ids) else "",
        )

    def WatchDocuments(self, request: Any, context: Context) -> Iterator[gateway_pb2.WatchDocumentsResponse]:
        self._called("WatchDocuments", request, context)
        for number, document_id in enumerate(request.document_ids):
            if self.actions and self.actions[0] == f"break after {number}":
                self.actions.popleft()
                abort(context, grpc.StatusCode.UNAVAILABLE, "going away", reason="SHUTTING_DOWN")
            yield gateway_pb2.WatchDocumentsResponse(document=self._status(document_id))

    def _status(self, document_id: str) -> common_pb2.DocumentStatus:
        reason = self.rejects.get(document_id, "")
        state = common_pb2.DOCUMENT_STATE_REJECTED if reason else common_pb2.DOCUMENT_STATE_INDEXED
        return common_pb2.DocumentStatus(document_id=document_id, state=state, reason=reason, chunks=1)

    def CreateCollection(self, request: Any, context: Context) -> gateway_pb2.CreateCollectionResponse:
        self._called("CreateCollection", request, context)
        if request.name in self.collections:
            abort(
                context, grpc.StatusCode.ALREADY_EXISTS, "the name is taken", reason="COLLECTION_EXISTS", field="name"
            )
        collection = common_pb2.Collection(name=request.name, collection_id="0" * 32, settings=request.settings)
        self.collections[request.name] = collection
        return gateway_pb2.CreateCollectionResponse(
            collection=collection, write_token=self._land(f"collection {request.name}", b"", None, 0)
        )

    def GetCollection(self, request: Any, context: Context) -> gateway_pb2.GetCollectionResponse:
        self._called("GetCollection", request, context)
        if request.name not in self.collections:
            abort(context, grpc.StatusCode.NOT_FOUND, "no such collection", reason="COLLECTION_NOT_FOUND", field="name")
        return gateway_pb2.GetCollectionResponse(collection=self.collections[request.name], documents=3, chunks=7)

    def ListCollections(self, request: Any, context: Context) -> gateway_pb2.ListCollectionsResponse:
        self._called("ListCollections", request, context)
        return gateway_pb2.ListCollectionsResponse(collections=self.collections.values())

    def DeleteCollection(self, request: Any, context: Context) -> gateway_pb2.DeleteCollectionResponse:
        self._called("DeleteCollection", request, context)
        del self.collections[request.name]
        return gateway_pb2.DeleteCollectionResponse(write_token=self._land(f"collection {request.name}", b"", None, 0))

    def GetStatus(self, request: Any, context: Context) -> gateway_pb2.GetStatusResponse:
        self._called("GetStatus", request, context)
        services = [gateway_pb2.ServiceStatus(name="gateway", ready=True, detail="1.0")]
        return gateway_pb2.GetStatusResponse(services=services, tenant="default")


@dataclass
class Served:
    """A gateway and where it listens."""

    gateway: Gateway
    address: str
    server: Any = field(repr=False)


@pytest.fixture
def served() -> Iterator[Served]:
    """The gateway, served on a free port of loopback."""
    gateway = Gateway()  # type: ignore[abstract]  # dead letters are not asked for yet
    pool = ThreadPoolExecutor(16)
    server = grpc.server(pool)
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Served(gateway, f"127.0.0.1:{port}", server)
    gateway.may_open.set()
    gateway.may_answer.set()
    server.stop(0).wait()
    pool.shutdown(wait=True)


@pytest.fixture
def gateway(served: Served) -> Gateway:
    """The gateway itself."""
    return served.gateway


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    """A blocking client of it."""
    with Client(served.address, timeout=10) as client:
        yield client


@pytest.fixture
async def async_client(served: Served) -> Any:
    """An asynchronous client of it."""
    async with AsyncClient(served.address, timeout=10) as client:
        yield client


@pytest.fixture
def quickly_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of this gateway refuses what is older than a blink, so a client need not wait ten seconds."""
    monkeypatch.setattr("headwater._writes.SETTLED_SECONDS", 0.2)
