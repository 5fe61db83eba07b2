"""The log's records of documents and collections, to and from what this service speaks of."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

from headwater.common.v1 import common_pb2
from headwater.log.v1 import log_pb2

from .documents import CollectionSpec, Content, MetadataValue, Vectors, Write
from .errors import DocumentRejected
from .parsers.pool import Parsed

_SCHEMA_VERSION: Final = 1


def encode_write(write: Write) -> bytes:
    """A record of `headwater.documents`."""
    record = log_pb2.DocumentRecord(
        schema_version=_SCHEMA_VERSION,
        write_id=write.write_id,
        tenant=write.tenant,
        collection_id=write.collection_id,
        document_id=write.document_id,
        accepted_unix_ms=write.accepted_ms,
        collections_offset=write.collections_offset,
        traceparent=write.traceparent,
    )
    content = write.content
    if content is None:
        record.deletion.SetInParent()
    else:
        record.put.body = content.body
        record.put.content_type = content.content_type
        record.put.title = content.title
        record.put.access_groups.extend(content.access_groups)
        set_metadata(record.put.metadata, content.metadata)
    return record.SerializeToString()


def decode_write(value: bytes) -> Write:
    """A record of `headwater.documents`. Raises google.protobuf.message.DecodeError."""
    record = log_pb2.DocumentRecord.FromString(value)
    content = None
    if record.HasField("put"):
        put = record.put
        content = Content(put.body, put.content_type, put.title, metadata_of(put.metadata), tuple(put.access_groups))
    return Write(
        tenant=record.tenant,
        collection_id=record.collection_id,
        document_id=record.document_id,
        write_id=record.write_id,
        accepted_ms=record.accepted_unix_ms,
        collections_offset=record.collections_offset,
        content=content,
        traceparent=record.traceparent,
    )


@dataclass(frozen=True, slots=True)
class Source:
    """The documents record that an index record comes from."""

    partition: int
    offset: int
    write: Write
    held: bool
    """Whether progress must stay where it is (rule 4)."""


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where a partition's documents are done, as its last index record says."""

    offset: int
    """The last documents offset that is."""
    write_id: bytes = b""
    accepted_ms: int = 0
    held: bool = False


def encode_indexed(
    source: Source, content: Content, collection: CollectionSpec, parsed: Parsed, vectors: Vectors, content_hash: bytes
) -> bytes:
    """The index record of a document that is now searchable."""
    record = _about(source, collection)
    indexed = record.indexed
    indexed.title = content.title or parsed.title
    set_metadata(indexed.metadata, content.metadata)
    indexed.access_groups.extend(content.access_groups)
    indexed.content_hash = content_hash
    indexed.embedding_fingerprint = collection.embedding_fingerprint
    indexed.characters = parsed.characters
    for piece in parsed.pieces:
        indexed.chunks.add(text=piece.text, start=piece.start, end=piece.end, headings=piece.headings)
    indexed.vectors.data = vectors.data
    indexed.vectors.dimensions = vectors.dimensions
    indexed.vectors.count = vectors.count
    return record.SerializeToString()


def encode_deleted(source: Source, collection: CollectionSpec) -> bytes:
    """The index record of a deletion."""
    record = _about(source, collection)
    record.deleted.SetInParent()
    return record.SerializeToString()


def encode_rejected(source: Source, collection: CollectionSpec, why: DocumentRejected) -> bytes:
    """The index record of a document that cannot be made searchable."""
    record = _about(source, collection)
    record.rejected.CopyFrom(_rejection(source, why))
    return record.SerializeToString()


def encode_dead_letter(source: Source, why: DocumentRejected) -> bytes:
    """The record of `headwater.deadletters` beside it."""
    return log_pb2.DeadLetterRecord(
        schema_version=_SCHEMA_VERSION,
        tenant=source.write.tenant,
        collection_id=source.write.collection_id,
        document_id=source.write.document_id,
        partition=source.partition,
        documents_offset=source.offset,
        rejection=_rejection(source, why),
    ).SerializeToString()


def _rejection(source: Source, why: DocumentRejected) -> log_pb2.Rejection:
    """With the document's groups: that it is there is nobody else's business either."""
    groups = () if source.write.content is None else source.write.content.access_groups
    return log_pb2.Rejection(reason=why.reason, message=why.message, access_groups=groups)


def encode_progress(position: Position) -> bytes:
    """The index record that covers what needs none of its own."""
    return log_pb2.IndexRecord(
        schema_version=_SCHEMA_VERSION,
        documents_offset=position.offset,
        write_id=position.write_id,
        accepted_unix_ms=position.accepted_ms,
        progress_held=position.held,
        progress=log_pb2.Progress(),
    ).SerializeToString()


def decode_position(value: bytes) -> Position:
    """What an index record says of its partition."""
    record = log_pb2.IndexRecord.FromString(value)
    return Position(record.documents_offset, record.write_id, record.accepted_unix_ms, record.progress_held)


def _about(source: Source, collection: CollectionSpec) -> log_pb2.IndexRecord:
    return log_pb2.IndexRecord(
        schema_version=_SCHEMA_VERSION,
        tenant=source.write.tenant,
        collection_id=source.write.collection_id,
        generation=collection.generation,
        document_id=source.write.document_id,
        documents_offset=source.offset,
        write_id=source.write.write_id,
        accepted_unix_ms=source.write.accepted_ms,
        progress_held=source.held,
    )


def encode_collection(collection: CollectionSpec, *, retired: bool) -> bytes:
    """A record of `headwater.collections`."""
    return log_pb2.CollectionRecord(
        schema_version=_SCHEMA_VERSION, collection=collection_message(collection), retired=retired
    ).SerializeToString()


def collection_message(collection: CollectionSpec) -> common_pb2.Collection:
    """The collection as other services read it."""
    return common_pb2.Collection(
        name=collection.name,
        collection_id=collection.collection_id,
        tenant=collection.tenant,
        generation=collection.generation,
        created_unix_ms=collection.created_ms,
        settings=common_pb2.CollectionSettings(
            embedding_fingerprint=collection.embedding_fingerprint,
            max_chunk_tokens=collection.max_chunk_tokens,
            chunk_overlap_tokens=collection.chunk_overlap_tokens,
            spread=collection.spread,
        ),
    )


def collection_of(message: common_pb2.Collection) -> CollectionSpec:
    """The collection as this service reads it."""
    settings = message.settings
    return CollectionSpec(
        collection_id=message.collection_id,
        tenant=message.tenant,
        name=message.name,
        generation=message.generation,
        created_ms=message.created_unix_ms,
        spread=settings.spread,
        max_chunk_tokens=settings.max_chunk_tokens,
        chunk_overlap_tokens=settings.chunk_overlap_tokens,
        embedding_fingerprint=settings.embedding_fingerprint,
    )


def metadata_of(messages: Mapping[str, common_pb2.MetadataValue]) -> dict[str, MetadataValue | None]:
    """Metadata as plain values; None where a message says nothing."""
    return {key: _value_of(message) for key, message in messages.items()}


def _value_of(message: common_pb2.MetadataValue) -> MetadataValue | None:
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "number_value":
            return message.number_value
        case "bool_value":
            return message.bool_value
        case "string_list":
            return tuple(message.string_list.values)
        case _:
            return None


def set_metadata(
    messages: MutableMapping[str, common_pb2.MetadataValue], metadata: Mapping[str, MetadataValue | None]
) -> None:
    """The other way round."""
    for key, value in metadata.items():
        message = messages[key]
        match value:
            case bool():
                message.bool_value = value
            case str():
                message.string_value = value
            case tuple():
                message.string_list.SetInParent()
                message.string_list.values.extend(value)
            case float() | int():
                message.number_value = value
            case None:
                pass
