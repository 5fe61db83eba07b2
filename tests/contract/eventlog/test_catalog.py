"""The catalog follows the collections of any log."""

import asyncio
import uuid

import pytest
from headwater.common.v1.common_pb2 import Collection
from headwater.log.v1.log_pb2 import CollectionRecord

from serving.errors import DeadlineExceeded
from serving.eventlog import EventLog, Topic
from serving.eventlog.catalog import Catalog


def collection(name: str, tenant: str = "tenant") -> Collection:
    return Collection(name=name, tenant=tenant, collection_id=uuid.uuid4().hex, generation=1)


async def write(log: EventLog, *collections: Collection, retired: bool = False) -> int:
    owned = await log.take(Topic.COLLECTIONS, 0)
    offsets = await owned.append(
        [
            (
                each.collection_id.encode(),
                CollectionRecord(schema_version=1, collection=each, retired=retired).SerializeToString(),
            )
            for each in collections
        ]
    )
    await owned.close()
    return offsets[-1]


async def test_entering_reads_all_that_is_there(log: EventLog) -> None:
    handbook, other = collection("handbook"), collection("handbook", "other")
    offset = await write(log, handbook, other)
    async with Catalog(log) as catalog:
        assert catalog.applied > offset
        assert catalog.by_name("tenant", "handbook") == handbook
        assert catalog.by_name("other", "handbook") == other
        assert catalog.by_name("third", "handbook") is None
        assert catalog.by_id(handbook.collection_id) == handbook
        assert catalog.list("tenant") == [handbook]


async def test_a_collection_created_later_is_waited_for(log: EventLog) -> None:
    async with Catalog(log) as catalog:
        changed = asyncio.create_task(catalog.changed())
        handbook = collection("handbook")
        offset = await write(log, handbook)
        await catalog.wait_for(offset, 30)
        assert catalog.by_name("tenant", "handbook") == handbook
        await changed


async def test_nothing_is_waited_for_at_offset_zero(log: EventLog) -> None:
    async with Catalog(log) as catalog:
        await catalog.wait_for(0, 0.0)


async def test_waiting_for_what_does_not_come_ends_at_the_deadline(log: EventLog) -> None:
    async with Catalog(log) as catalog:
        with pytest.raises(DeadlineExceeded):
            await catalog.wait_for(catalog.applied, 0.05)


async def test_a_name_created_anew_shows_nothing_of_its_former_life(log: EventLog) -> None:
    former, anew = collection("handbook"), collection("handbook")
    await write(log, former)
    async with Catalog(log) as catalog:
        await write(log, former, retired=True)
        offset = await write(log, anew)
        await catalog.wait_for(offset, 30)
        assert catalog.by_name("tenant", "handbook") == anew
        assert catalog.by_id(former.collection_id) is None
        assert catalog.is_retired(former.collection_id)
        assert not catalog.is_retired(anew.collection_id)
        assert catalog.retired() == {former.collection_id}


async def test_a_retired_collection_stays_retired_whatever_comes_late(log: EventLog) -> None:
    handbook = collection("handbook")
    await write(log, handbook)
    await write(log, handbook, retired=True)
    await write(log, handbook)
    async with Catalog(log) as catalog:
        assert catalog.by_name("tenant", "handbook") is None
        assert catalog.list("tenant") == []
