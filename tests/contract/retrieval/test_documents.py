"""GetDocuments, ListDocuments and GetStatus, through gRPC."""

import numpy as np
from headwater.common.v1 import common_pb2
from headwater.retrieval.v1 import retrieval_pb2

from tests.harness.retrieval import COLLECTION, IndexWriter, LocalShard

AXES = np.eye(4, dtype=np.float32)
INDEXED = common_pb2.DOCUMENT_STATE_INDEXED
REJECTED = common_pb2.DOCUMENT_STATE_REJECTED
DELETED = common_pb2.DOCUMENT_STATE_DELETED
UNKNOWN = common_pb2.DOCUMENT_STATE_UNKNOWN


def scope(tenant: str = "acme", *groups: str) -> common_pb2.Scope:
    return common_pb2.Scope(tenant=tenant, collection_id=COLLECTION, access_groups=groups)


async def test_each_document_is_told_with_its_state_in_the_order_asked(writer: IndexWriter, shard: LocalShard) -> None:
    token = await writer.put("a", AXES[:2], title="A", groups=[])
    await writer.put("b", AXES[:1])
    await writer.delete("b")
    await writer.put("c", AXES[:1])
    await writer.reject("c", "PDF_ENCRYPTED")

    response = await shard.stub.GetDocuments(
        retrieval_pb2.GetDocumentsRequest(scope=scope(), document_ids=["c", "x", "b", "a"], after=writer.token())
    )

    states = [(document.document_id, document.state) for document in response.documents]
    assert states == [("c", REJECTED), ("x", UNKNOWN), ("b", DELETED), ("a", INDEXED)]
    rejected, _, deleted, indexed = response.documents
    assert (rejected.reason, rejected.chunks, deleted.chunks, deleted.title) == ("PDF_ENCRYPTED", 0, 0, "")
    ((partition, offset),) = token.documents_offsets.items()
    assert indexed == common_pb2.DocumentStatus(
        document_id="a",
        state=INDEXED,
        title="A",
        chunks=2,
        characters=6,
        version=offset,
        partition=partition,
        write_id=offset.to_bytes(16, "little"),
        content_hash=b"hash",
    )
    assert response.log_id == writer.log.log_id
    assert [progress.partition for progress in response.progress] == [0, 1, 2, 3]


async def test_documents_that_may_not_be_seen_are_unknown(writer: IndexWriter, shard: LocalShard) -> None:
    await writer.put("secret", AXES[:1], groups=["hr", "law"])

    async def state(who: common_pb2.Scope, any_access_group: bool = False) -> common_pb2.DocumentState.ValueType:
        request = retrieval_pb2.GetDocumentsRequest(
            scope=who, document_ids=["secret"], after=writer.token(), any_access_group=any_access_group
        )
        return (await shard.stub.GetDocuments(request)).documents[0].state

    assert await state(scope()) == UNKNOWN
    assert await state(scope("acme", "it")) == UNKNOWN
    assert await state(scope("other", "hr"), any_access_group=True) == UNKNOWN
    assert await state(scope("acme", "it", "law")) == INDEXED
    assert await state(scope(), any_access_group=True) == INDEXED


async def test_pages_follow_each_other_by_id_without_what_may_not_be_seen(
    writer: IndexWriter, shard: LocalShard
) -> None:
    for number in range(7):
        await writer.put(f"d{number}", AXES[:1], groups=["hr"] if number == 3 else [])
    await writer.reject("d5")
    await writer.delete("d6")
    pages, last = [], ""
    while True:
        response = await shard.stub.ListDocuments(
            retrieval_pb2.ListDocumentsRequest(scope=scope(), page_size=2, after_document_id=last, after=writer.token())
        )
        if not response.documents:
            break
        pages.append([document.document_id for document in response.documents])
        last = pages[-1][-1]

    assert pages == [["d0", "d1"], ["d2", "d4"], ["d5"]]


async def test_one_state_alone_can_be_listed(writer: IndexWriter, shard: LocalShard) -> None:
    await writer.put("a", AXES[:1])
    await writer.reject("b")
    await writer.delete("c")

    async def ids(state: common_pb2.DocumentState.ValueType, tenant: str = "acme") -> list[str]:
        request = retrieval_pb2.ListDocumentsRequest(scope=scope(tenant), state=state, after=writer.token())
        return [document.document_id for document in (await shard.stub.ListDocuments(request)).documents]

    assert await ids(INDEXED) == ["a"]
    assert await ids(REJECTED) == ["b"]
    assert await ids(DELETED) == ["c"]
    assert await ids(UNKNOWN) == []
    assert await ids(common_pb2.DOCUMENT_STATE_UNSPECIFIED, "other") == []


async def test_status_counts_a_collection_or_the_whole_shard(writer: IndexWriter, shard: LocalShard) -> None:
    await writer.put("a", AXES[:3])
    await writer.reject("b")
    token = await writer.put("a", AXES[:2], collection_id="f" * 32)
    await shard.stub.GetDocuments(retrieval_pb2.GetDocumentsRequest(scope=scope(), document_ids=["a"], after=token))
    await shard.stub.GetDocuments(
        retrieval_pb2.GetDocumentsRequest(scope=scope(), document_ids=["a"], after=writer.token())
    )

    whole = await shard.stub.GetStatus(retrieval_pb2.GetStatusRequest())
    one = await shard.stub.GetStatus(retrieval_pb2.GetStatusRequest(scope=scope()))

    assert (whole.shard, whole.shards, whole.partitions, whole.ready, whole.problem) == (0, 1, 4, True, "")
    assert (whole.documents, whole.rejected, whole.chunks) == (2, 1, 5)
    assert (one.documents, one.rejected, one.chunks) == (1, 1, 3)
    assert whole.log_id == writer.log.log_id
    assert [progress.partition for progress in whole.progress] == [0, 1, 2, 3]


async def test_a_document_whose_vectors_cannot_be_compared_is_rejected_with_the_reason(
    writer: IndexWriter, shard: LocalShard
) -> None:
    await writer.put("a", AXES[:1])
    await writer.put("b", AXES[:1], fingerprint="model-2")

    response = await shard.stub.GetDocuments(
        retrieval_pb2.GetDocumentsRequest(scope=scope(), document_ids=["a", "b"], after=writer.token())
    )

    assert [document.state for document in response.documents] in ([INDEXED, REJECTED], [REJECTED, INDEXED])
    assert any(document.reason.startswith("EMBEDDING_MISMATCH") for document in response.documents)
