"""Types to protos and back."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from ._errors import InvalidArgument, from_message
from ._types import (
    CacheOutcome,
    Citation,
    Collection,
    CollectionDetails,
    CollectionSettings,
    Coverage,
    Degradation,
    Document,
    DocumentState,
    DocumentStatus,
    Done,
    Event,
    Evidence,
    Hit,
    MetadataValue,
    Passage,
    Query,
    Retrieved,
    Sampling,
    SearchResult,
    ServiceStatus,
    Status,
    Token,
    Usage,
)
from .common.v1 import common_pb2
from .gateway.v1 import gateway_pb2

MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024

_CACHE_OUTCOMES: Final = {
    gateway_pb2.CACHE_OUTCOME_MISS: CacheOutcome.MISS,
    gateway_pb2.CACHE_OUTCOME_HIT: CacheOutcome.HIT,
    gateway_pb2.CACHE_OUTCOME_SHARED: CacheOutcome.SHARED,
    gateway_pb2.CACHE_OUTCOME_BYPASSED: CacheOutcome.BYPASSED,
}
_STATES: Final = {
    common_pb2.DOCUMENT_STATE_PENDING: DocumentState.PENDING,
    common_pb2.DOCUMENT_STATE_INDEXED: DocumentState.INDEXED,
    common_pb2.DOCUMENT_STATE_REJECTED: DocumentState.REJECTED,
    common_pb2.DOCUMENT_STATE_DELETED: DocumentState.DELETED,
}
_STATE_VALUES: Final = {state: value for value, state in _STATES.items()}


@contextmanager
def sendable(what: str) -> Iterator[None]:
    """Turns what protobuf says of a value that it cannot hold into InvalidArgument."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise InvalidArgument(f"the {what} cannot be sent: {error}", field=what) from None


def document_message(document: Document) -> gateway_pb2.Document:
    """Raises InvalidArgument for what can never be sent: it would end the stream for all the others."""
    try:
        body = document.body or document.text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("the text holds half of a surrogate pair, which UTF-8 cannot say", field="text") from None
    if len(body) > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            f"the body has {len(body):,} bytes; at most {MAX_DOCUMENT_BYTES:,} (16 MiB) are taken: split the document",
            field="body",
            reason="DOCUMENT_TOO_LARGE",
        )
    metadata = {key: _metadata_value(key, value) for key, value in document.metadata.items()}
    with sendable("document"):
        return gateway_pb2.Document(
            id=document.id,
            body=body,
            content_type=document.content_type,
            title=document.title,
            metadata=metadata,
            access_groups=document.access_groups,
        )


def _metadata_value(key: str, value: MetadataValue) -> common_pb2.MetadataValue:
    try:
        match value:
            case bool():
                return common_pb2.MetadataValue(bool_value=value)
            case str():
                return common_pb2.MetadataValue(string_value=value)
            case int() | float():
                return common_pb2.MetadataValue(number_value=value)
            case list() | tuple():
                return common_pb2.MetadataValue(string_list=common_pb2.StringList(values=value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidArgument(
        "a metadata value is a string, a number, a flag or a list of strings", field=f"metadata.{key}"
    ) from None


def _metadata(values: Mapping[str, common_pb2.MetadataValue]) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for key, value in values.items():
        match value.WhichOneof("kind"):
            case "string_value":
                metadata[key] = value.string_value
            case "number_value":
                metadata[key] = value.number_value
            case "bool_value":
                metadata[key] = value.bool_value
            case "string_list":
                metadata[key] = list(value.string_list.values)
    return metadata


def search_request(
    collection: str, queries: Sequence[str | Query], *, k: int, after: str, strict: bool
) -> gateway_pb2.SearchRequest:
    """One call's queries; a query that is only a string has no id."""
    with sendable("query"):
        return gateway_pb2.SearchRequest(
            collection=collection, queries=map(_query, queries), k=k, after=after, strict=strict
        )


def _query(query: str | Query) -> gateway_pb2.Query:
    if isinstance(query, str):
        return gateway_pb2.Query(text=query)
    if query.vector is not None:
        return gateway_pb2.Query(id=query.id, vector=struct.pack(f"<{len(query.vector)}f", *query.vector))
    return gateway_pb2.Query(id=query.id, text=query.text)


def search_results(response: gateway_pb2.SearchResponse) -> list[SearchResult]:
    """One a query, in order."""
    shared = coverage(response.coverage)
    degradations = _degradations(response.degradations)
    timings = _timings(response.timings)
    return [SearchResult(r.id, tuple(map(_hit, r.hits)), shared, degradations, timings) for r in response.results]


def _hit(hit: common_pb2.Hit) -> Hit:
    return Hit(
        document_id=hit.document_id,
        chunk=hit.chunk,
        score=hit.score,
        text=hit.text,
        title=hit.title,
        start=hit.start,
        end=hit.end,
        metadata=_metadata(hit.metadata),
        version=hit.version,
        partition=hit.partition,
    )


def coverage(message: common_pb2.Coverage) -> Coverage:
    """Of how many partitions an answer speaks."""
    return Coverage(message.partitions_answered, message.partitions_total, tuple(message.partitions_missing))


def _degradations(messages: Iterable[common_pb2.Degradation]) -> tuple[Degradation, ...]:
    return tuple(
        Degradation(common_pb2.DegradationKind.Name(m.kind).removeprefix("DEGRADATION_KIND_").lower(), m.message)
        for m in messages
    )


def _timings(messages: Iterable[common_pb2.StageTiming]) -> dict[str, float]:
    return {m.stage: m.milliseconds for m in messages}


def ask_request(
    collection: str,
    question: str,
    *,
    k: int,
    after: str,
    strict: bool,
    cache: bool,
    sampling: Sampling | None,
    model: str,
) -> gateway_pb2.AskRequest:
    """A question."""
    with sendable("question"):
        return gateway_pb2.AskRequest(
            collection=collection,
            question=question,
            k=k,
            after=after,
            strict=strict,
            cache=gateway_pb2.CACHE_USE_DEFAULT if cache else gateway_pb2.CACHE_USE_BYPASS,
            model=model,
            sampling=None
            if sampling is None
            else gateway_pb2.Sampling(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
            ),
        )


def ask_event(response: gateway_pb2.AskResponse) -> Event | None:
    """The event; None for one that this version does not know. Raises what `failed` tells of."""
    match response.WhichOneof("event"):
        case "retrieved":
            passages = tuple(Passage(p.number, _hit(p.hit)) for p in response.retrieved.passages)
            return Retrieved(passages, coverage(response.retrieved.coverage))
        case "token":
            return Token(response.token.text)
        case "done":
            return _done(response.done)
        case "failed":
            raise from_message(response.failed.error)
    return None


def _done(done: gateway_pb2.Done) -> Done:
    return Done(
        answer=done.answer,
        citations=tuple(Citation(c.passage, c.document_id, c.chunk, c.evidence, c.position) for c in done.citations),
        evidence=tuple(Evidence(e.passage, e.text, e.score) for e in done.evidence),
        usage=Usage(done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.cached_prompt_tokens),
        timings_ms=_timings(done.timings),
        cache=_CACHE_OUTCOMES.get(done.cache, CacheOutcome.UNSPECIFIED),
        degradations=_degradations(done.degradations),
        finish_reason=done.finish_reason,
        model=done.model,
    )


def document_status(message: common_pb2.DocumentStatus) -> DocumentStatus:
    """What became of a document."""
    return DocumentStatus(
        document_id=message.document_id,
        state=_STATES.get(message.state, DocumentState.UNKNOWN),
        reason=message.reason,
        title=message.title,
        metadata=_metadata(message.metadata),
        access_groups=tuple(message.access_groups),
        chunks=message.chunks,
        characters=message.characters,
        version=message.version,
        partition=message.partition,
    )


def state_value(state: DocumentState | None) -> common_pb2.DocumentState.ValueType:
    """The proto's value; unspecified for None."""
    return common_pb2.DOCUMENT_STATE_UNSPECIFIED if state is None else _STATE_VALUES[state]


def settings_message(settings: CollectionSettings | None) -> common_pb2.CollectionSettings:
    """A collection's settings; all defaults for None."""
    settings = settings or CollectionSettings()
    return common_pb2.CollectionSettings(
        embedding_fingerprint=settings.embedding_fingerprint,
        max_chunk_tokens=settings.max_chunk_tokens,
        chunk_overlap_tokens=settings.chunk_overlap_tokens,
        spread=settings.spread,
    )


def collection(message: common_pb2.Collection) -> Collection:
    """A collection."""
    settings = message.settings
    return Collection(
        name=message.name,
        collection_id=message.collection_id,
        tenant=message.tenant,
        settings=CollectionSettings(
            embedding_fingerprint=settings.embedding_fingerprint,
            max_chunk_tokens=settings.max_chunk_tokens,
            chunk_overlap_tokens=settings.chunk_overlap_tokens,
            spread=settings.spread,
        ),
        generation=message.generation,
        created_unix_ms=message.created_unix_ms,
    )


def collection_details(response: gateway_pb2.GetCollectionResponse) -> CollectionDetails:
    """A collection and how much it holds."""
    return CollectionDetails(
        collection=collection(response.collection),
        documents=response.documents,
        chunks=response.chunks,
        rejected=response.rejected,
        coverage=coverage(response.coverage),
    )


def status(response: gateway_pb2.GetStatusResponse) -> Status:
    """How the services are."""
    return Status(tuple(ServiceStatus(s.name, s.ready, s.detail) for s in response.services), response.tenant)
