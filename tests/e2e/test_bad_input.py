"""What is wrong is refused with a typed error that names the field and the limit, and the services stay healthy."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from uuid import uuid4

import grpc
import pytest
from headwater import (
    AlreadyExists,
    Client,
    DeadlineExceeded,
    Document,
    DocumentState,
    HeadwaterError,
    InvalidArgument,
    NotFound,
    Query,
    WriteFailed,
)
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from tests.e2e.conftest import Metadata
from tests.harness.processes import Processes

pytestmark = pytest.mark.anywhere


@pytest.fixture
def collection(client: Client) -> str:
    name = f"bad-{uuid4().hex[:8]}"
    client.create_collection(name)
    return name


@pytest.fixture(autouse=True)
def still_healthy(own_stack: Processes | None, client: Client) -> Iterator[None]:
    """After each test every process still lives its first life and a document goes all the way through."""
    before = {name: own_stack.pid(name) for name in own_stack.names} if own_stack else {}
    yield
    if own_stack:
        assert {name: own_stack.pid(name) for name in own_stack.names} == before
        assert not any(own_stack.has_ended(name) for name in own_stack.names)
    name = f"fine-{uuid4().hex[:8]}"
    client.create_collection(name)
    token = client.put(name, [Document("fine", text="All is well.")]).token
    assert [hit.text for hit in client.search(name, "all is well", after=token)] == ["All is well."]


def pdf(encrypted: bool = False, text: str = "Readable.") -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, encrypt=StandardEncryption("secret", "owner") if encrypted else None)
    if text:
        canvas.drawString(72, 720, text)
    canvas.showPage()
    canvas.save()
    return out.getvalue()


def refusal(client: Client, collection: str, *documents: Document) -> HeadwaterError:
    """The error of the one document that is refused."""
    with pytest.raises((WriteFailed, InvalidArgument)) as raised:
        client.put(collection, documents)
    if isinstance(raised.value, WriteFailed):
        (refused,) = raised.value.result.refused
        return refused.error
    return raised.value


@pytest.mark.parametrize(
    ("document", "field", "said"),
    [
        (Document("empty", text=""), "body", "16777216"),
        (Document("blank", text=" \n\t"), "body", "spaces"),
        (Document("huge", body=b"x" * 50_000_000), "body", "16"),
        (Document("latin", body="caf\u00e9".encode("latin-1")), "body", "UTF-8"),
        (Document("", text="no id"), "id", "id"),
        (Document("i" * 513, text="long id"), "id", "512"),
        (Document("control\n", text="control"), "id", "control"),
        (Document("type", text="x", content_type="application/zip"), "content_type", "application/pdf"),
        (Document("title", text="x", title="t" * 1025), "title", "1"),
        (Document("meta", text="x", metadata={"m": "v" * 20_000}), "metadata", ""),
        (Document("groups", text="x", access_groups=[f"g{n}" for n in range(33)]), "access_groups", "32"),
    ],
    ids=lambda value: value.id[:12] if isinstance(value, Document) else "",
)
def test_a_bad_document_is_refused_by_name(
    client: Client, collection: str, document: Document, field: str, said: str
) -> None:
    error = refusal(client, collection, document)
    assert error.code == "INVALID_ARGUMENT"
    assert field in error.field
    assert said in error.message
    with pytest.raises(NotFound):
        client.get_document(collection, document.id or "none")


def test_a_duplicate_id_in_one_stream_is_refused(client: Client, collection: str) -> None:
    twice = [Document("same", text="First of two."), Document("same", text="Second of two.")]
    with pytest.raises(WriteFailed) as raised:
        client.put(collection, twice)
    (refused,) = raised.value.result.refused
    assert isinstance(refused.error, AlreadyExists)
    assert refused.error.reason == "DUPLICATE_ID"
    hits = client.search(collection, "two", after=raised.value.result.token)
    assert [hit.text for hit in hits] == ["First of two."]


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (pdf()[: len(pdf()) // 2], "application/pdf", "PDF_DAMAGED"),
        (b"%PDF-1.7 and then nothing", "application/pdf", "PDF_DAMAGED"),
        (pdf(encrypted=True), "application/pdf", "PDF_ENCRYPTED"),
        (pdf(text=""), "application/pdf", "NO_TEXT"),
        (b"<html><script>only()</script></html>", "text/html", "NO_TEXT"),
    ],
    ids=["truncated", "nonsense", "encrypted", "no text", "only scripts"],
)
def test_what_only_parsing_shows_is_rejected_with_a_reason(
    client: Client, collection: str, body: bytes, content_type: str, reason: str
) -> None:
    token = client.put(collection, [Document("doc", text="A former version.")]).token
    assert len(client.search(collection, "former", after=token)) == 1
    token = client.put(collection, [Document("doc", body=body, content_type=content_type)]).token
    (outcome,) = client.watch(collection, ["doc"], after=token)
    assert outcome.state is DocumentState.REJECTED
    assert reason in outcome.reason
    assert reason in client.get_document(collection, "doc", after=token).reason
    assert len(client.search(collection, "former", after=token)) == 0, "its former version goes too"


def test_html_100_000_deep_harms_nobody(client: Client, collection: str) -> None:
    deep = b"<div>" * 100_000 + b"bottom" + b"</div>" * 100_000
    token = client.put(
        collection,
        [Document("deep", body=deep, content_type="text/html"), Document("after", text="The next one goes on.")],
    ).token
    outcomes = {outcome.document_id: outcome for outcome in client.watch(collection, ["deep", "after"], after=token)}
    assert outcomes["after"].state is DocumentState.INDEXED
    assert outcomes["deep"].state in (DocumentState.INDEXED, DocumentState.REJECTED)
    if outcomes["deep"].state is DocumentState.REJECTED:
        assert outcomes["deep"].reason


@pytest.mark.parametrize(
    ("call", "kind", "field", "said"),
    [
        (lambda c, n: c.search(n, "x", k=0), InvalidArgument, "k", "1000"),
        (lambda c, n: c.search(n, "x", k=100_000), InvalidArgument, "k", "1000"),
        (lambda c, n: c.search(n, ""), InvalidArgument, "queries", ""),
        (lambda c, n: c.search(n, "x" * 9000), InvalidArgument, "queries", "8"),
        (lambda c, n: c.search(n, Query(vector=[1.0, 2.0, 3.0])), InvalidArgument, "vector", "3"),
        (lambda c, n: c.answer(n, ""), InvalidArgument, "question", ""),
        (lambda c, n: c.answer(n, "x" * 9000), InvalidArgument, "question", "8"),
        (lambda c, n: c.answer(n, "x", k=100_000), InvalidArgument, "k", "1000"),
        (lambda c, n: c.search("absent", "x"), NotFound, "", "absent"),
        (lambda c, n: c.put("absent", [Document("a", text="x")]), HeadwaterError, "", "absent"),
        (lambda c, n: c.create_collection("Not A Name"), InvalidArgument, "name", "64"),
        (lambda c, n: c.create_collection(n), AlreadyExists, "", "already"),
        (lambda c, n: c.search(n, "x", after="made-up"), InvalidArgument, "after", ""),
        (lambda c, n: c.search(n, "x", timeout=0.001), DeadlineExceeded, "", ""),
        (lambda c, n: c.answer(n, "x", timeout=0.001), DeadlineExceeded, "", ""),
    ],
)
def test_a_bad_call_is_refused_by_name(
    client: Client,
    collection: str,
    call: Callable[[Client, str], object],
    kind: type[HeadwaterError],
    field: str,
    said: str,
) -> None:
    with pytest.raises(kind) as raised:
        call(client, collection)
    assert field in raised.value.field
    assert said.replace(",", "") in raised.value.message.replace(",", "")


def test_what_is_not_honoured_yet_says_so(address: str, metadata: Metadata, collection: str) -> None:
    filters = common_pb2.Filter(exists=common_pb2.FieldExists(field="team"))
    query = [gateway_pb2.Query(text="x")]
    with grpc.insecure_channel(address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        for call in (
            lambda: stub.Search(
                gateway_pb2.SearchRequest(collection=collection, queries=query, k=1, filter=filters), metadata=metadata
            ),
            lambda: stub.Search(
                gateway_pb2.SearchRequest(
                    collection=collection, queries=query, k=1, mode=common_pb2.SEARCH_MODE_LEXICAL
                ),
                metadata=metadata,
            ),
            lambda: list(
                stub.Ask(gateway_pb2.AskRequest(collection=collection, question="x", filter=filters), metadata=metadata)
            ),
            lambda: stub.ListDeadLetters(gateway_pb2.ListDeadLettersRequest(collection=collection), metadata=metadata),
            lambda: stub.CreateCollection(
                gateway_pb2.CreateCollectionRequest(
                    name="policies", settings=common_pb2.CollectionSettings(policies=["redact"])
                ),
                metadata=metadata,
            ),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call()
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_more_queries_than_a_call_may_have_are_refused(address: str, metadata: Metadata, collection: str) -> None:
    queries = [gateway_pb2.Query(text="x")] * 257
    with grpc.insecure_channel(address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Search(gateway_pb2.SearchRequest(collection=collection, queries=queries, k=1), metadata=metadata)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "256" in raised.value.details()


def test_a_message_above_the_limit_is_refused(address: str, metadata: Metadata, collection: str) -> None:
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        document = gateway_pb2.Document(id="big", body=b"x" * 60_000_000)
        requests = iter([gateway_pb2.PutDocumentsRequest(collection=collection, document=document)])
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.PutDocuments(requests, metadata=metadata))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
