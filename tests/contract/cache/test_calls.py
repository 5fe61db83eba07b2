"""The service's calls over gRPC, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from headwater.cache.v1 import cache_pb2, cache_pb2_grpc
from headwater.common.v1 import common_pb2

from services.cache.servicer import CacheServicer
from services.cache.settings import CacheSettings
from serving.errors import ErrorCode, HeadwaterError
from serving.eventlog import LogSettings
from serving.server import Registration, Server, ServerSettings
from serving.status import from_rpc_error
from tests.harness.cache import COLLECTION, PARTITIONS, CacheWorld

SCOPE = common_pb2.Scope(tenant="acme", collection_id=COLLECTION, access_groups=["hr"])
KEY = cache_pb2.CacheKey(scope=SCOPE, generation=1, question="how much leave?", model="m", parameters=b"k=5")


class Service:
    """A stub and what stands behind it."""

    def __init__(self, stub: cache_pb2_grpc.CacheServiceAsyncStub, world: CacheWorld) -> None:
        self.stub = stub
        self.world = world

    async def lookup(self, key: cache_pb2.CacheKey = KEY) -> cache_pb2.LookupResponse:
        return await self.stub.Lookup(cache_pb2.LookupRequest(key=key, partitions=PARTITIONS), timeout=20)

    async def store(self, lease_id: bytes, payload: bytes = b"25 days") -> cache_pb2.StoreResponse:
        offsets = await self.world.writer.index_offsets()
        progress = [common_pb2.PartitionProgress(partition=p, index_offset=offset) for p, offset in offsets.items()]
        request = cache_pb2.StoreRequest(
            key=KEY,
            lease_id=lease_id,
            answer=cache_pb2.CachedAnswer(payload=payload),
            candidates=[cache_pb2.Candidate(document_id="leave", score=0.5)],
            progress=progress,
            log_id=self.world.log.log_id,
        )
        return await self.stub.Store(request, timeout=20)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    log = LogSettings(path=tmp_path / "log.sqlite3", partitions=2)
    async with CacheWorld(log, CacheSettings(engine="fake")) as world:
        process = await world.start()
        registration = Registration(
            cache_pb2_grpc.add_CacheServiceServicer_to_server,
            CacheServicer(process.answers, process.admissions),
            "headwater.cache.v1.CacheService",
        )
        settings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0)
        async with (
            Server("cache", settings, registration) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            yield Service(cache_pb2_grpc.CacheServiceStub(channel), world)


def refusal(error: grpc.RpcError) -> HeadwaterError:
    assert isinstance(error, grpc.aio.AioRpcError)
    return from_rpc_error(error)


async def test_miss_store_hit(service: Service) -> None:
    missed = await service.lookup()
    assert missed.miss_reason == cache_pb2.MISS_REASON_ABSENT
    assert len(missed.lease_id) == 16
    assert not missed.HasField("answer")
    assert (await service.store(missed.lease_id)).stored
    found = await service.lookup()
    assert found.answer.payload == b"25 days"
    assert found.miss_reason == cache_pb2.MISS_REASON_UNSPECIFIED
    assert found.age_ms >= 0
    assert found.lease_id == b""


async def test_filter_is_part_of_the_key(service: Service) -> None:
    missed = await service.lookup()
    await service.store(missed.lease_id)
    filtered = cache_pb2.CacheKey()
    filtered.CopyFrom(KEY)
    filtered.filter.exists.field = "team"
    assert not (await service.lookup(filtered)).HasField("answer")


async def test_a_caller_that_names_its_lease_can_give_it_back_without_the_reply(service: Service) -> None:
    mine = bytes(range(16))
    request = cache_pb2.LookupRequest(key=KEY, partitions=PARTITIONS, lease_id=mine)
    assert (await service.stub.Lookup(request, timeout=20)).lease_id == mine
    assert (await service.lookup()).lease_id == b""
    await service.stub.Release(cache_pb2.ReleaseRequest(key=KEY, lease_id=mine))
    assert (await service.lookup()).lease_id not in (b"", mine)


async def test_a_lease_id_of_another_length_is_refused(service: Service) -> None:
    request = cache_pb2.LookupRequest(key=KEY, partitions=PARTITIONS, lease_id=b"short")
    with pytest.raises(grpc.RpcError) as caught:
        await service.stub.Lookup(request, timeout=20)
    error = refusal(caught.value)
    assert (error.code, error.field) == (ErrorCode.INVALID_ARGUMENT, "lease_id")


async def test_released_lease_is_free(service: Service) -> None:
    missed = await service.lookup()
    assert (await service.lookup()).lease_id == b""
    await service.stub.Release(cache_pb2.ReleaseRequest(key=KEY, lease_id=missed.lease_id))
    assert (await service.lookup()).lease_id != b""


async def test_refused_offer_says_why(service: Service) -> None:
    response = await service.store(b"no lease of anybody")
    assert not response.stored
    assert "lease" in response.reason


async def test_invalidation_and_statistics(service: Service) -> None:
    missed = await service.lookup()
    await service.store(missed.lease_id)
    await service.lookup()
    statistics = await service.stub.GetStatistics(cache_pb2.GetStatisticsRequest())
    assert (statistics.hits, statistics.misses, statistics.stores, statistics.entries) == (1, 1, 1, 1)
    assert {progress.partition for progress in statistics.progress} == set(PARTITIONS)
    invalidated = await service.stub.Invalidate(cache_pb2.InvalidateRequest(scope=SCOPE))
    assert invalidated.dropped == 1
    assert not (await service.lookup()).HasField("answer")


async def test_token_of_another_log_is_a_failed_precondition(service: Service) -> None:
    after = common_pb2.WriteToken(log_id=b"x" * 16, documents_offsets={0: 1})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.stub.Lookup(cache_pb2.LookupRequest(key=KEY, partitions=PARTITIONS, after=after))
    refused = refusal(raised.value)
    assert refused.code is ErrorCode.FAILED_PRECONDITION
    assert refused.reason == "LOG_REPLACED"


async def test_token_that_asks_for_nothing_of_the_documents_asks_for_nothing(service: Service) -> None:
    request = cache_pb2.LookupRequest(key=KEY, partitions=PARTITIONS, after=common_pb2.WriteToken())
    assert (await service.stub.Lookup(request)).miss_reason == cache_pb2.MISS_REASON_ABSENT


NO_TENANT = common_pb2.Scope(collection_id="c")
NO_COLLECTION = common_pb2.Scope(tenant="t")


@pytest.mark.parametrize(
    ("field", "key", "partitions"),
    [
        ("scope.tenant", cache_pb2.CacheKey(scope=NO_TENANT, question="why?"), PARTITIONS),
        ("scope.collection_id", cache_pb2.CacheKey(scope=NO_COLLECTION, question="why?"), PARTITIONS),
        ("key.question", cache_pb2.CacheKey(scope=SCOPE, question=" \n"), PARTITIONS),
        ("partitions", KEY, ()),
    ],
)
async def test_lookup_that_can_never_succeed_names_the_field(
    service: Service, field: str, key: cache_pb2.CacheKey, partitions: tuple[int, ...]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.stub.Lookup(cache_pb2.LookupRequest(key=key, partitions=partitions))
    refused = refusal(raised.value)
    assert refused.code is ErrorCode.INVALID_ARGUMENT
    assert refused.field == field


async def test_offer_without_progress_names_the_field(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.stub.Store(cache_pb2.StoreRequest(key=KEY, lease_id=b"lease"))
    assert refusal(raised.value).field == "progress"
