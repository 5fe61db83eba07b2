"""What became of documents: one, a page, or each as it is known."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from heapq import merge
from typing import Protocol

from serving import deadlines
from serving.errors import ErrorCode, HeadwaterError, InvalidArgument, NotFound
from serving.eventlog.keys import partition_of
from serving.limits import MAX_PAGE_SIZE

from .authentication import Caller
from .resolver import Resolver
from .retriever import Fanout
from .streams import drained
from .values import Collection, Coverage, Document, DocumentState, Scope, WriteToken

_TOLD = {DocumentState.INDEXED, DocumentState.REJECTED, DocumentState.DELETED}
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5
# One question to a shard waits no longer than this, so that a shard that was replaced meanwhile is found.
_WATCH_SECONDS = 30.0
_PASSING = {ErrorCode.UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.RESOURCE_EXHAUSTED}


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of a collection a shard holds."""

    documents: int
    chunks: int
    rejected: int


class DocumentShard(Protocol):
    """One shard of the index, as far as documents go."""

    async def get_documents(
        self, scope: Scope, document_ids: Sequence[str], after: WriteToken | None, timeout_seconds: float
    ) -> Sequence[Document]:
        """One an id, in order, once `after` is applied; those that may not be seen are unknown."""
        ...

    async def list_documents(
        self,
        scope: Scope,
        after_document_id: str,
        page_size: int,
        state: DocumentState,
        after: WriteToken | None,
        timeout_seconds: float,
    ) -> Sequence[Document]:
        """The first documents with ids above that one, by id."""
        ...

    async def count(self, scope: Scope, timeout_seconds: float) -> Counts:
        """How much of the collection it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A page of documents by id. `next_page_token` is empty on the last."""

    documents: tuple[Document, ...]
    next_page_token: str
    coverage: Coverage


class Documents:
    """Asks the shards that own the documents."""

    def __init__(self, resolver: Resolver, fanout: Fanout[DocumentShard], partitions: int) -> None:
        self._resolver = resolver
        self._fanout = fanout
        self._partitions = partitions

    async def get(self, caller: Caller, collection_name: str, document_id: str, after: WriteToken | None) -> Document:
        """One document. Raises NotFound for one that is not there, or may not be seen."""
        collection = await self._resolver.resolve(caller, collection_name, after)

        async def ask(
            shard: DocumentShard, _: Sequence[int], token: WriteToken | None, seconds: float
        ) -> Sequence[Document]:
            return await shard.get_documents(collection.scope, [document_id], token, seconds)

        gathered = await self._fanout.gather([self._partition(collection, document_id)], after, ask)
        document = gathered.answers[0][0]
        if document.state in (DocumentState.UNKNOWN, DocumentState.DELETED):
            raise NotFound(
                "the collection has no such document that you may see", reason="DOCUMENT_NOT_FOUND", field="document_id"
            )
        return document

    async def list(
        self,
        caller: Caller,
        collection_name: str,
        *,
        page_size: int,
        page_token: str,
        state: DocumentState,
        after: WriteToken | None,
    ) -> Page:
        """The next documents by id, of all shards."""
        after_id = _decode_page_token(page_token)
        collection = await self._resolver.resolve(caller, collection_name, after)

        # One more than the page, to know whether there is another.
        limit = min(page_size + 1, MAX_PAGE_SIZE)

        async def ask(
            shard: DocumentShard, _: Sequence[int], token: WriteToken | None, seconds: float
        ) -> Sequence[Document]:
            return await shard.list_documents(collection.scope, after_id, limit, state, token, seconds)

        gathered = await self._fanout.gather(collection.partitions, after, ask)
        merged = list(merge(*gathered.answers, key=lambda document: document.document_id))
        page = tuple(merged[:page_size])
        more = len(merged) > page_size or (limit == page_size and any(len(one) == limit for one in gathered.answers))
        return Page(page, _encode_page_token(page[-1].document_id) if more else "", gathered.coverage)

    async def count(self, collection: Collection) -> tuple[Counts, Coverage]:
        """How much the collection holds, and of which partitions that is."""

        async def ask(shard: DocumentShard, _: Sequence[int], __: WriteToken | None, seconds: float) -> Counts:
            return await shard.count(collection.scope, seconds)

        gathered = await self._fanout.gather(collection.partitions, None, ask)
        counts = gathered.answers
        total = Counts(
            sum(one.documents for one in counts), sum(one.chunks for one in counts), sum(one.rejected for one in counts)
        )
        return total, gathered.coverage

    async def watch(
        self, caller: Caller, collection_name: str, document_ids: Sequence[str], after: WriteToken | None
    ) -> AsyncGenerator[Document, None]:
        """Each document once, when its partition has applied the token; without a token for its partition, when
        anything is known of it. One that is unknown even then (refused, or not to be seen) is told as that."""
        collection = await self._resolver.resolve(caller, collection_name, after)
        by_partition: dict[int, list[str]] = {}
        for document_id in dict.fromkeys(document_ids):
            by_partition.setdefault(self._partition(collection, document_id), []).append(document_id)
        told: asyncio.Queue[Document] = asyncio.Queue(MAX_PAGE_SIZE)

        async def watch_all() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for partition, ids in by_partition.items():
                        group.create_task(self._watch_partition(collection, partition, ids, after, told))
            except* HeadwaterError as errors:
                raise errors.exceptions[0] from None

        async with aclosing(drained(told, watch_all())) as documents:
            async for document in documents:
                yield document

    async def _watch_partition(
        self,
        collection: Collection,
        partition: int,
        document_ids: Sequence[str],
        after: WriteToken | None,
        told: asyncio.Queue[Document],
    ) -> None:
        token = after.only([partition]) if after else None
        shard = self._fanout.shards[self._fanout.owner(partition)]
        waiting = list(document_ids)
        pause = _FIRST_PAUSE_SECONDS
        while waiting:
            asked, rest = waiting[:MAX_PAGE_SIZE], waiting[MAX_PAGE_SIZE:]
            still: list[str] = []
            try:
                documents = await shard.get_documents(collection.scope, asked, token, deadlines.budget(_WATCH_SECONDS))
            except HeadwaterError as error:
                if error.code not in _PASSING:
                    raise
                still = asked
            else:
                for document in documents:
                    if token is not None or document.state in _TOLD:
                        await told.put(document)
                    else:
                        still.append(document.document_id)
            waiting = still + rest if token is not None else rest + still
            if still:
                await asyncio.sleep(min(pause, max(deadlines.remaining(), 0)))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _partition(self, collection: Collection, document_id: str) -> int:
        return partition_of(
            collection.scope.collection_id, document_id, spread=collection.spread, partitions=self._partitions
        )


def _encode_page_token(document_id: str) -> str:
    return base64.urlsafe_b64encode(b"\x01" + document_id.encode()).rstrip(b"=").decode()


def _decode_page_token(token: str) -> str:
    if not token:
        return ""
    try:
        data = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        if data[:1] != b"\x01":
            raise ValueError("another version")
        return data[1:].decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument("not a page token: pass it as the page before returned it", field="page_token") from error
