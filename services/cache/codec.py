"""Entries and announcements as bytes: protobuf behind a checksum. The only work module here that knows these protos."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message
from headwater.cache.v1 import cache_pb2, entry_pb2
from headwater.common.v1 import common_pb2
from xxhash import xxh3_64_digest

from .entries import Candidate, Event, Header, Invalidated, Released, Stored
from .errors import Corrupt

_CHECKSUM_BYTES = 8
_FLOAT_BYTES = 4


def encode_entry(header: Header, payload: bytes) -> bytes:
    """An entry as it lies in the store."""
    return _seal(entry_pb2.StoredEntry(header=_header_to_proto(header), payload=payload))


def decode_entry(data: bytes) -> tuple[Header, bytes]:
    """The entry and its answer; raises Corrupt."""
    message = entry_pb2.StoredEntry()
    _unseal(data, message)
    return _header_from_proto(message.header), message.payload


def encode_event(event: Event) -> bytes:
    """An announcement to peers."""
    match event:
        case Stored(header):
            message = entry_pb2.Announcement(stored=_header_to_proto(header))
        case Released(key_hash):
            message = entry_pb2.Announcement(released_key_hash=key_hash)
        case Invalidated(collection_id):
            message = entry_pb2.Announcement(invalidated_collection_id=collection_id)
    return _seal(message)


def decode_event(data: bytes) -> Event:
    """What a peer announced; raises Corrupt."""
    message = entry_pb2.Announcement()
    _unseal(data, message)
    match message.WhichOneof("event"):
        case "stored":
            return Stored(_header_from_proto(message.stored))
        case "released_key_hash":
            return Released(message.released_key_hash)
        case "invalidated_collection_id":
            return Invalidated(message.invalidated_collection_id)
        case _:
            raise Corrupt("an announcement of an unknown kind")


def _seal(message: Message) -> bytes:
    body = message.SerializeToString()
    return xxh3_64_digest(body) + body


def _unseal(data: bytes, message: Message) -> None:
    checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if xxh3_64_digest(body) != checksum:
        raise Corrupt("the checksum of what was stored does not match")
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise Corrupt("what was stored is not the message it should be") from error


def _header_to_proto(header: Header) -> entry_pb2.EntryHeader:
    dimensions = len(header.question_vector) // _FLOAT_BYTES
    return entry_pb2.EntryHeader(
        entry_id=header.entry_id,
        key_hash=header.key_hash,
        collection_id=header.collection_id,
        log_id=header.log_id,
        progress=[
            common_pb2.PartitionProgress(partition=partition, index_offset=index_offset)
            for partition, index_offset in header.index_offsets.items()
        ],
        candidates=[
            cache_pb2.Candidate(document_id=candidate.document_id, score=candidate.score)
            for candidate in header.candidates
        ],
        dense_cutoff=header.dense_cutoff,
        lexical_cutoff=header.lexical_cutoff,
        question_vector=common_pb2.Vectors(
            data=header.question_vector, dimensions=dimensions, count=1 if dimensions else 0
        ),
        stored_unix_ms=header.stored_unix_ms,
    )


def _header_from_proto(message: entry_pb2.EntryHeader) -> Header:
    return Header(
        entry_id=message.entry_id,
        key_hash=message.key_hash,
        collection_id=message.collection_id,
        log_id=message.log_id,
        index_offsets={progress.partition: progress.index_offset for progress in message.progress},
        candidates=tuple(Candidate(candidate.document_id, candidate.score) for candidate in message.candidates),
        dense_cutoff=message.dense_cutoff,
        lexical_cutoff=message.lexical_cutoff,
        question_vector=message.question_vector.data,
        stored_unix_ms=message.stored_unix_ms,
    )
