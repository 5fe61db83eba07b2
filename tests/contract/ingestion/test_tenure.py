"""What an owner makes of a partition, on either log."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from headwater.log.v1 import log_pb2

from services.ingestion import records
from services.ingestion.errors import LogDisagrees
from services.ingestion.newest import Word
from services.ingestion.records import Position
from serving.errors import FailedPrecondition, InvalidArgument, Unavailable
from serving.eventlog import Fenced, Topic
from serving.eventlog.keys import PROGRESS_KEY, document_key
from tests.harness.eventlog import now_ms, read_all
from tests.harness.ingestion import Bench, until, vector_of


def outcomes(index: Sequence[log_pb2.IndexRecord]) -> list[tuple[str, str]]:
    return [(record.document_id, record.WhichOneof("outcome") or "") for record in index]


async def test_a_document_becomes_one_record_with_its_chunks_and_vectors(ingestion: Bench) -> None:
    landed = await ingestion.put(
        "one", "words of it", title="Title", metadata={"team": "hr", "n": 2.0}, access_groups=("g",)
    )
    async with ingestion.owner(landed.partition) as owner:
        await owner.done(landed)

    (record,) = await ingestion.index(landed.partition)
    assert record.documents_offset == landed.offset
    assert (record.tenant, record.collection_id) == ("tenant", ingestion.collection.collection_id)
    assert record.indexed.title == "Title"
    assert record.indexed.metadata["team"].string_value == "hr"
    assert list(record.indexed.access_groups) == ["g"]
    assert [(chunk.text, chunk.start, chunk.end) for chunk in record.indexed.chunks] == [("words of it", 0, 11)]
    assert record.indexed.vectors.data == vector_of("words of it")
    assert record.indexed.embedding_fingerprint == ingestion.collection.embedding_fingerprint


async def test_what_is_embedded_is_the_chunk_and_nothing_else(ingestion: Bench) -> None:
    landed = await ingestion.put("one", "words of it")
    async with ingestion.owner(landed.partition) as owner:
        await owner.done(landed)

    assert ingestion.embedder.texts == ["words of it"]


async def test_records_keep_the_order_of_the_log_whatever_takes_longer(ingestion: Bench) -> None:
    async def at_random(texts: Sequence[str]) -> AsyncIterator[None]:
        await asyncio.sleep(random.uniform(0, 0.05))
        yield

    ingestion.embedder.before = at_random
    landed = [await ingestion.put(f"d{number % 40}", f"text {number}") for number in range(120)]
    landed += [await ingestion.delete(f"d{number}") for number in range(0, 40, 2)]

    for partition in range(ingestion.log.partitions):
        mine = [one for one in landed if one.partition == partition]
        async with ingestion.owner(partition) as owner:
            await owner.done(mine[-1])
        offsets = [record.documents_offset for record in await ingestion.index(partition)]
        assert offsets == [one.offset for one in mine]


async def test_a_rejected_document_leaves_a_reason_and_a_dead_letter_and_the_partition_goes_on(
    ingestion: Bench,
) -> None:
    bad = await ingestion.put("bad", content_type="application/pdf", body=b"no PDF: canary", access_groups=("g",))
    good = await ingestion.put("bad", "better")
    async with ingestion.owner(bad.partition) as owner:
        await owner.done(good)

    first, second = await ingestion.index(bad.partition)
    assert first.rejected.reason == "PDF_DAMAGED"
    assert first.rejected.message
    assert list(first.rejected.access_groups) == ["g"]
    assert second.WhichOneof("outcome") == "indexed"
    (letter,) = await read_all(ingestion.log, Topic.DEADLETTERS, 0)
    assert letter.value is not None
    dead = log_pb2.DeadLetterRecord.FromString(letter.value)
    assert (dead.document_id, dead.partition, dead.documents_offset) == ("bad", bad.partition, bad.offset)
    assert (dead.rejection.reason, list(dead.rejection.access_groups)) == ("PDF_DAMAGED", ["g"])
    assert b"canary" not in letter.value


@pytest.mark.parametrize("error", [Unavailable("down"), FailedPrecondition("another model")])
async def test_a_dependency_that_fails_is_waited_for_and_nothing_is_rejected(
    ingestion: Bench, error: Exception
) -> None:
    failures = [error] * 3

    async def failing(texts: Sequence[str]) -> AsyncIterator[None]:
        if failures:
            raise failures.pop()
        yield

    ingestion.embedder.before = failing
    landed = await ingestion.put("one")
    async with ingestion.owner(landed.partition) as owner:
        await owner.done(landed)

    assert not failures
    assert outcomes(await ingestion.index(landed.partition)) == [("one", "indexed")]


async def test_text_that_the_embedder_refuses_is_the_documents_own_fault(ingestion: Bench) -> None:
    async def refusing(texts: Sequence[str]) -> AsyncIterator[None]:
        raise InvalidArgument("no such text")
        yield

    ingestion.embedder.before = refusing
    landed = await ingestion.put("one")
    async with ingestion.owner(landed.partition) as owner:
        await owner.done(landed)

    (record,) = await ingestion.index(landed.partition)
    assert record.rejected.reason == "EMBEDDING_REFUSED"


class TestUnchanged:
    async def test_the_same_content_again_is_progress_alone(self, ingestion: Bench) -> None:
        await ingestion.put("one", "same")
        again = await ingestion.put("one", "same")
        async with ingestion.owner(again.partition) as owner:
            await owner.done(again)

        index = await ingestion.index(again.partition)
        assert outcomes(index) == [("one", "indexed"), ("", "progress")]
        assert index[-1].documents_offset == again.offset
        assert ingestion.embedder.texts == ["same"]

    @pytest.mark.parametrize(
        "change",
        [{"title": "t"}, {"metadata": {"a": "b"}}, {"access_groups": ("g",)}, {"content_type": "text/markdown"}],
    )
    async def test_any_field_that_differs_is_a_change(self, ingestion: Bench, change: dict[str, object]) -> None:
        await ingestion.put("one", "same")
        again = await ingestion.put("one", "same", **change)
        async with ingestion.owner(again.partition) as owner:
            await owner.done(again)

        assert [kind for _, kind in outcomes(await ingestion.index(again.partition))] == ["indexed", "indexed"]

    async def test_it_races_a_change_that_is_not_applied_yet(self, ingestion: Bench) -> None:
        """A, then B, then A: the last is no repetition of the first, however far B has come."""
        may_go = asyncio.Event()

        async def holding_b(texts: Sequence[str]) -> AsyncIterator[None]:
            if texts == ["B"]:
                await may_go.wait()
            yield

        ingestion.embedder.before = holding_b
        async with ingestion.owner(ingestion.partition("one")) as owner:
            await owner.done(await ingestion.put("one", "A"))
            await ingestion.put("one", "B")
            last = await ingestion.put("one", "A")
            await asyncio.sleep(0)
            may_go.set()
            await owner.done(last)

        index = await ingestion.index(last.partition)
        assert [record.indexed.chunks[0].text for record in index] == ["A", "B", "A"]

    async def test_a_deletion_between_makes_it_a_change(self, ingestion: Bench) -> None:
        await ingestion.put("one", "A")
        await ingestion.delete("one")
        last = await ingestion.put("one", "A")
        async with ingestion.owner(last.partition) as owner:
            await owner.done(last)

        assert [kind for _, kind in outcomes(await ingestion.index(last.partition))] == [
            "indexed",
            "deleted",
            "indexed",
        ]

    async def test_a_new_owner_believes_a_shard_only_if_it_has_applied_all_that_was_there(
        self, ingestion: Bench
    ) -> None:
        first = await ingestion.put("one", "A")
        async with ingestion.owner(first.partition) as owner:
            await owner.done(first)
        (record,) = await ingestion.index(first.partition)
        _, end = await ingestion.log.bounds(Topic.INDEX, first.partition)

        ingestion.shard.word = Word({"one": record.indexed.content_hash}, 0)
        async with ingestion.owner(first.partition) as owner:
            await owner.done(await ingestion.put("one", "A"))
        assert [kind for _, kind in outcomes(await ingestion.index(first.partition))] == ["indexed", "indexed"]

        _, end = await ingestion.log.bounds(Topic.INDEX, first.partition)
        # far enough for any markers that taking over leaves
        ingestion.shard.word = Word({"one": record.indexed.content_hash}, end + 100)
        async with ingestion.owner(first.partition) as owner:
            await owner.done(await ingestion.put("one", "A"))
        assert outcomes(await ingestion.index(first.partition))[-1] == ("", "progress")


class TestTakingOver:
    async def test_the_next_owner_goes_on_where_the_index_ends(self, ingestion: Bench) -> None:
        landed = [await ingestion.put("one", f"text {number}") for number in range(3)]
        async with ingestion.owner(landed[0].partition) as owner:
            await owner.done(landed[-1])
        landed += [await ingestion.put("one", f"text {number}") for number in range(3, 6)]
        async with ingestion.owner(landed[0].partition) as owner:
            await owner.done(landed[-1])

        offsets = [record.documents_offset for record in await ingestion.index(landed[0].partition)]
        assert offsets == [one.offset for one in landed]
        assert len(ingestion.embedder.texts) == 6

    async def test_a_fenced_owner_appends_nothing_more(self, ingestion: Bench) -> None:
        may_go = asyncio.Event()

        async def holding_a(texts: Sequence[str]) -> AsyncIterator[None]:
            if texts == ["A"]:
                await may_go.wait()
            yield

        ingestion.embedder.before = holding_a
        first = await ingestion.put("one", "A")
        async with ingestion.owner(first.partition) as stalled:
            await until(lambda: ingestion.embedder.asked > 0)
            ingestion.embedder.before = None
            async with ingestion.owner(first.partition) as newer:
                await newer.done(await ingestion.delete("one"))
                may_go.set()
                with pytest.raises(Fenced):
                    await stalled.task

        assert [kind for _, kind in outcomes(await ingestion.index(first.partition))] == ["indexed", "deleted"]

    async def test_it_refuses_an_index_made_from_other_documents(self, ingestion: Bench) -> None:
        landed = await ingestion.put("one")
        owned = await ingestion.log.take(Topic.INDEX, landed.partition)
        await owned.append([(PROGRESS_KEY, records.encode_progress(Position(landed.offset, bytes(16), now_ms())))])
        await owned.close()

        with pytest.raises(LogDisagrees):
            await ingestion.tenure(landed.partition).run()

    async def test_it_refuses_an_index_that_is_ahead_of_the_documents(self, ingestion: Bench) -> None:
        owned = await ingestion.log.take(Topic.INDEX, 0)
        await owned.append([(PROGRESS_KEY, records.encode_progress(Position(1000, bytes(16), now_ms())))])
        await owned.close()

        with pytest.raises(LogDisagrees):
            await ingestion.tenure(0).run()

    async def test_an_owner_past_compaction_holds_progress_until_the_end_it_saw(self, ingestion: Bench) -> None:
        ingestion.limits = replace(ingestion.limits, compaction_seconds=0.001)
        landed = [await ingestion.put("one", f"text {number}") for number in range(5)]
        async with ingestion.owner(landed[0].partition) as owner:
            await owner.done(landed[-1])

        held = [record.progress_held for record in await ingestion.index(landed[0].partition)]
        assert held == [True] * 4 + [False]


class TestRetiredCollections:
    async def test_their_keys_are_nulled_in_index_and_documents_and_a_progress_record_ends_it(
        self, ingestion: Bench
    ) -> None:
        landed = await ingestion.put("one", "canary")
        async with ingestion.owner(landed.partition) as owner:
            await owner.done(landed)
            await ingestion.registry.delete("tenant", ingestion.collection.collection_id)
            async with asyncio.timeout(30):
                while True:
                    if await ingestion.nulls(Topic.DOCUMENTS, landed.partition):
                        break
                    await asyncio.sleep(0.01)

        (index_null,) = await ingestion.nulls(Topic.INDEX, landed.partition)
        assert index_null.key.startswith(ingestion.collection.collection_id.encode())
        (document_null,) = await ingestion.nulls(Topic.DOCUMENTS, landed.partition)
        assert document_null.key == document_key(ingestion.collection.collection_id, "one")
        newest = (await read_all(ingestion.log, Topic.INDEX, landed.partition))[-1]
        assert newest.key == PROGRESS_KEY

    async def test_a_document_in_flight_when_its_collection_is_deleted_leaves_nothing(self, ingestion: Bench) -> None:
        may_go = asyncio.Event()

        async def holding(texts: Sequence[str]) -> AsyncIterator[None]:
            await may_go.wait()
            yield

        ingestion.embedder.before = holding
        landed = await ingestion.put("one", "canary")
        async with ingestion.owner(landed.partition) as owner:
            await until(lambda: ingestion.embedder.asked > 0)
            await ingestion.registry.delete("tenant", ingestion.collection.collection_id)
            await until(lambda: ingestion.catalog.is_retired(ingestion.collection.collection_id))
            may_go.set()
            await owner.done(landed)

        # the null that erases it from the documents may be covered already, by a progress record of its own
        assert set(outcomes(await ingestion.index(landed.partition))) == {("", "progress")}

    async def test_one_whose_model_is_gone_does_not_stop_the_partition_for_ever(self, ingestion: Bench) -> None:
        async def failing(texts: Sequence[str]) -> AsyncIterator[None]:
            raise FailedPrecondition("another model")
            yield

        ingestion.embedder.before = failing
        landed = await ingestion.put("one")
        async with ingestion.owner(landed.partition) as owner:
            await until(lambda: ingestion.embedder.asked > 0)
            await ingestion.registry.delete("tenant", ingestion.collection.collection_id)
            await owner.done(landed)

        assert outcomes(await ingestion.index(landed.partition))[0] == ("", "progress")
