"""Callers' requests as values: what is wrong with them is said here, by field and limit."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2

from serving.errors import InvalidArgument, Unimplemented
from serving.limits import MAX_K, MAX_PAGE_SIZE, MAX_QUERIES, MAX_QUERY_BYTES

from .answerer import Question
from .collection_desk import WriteQuery
from .searching import Queries
from .tokens import TokenCodec
from .values import DocumentState, Sampling
from .writer import WRITE_ID_BYTES, Deletion, Put

DEFAULT_PAGE_SIZE = 100
MAX_WATCHED = 10_000
MAX_WRITES = 1000
MAX_GENERATED_TOKENS = 4096


def question(request: gateway_pb2.AskRequest, tokens: TokenCodec) -> Question:
    _check_collection(request.collection)
    _check_text(request.question, "question")
    _check_mode_and_filter(request.mode, request.HasField("filter"))
    if request.k > MAX_K:
        raise InvalidArgument(f"k is 1 to {MAX_K}, or 0 for the default; it is {request.k}", field="k")
    return Question(
        collection=request.collection,
        text=request.question,
        k=request.k,
        after=tokens.decode(request.after),
        strict=request.strict,
        sampling=_sampling(request.sampling),
        use_cache=request.cache != gateway_pb2.CACHE_USE_BYPASS,
        model=request.model,
    )


def queries(request: gateway_pb2.SearchRequest, tokens: TokenCodec) -> Queries:
    _check_collection(request.collection)
    _check_mode_and_filter(request.mode, request.HasField("filter"))
    _check_count(len(request.queries), MAX_QUERIES, "queries")
    if not 1 <= request.k <= MAX_K:
        raise InvalidArgument(f"k is 1 to {MAX_K}; it is {request.k}", field="k")
    return Queries(
        collection=request.collection,
        queries=[_query(query, n) for n, query in enumerate(request.queries)],
        k=request.k,
        after=tokens.decode(request.after),
        strict=request.strict,
    )


def put(request: gateway_pb2.PutDocumentsRequest, tokens: TokenCodec) -> Put:
    has_document = request.HasField("document")
    return Put(
        collection=request.collection,
        after=tokens.decode(request.after),
        document_id=request.document.id if has_document else None,
        body_bytes=len(request.document.body),
        document=request.document if has_document else None,
        write_id=request.write_id,
        sent_unix_ms=_sent(request.sent_unix_ms),
    )


def deletions(request: gateway_pb2.DeleteDocumentsRequest) -> list[Deletion]:
    _check_collection(request.collection)
    _check_count(len(request.document_ids), MAX_WRITES, "document_ids")
    if request.write_ids and len(request.write_ids) != len(request.document_ids):
        raise InvalidArgument(
            f"write_ids are one a document or none; there are {len(request.write_ids)} for "
            f"{len(request.document_ids)} documents",
            field="write_ids",
        )
    _sent(request.sent_unix_ms)
    write_ids = request.write_ids or [b""] * len(request.document_ids)
    return [Deletion(*both) for both in zip(request.document_ids, write_ids, strict=True)]


def write_queries(request: gateway_pb2.FindWritesRequest) -> list[WriteQuery]:
    _check_collection(request.collection)
    _check_count(len(request.writes), MAX_WRITES, "writes")
    for n, write in enumerate(request.writes):
        if len(write.write_id) != WRITE_ID_BYTES:
            raise InvalidArgument(
                f"a write id has {WRITE_ID_BYTES} bytes; this one has {len(write.write_id)}",
                field=f"writes[{n}].write_id",
            )
    return [WriteQuery(write.document_id, write.write_id, _sent(write.sent_unix_ms)) for write in request.writes]


def watched(request: gateway_pb2.WatchDocumentsRequest) -> Sequence[str]:
    _check_collection(request.collection)
    _check_count(len(request.document_ids), MAX_WATCHED, "document_ids")
    return request.document_ids


def document_id(request: gateway_pb2.GetDocumentRequest) -> str:
    _check_collection(request.collection)
    if not request.document_id:
        raise InvalidArgument("the document's id is missing", field="document_id")
    return request.document_id


def page_size(request: gateway_pb2.ListDocumentsRequest) -> int:
    _check_collection(request.collection)
    if request.page_size > MAX_PAGE_SIZE:
        raise InvalidArgument(
            f"a page has 1 to {MAX_PAGE_SIZE} documents, 0 for {DEFAULT_PAGE_SIZE}; it is {request.page_size}",
            field="page_size",
        )
    return request.page_size or DEFAULT_PAGE_SIZE


def state(request: gateway_pb2.ListDocumentsRequest) -> DocumentState:
    """UNSPECIFIED is indexed and rejected; others than these two are not kept."""
    if request.state not in (
        common_pb2.DOCUMENT_STATE_UNSPECIFIED,
        common_pb2.DOCUMENT_STATE_INDEXED,
        common_pb2.DOCUMENT_STATE_REJECTED,
    ):
        raise InvalidArgument("documents are listed by the states INDEXED and REJECTED", field="state")
    return DocumentState(request.state)


def collection_name(name: str) -> str:
    """A name that must be there, in the field `name`."""
    _check_collection(name, "name")
    return name


def _sampling(message: gateway_pb2.Sampling) -> Sampling:
    if message.max_tokens > MAX_GENERATED_TOKENS:
        raise InvalidArgument(
            f"max_tokens is 1 to {MAX_GENERATED_TOKENS}, or 0 for the default; it is {message.max_tokens}",
            field="sampling.max_tokens",
        )
    if not 0 <= message.temperature <= 2:
        raise InvalidArgument(f"temperature is 0 to 2; it is {message.temperature:g}", field="sampling.temperature")
    if not 0 <= message.top_p <= 1:
        raise InvalidArgument(
            f"top_p is above 0 and at most 1, or 0 for 1; it is {message.top_p:g}", field="sampling.top_p"
        )
    return Sampling(
        max_tokens=message.max_tokens,
        temperature=message.temperature,
        top_p=message.top_p or 1.0,
        seed=message.seed if message.HasField("seed") else None,
    )


def _query(query: gateway_pb2.Query, number: int) -> str | bytes:
    match query.WhichOneof("query"):
        case "text":
            _check_text(query.text, f"queries[{number}].text")
            return query.text
        case "vector":
            if not query.vector:
                raise InvalidArgument("the vector is empty", field=f"queries[{number}].vector")
            return query.vector
        case _:
            raise InvalidArgument("a query is a text or a vector; this one is neither", field=f"queries[{number}]")


def _sent(unix_ms: int) -> int:
    if unix_ms < 0:
        raise InvalidArgument(
            "a time is milliseconds since the epoch, never below 0; leave it out for the gateway's",
            field="sent_unix_ms",
        )
    return unix_ms


def _check_collection(name: str, field: str = "collection") -> None:
    if not name:
        raise InvalidArgument("the collection's name is missing", field=field)


def _check_text(text: str, field: str) -> None:
    size = len(text.encode())
    if not text.strip():
        raise InvalidArgument("the text is empty; say what is looked for", field=field)
    if size > MAX_QUERY_BYTES:
        raise InvalidArgument(f"the text has at most {MAX_QUERY_BYTES} bytes of UTF-8; it has {size}", field=field)


def _check_count(count: int, most: int, field: str) -> None:
    if not 1 <= count <= most:
        raise InvalidArgument(f"{field} are 1 to {most} in a call; there are {count}", field=field)


def _check_mode_and_filter(mode: common_pb2.SearchMode.ValueType, has_filter: bool) -> None:
    if mode not in (common_pb2.SEARCH_MODE_UNSPECIFIED, common_pb2.SEARCH_MODE_DENSE):
        raise Unimplemented("only dense search is there yet: leave the mode out", field="mode")
    if has_filter:
        raise Unimplemented("filters are not there yet: leave the filter out", field="filter")
