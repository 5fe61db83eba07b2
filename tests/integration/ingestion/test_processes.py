"""Ingestion killed, stalled and handed over, as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from headwater.common.v1 import common_pb2
from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from headwater.log.v1 import log_pb2

from services.ingestion.worker import GROUP
from serving.eventlog import EventLog, LogSettings, Topic, init_log, open_log
from serving.status import from_rpc_error
from tests.harness.eventlog import now_ms, read_all, stop_outside_transactions

if TYPE_CHECKING:
    Api = ingestion_pb2_grpc.IngestionServiceAsyncStub

PATIENCE_SECONDS = 90


class Processes(Protocol):
    """The fixture of this folder's conftest."""

    def address(self, name: str) -> str: ...
    def start(self, name: str, *module: str, **environment: str) -> None: ...
    def api(self, **environment: str) -> None: ...
    def worker(self, name: str = "worker", **environment: str) -> None: ...
    def signal(self, name: str, which: signal.Signals) -> None: ...
    def is_running(self, name: str) -> bool: ...
    def exit_status(self, name: str) -> int: ...
    def kill(self, name: str) -> None: ...
    def said(self, name: str) -> str: ...
    def lags(self, name: str) -> bool: ...


@dataclass
class Writer:
    """A client of the API, on a collection."""

    api: Api
    log: EventLog
    scope: common_pb2.Scope
    collections_offset: int

    def put(self, document_id: str, text: str) -> ingestion_pb2.WriteRequest:
        return self._request(put=ingestion_pb2.Document(id=document_id, body=text.encode()))

    def delete(self, document_id: str) -> ingestion_pb2.WriteRequest:
        return self._request(delete_document_id=document_id)

    def _request(self, **operation: object) -> ingestion_pb2.WriteRequest:
        return ingestion_pb2.WriteRequest(
            scope=self.scope,
            write_id=os.urandom(16),
            accepted_unix_ms=now_ms(),
            collections_offset=self.collections_offset,
            **operation,  # type: ignore[arg-type]
        )

    async def write(self, requests: Sequence[ingestion_pb2.WriteRequest]) -> list[ingestion_pb2.WriteResponse]:
        async def requesting() -> AsyncIterator[ingestion_pb2.WriteRequest]:
            for request in requests:
                yield request

        return [response async for response in self.api.Write(requesting())]

    async def settled(self, request: ingestion_pb2.WriteRequest) -> ingestion_pb2.FoundWrite:
        """What became of a put once it can no longer land."""
        query = ingestion_pb2.WriteQuery(
            document_id=request.put.id, write_id=request.write_id, accepted_unix_ms=request.accepted_unix_ms
        )
        asked = ingestion_pb2.FindWritesRequest(scope=self.scope, writes=[query])
        while True:
            (found,) = (await self.api.FindWrites(asked, timeout=30)).writes
            if found.landed or found.settled:
                return found
            await asyncio.sleep(0.1)

    async def index(self) -> list[list[log_pb2.IndexRecord]]:
        """The index records of each partition."""
        partitions = range(self.log.partitions)
        return [
            [
                log_pb2.IndexRecord.FromString(record.value)
                for record in await read_all(self.log, Topic.INDEX, partition)
                if record.value is not None
            ]
            for partition in partitions
        ]

    async def documents(self) -> list[log_pb2.DocumentRecord]:
        return [
            log_pb2.DocumentRecord.FromString(record.value)
            for partition in range(self.log.partitions)
            for record in await read_all(self.log, Topic.DOCUMENTS, partition)
            if record.value is not None
        ]

    async def until_indexed(self, requests: Sequence[ingestion_pb2.WriteRequest]) -> list[list[log_pb2.IndexRecord]]:
        """The index once it has these writes; checked for what must hold whatever happens."""
        wanted = {request.write_id for request in requests}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                index = await self.index()
                if wanted <= {record.write_id for records in index for record in records}:
                    break
                await asyncio.sleep(0.05)
        for records in index:
            offsets = [record.documents_offset for record in records]
            assert offsets == sorted(set(offsets)), "source offsets strictly increase"
        return index


@asynccontextmanager
async def writer(processes: Processes, log_settings: LogSettings) -> AsyncIterator[Writer]:
    """With embedding and the API running, and a collection."""
    await init_log(log_settings)
    await asyncio.to_thread(processes.start, "embedding", "services.embedding")
    await asyncio.to_thread(processes.api)
    async with (
        open_log(log_settings) as log,
        grpc.aio.insecure_channel(processes.address("api")) as channel,
    ):
        stub: Api = ingestion_pb2_grpc.IngestionServiceStub(channel)
        created = await stub.CreateCollection(
            ingestion_pb2.CreateCollectionRequest(tenant="tenant", name="documents"), timeout=30, wait_for_ready=True
        )
        scope = common_pb2.Scope(tenant="tenant", collection_id=created.collection.collection_id)
        yield Writer(stub, log, scope, created.token.collections_offset)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("point", ["ingestion.after_parse_before_append", "ingestion.after_index_append"])
async def test_a_worker_killed_between_its_steps_loses_nothing_and_does_nothing_twice(
    processes: Processes, log_settings: LogSettings, point: str
) -> None:
    async with writer(processes, log_settings) as client:
        requests = [client.put(f"d{number}", f"text {number}") for number in range(20)]
        assert all(response.HasField("token") for response in await client.write(requests))

        await asyncio.to_thread(processes.worker, HEADWATER_SERVER__CRASH_POINT=point)
        assert await asyncio.to_thread(processes.exit_status, "worker") == -signal.SIGKILL
        await asyncio.to_thread(processes.worker)
        index = await client.until_indexed(requests)

    write_ids = [
        record.write_id for records in index for record in records if record.WhichOneof("outcome") == "indexed"
    ]
    assert sorted(write_ids) == sorted(request.write_id for request in requests)


async def test_an_api_killed_before_its_acknowledgement_leaves_a_write_that_is_found(
    processes: Processes, log_settings: LogSettings
) -> None:
    async with writer(processes, log_settings) as client:
        await asyncio.to_thread(processes.kill, "api")
        await asyncio.to_thread(processes.api, HEADWATER_SERVER__CRASH_POINT="ingestion.after_append_before_ack")
        request = client.put("one", "text")
        with pytest.raises(grpc.aio.AioRpcError):
            await client.write([request])
        assert await asyncio.to_thread(processes.exit_status, "api") == -signal.SIGKILL
        await asyncio.to_thread(processes.api)

        query = ingestion_pb2.WriteQuery(
            document_id="one", write_id=request.write_id, accepted_unix_ms=request.accepted_unix_ms
        )
        found = await client.api.FindWrites(
            ingestion_pb2.FindWritesRequest(scope=client.scope, writes=[query]), timeout=30, wait_for_ready=True
        )
        assert found.writes[0].landed
        assert len(found.writes[0].token.documents_offsets) == 1
        assert [record.write_id for record in await client.documents()] == [request.write_id]


async def test_a_stalled_worker_is_replaced_and_its_late_record_does_not_land(
    processes: Processes, log_settings: LogSettings
) -> None:
    """Rule 1: a put is in flight, SIGSTOP, another worker deletes the document, SIGCONT."""
    async with writer(processes, log_settings) as client:
        await asyncio.to_thread(processes.worker, "first")
        await client.write(before := [client.put("one", "before")])
        await client.until_indexed(before)

        processes.signal("embedding", signal.SIGSTOP)
        await client.write(late := [client.put("one", "late")])
        await until(lambda: processes.lags("first"))
        await asyncio.to_thread(stop_outside_transactions, partial(processes.signal, "first"), log_settings)
        processes.signal("embedding", signal.SIGCONT)

        await asyncio.to_thread(processes.worker, "second")
        await client.write(deletion := [client.delete("one")])
        await client.until_indexed([*late, *deletion])
        processes.signal("first", signal.SIGCONT)
        await until(lambda: '"event": "fenced"' in processes.said("first"))

        await client.write(after := [client.put(f"d{number}", "after") for number in range(8)])
        index = await client.until_indexed(after)

    of_one = [record.WhichOneof("outcome") for records in index for record in records if record.document_id == "one"]
    assert of_one == ["indexed", "indexed", "deleted"]


async def test_a_stalled_apis_late_put_does_not_undo_a_newer_write(
    processes: Processes, log_settings: LogSettings
) -> None:
    """Rule 6: an API is stopped with a put in it; the writer settles that, writes anew through another API, and only
    then does the first go on."""
    async with writer(processes, log_settings) as client:
        await asyncio.to_thread(processes.start, "second", "services.ingestion", "api")
        await asyncio.to_thread(stop_outside_transactions, partial(processes.signal, "api"), log_settings)
        late = client.put("one", "late")
        writing = asyncio.create_task(client.write([late]))

        async with grpc.aio.insecure_channel(processes.address("second")) as channel:
            second = replace(client, api=ingestion_pb2_grpc.IngestionServiceStub(channel))
            assert not (await second.settled(late)).landed
            newer = second.put("one", "newer")
            (acknowledged,) = await second.write([newer])
        assert acknowledged.HasField("token")
        processes.signal("api", signal.SIGCONT)
        (response,) = await writing
        landed = [document.write_id for document in await client.documents()]

    assert response.refused.reason == "WRITE_TOO_OLD"
    assert landed == [newer.write_id]


async def test_of_two_apis_that_create_one_name_at_once_one_wins(
    processes: Processes, log_settings: LogSettings
) -> None:
    async with writer(processes, log_settings) as client:
        await asyncio.to_thread(processes.start, "second", "services.ingestion", "api")
        async with grpc.aio.insecure_channel(processes.address("second")) as channel:
            second: Api = ingestion_pb2_grpc.IngestionServiceStub(channel)

            async def create(api: Api, name: str) -> str:
                request = ingestion_pb2.CreateCollectionRequest(tenant="tenant", name=name)
                try:
                    return (await api.CreateCollection(request, timeout=30)).collection.collection_id
                except grpc.aio.AioRpcError as error:
                    return from_rpc_error(error).reason

            for number in range(10):
                name = f"contested{number}"
                created = await asyncio.gather(*(create(api, name) for api in (client.api, second, client.api)))
                (winner,) = set(created) - {"COLLECTION_EXISTS"}
                written = [
                    log_pb2.CollectionRecord.FromString(record.value or b"").collection
                    for record in await read_all(client.log, Topic.COLLECTIONS, 0)
                ]
                assert [one.collection_id for one in written if one.name == name] == [winner]


async def test_two_workers_share_and_one_that_is_killed_hands_over(
    processes: Processes, log_settings: LogSettings
) -> None:
    async with writer(processes, log_settings) as client:
        await asyncio.to_thread(processes.worker, "first")
        await asyncio.to_thread(processes.worker, "second")
        requests: list[ingestion_pb2.WriteRequest] = []
        for round_ in range(3):
            more = [client.put(f"d{number}", f"text {round_} {number}") for number in range(20)]
            assert all(response.HasField("token") for response in await client.write(more))
            requests += more
            if round_ == 1:
                processes.kill("first")
        index = await client.until_indexed(requests)

    write_ids = [
        record.write_id for records in index for record in records if record.WhichOneof("outcome") == "indexed"
    ]
    assert sorted(write_ids) == sorted(request.write_id for request in requests)


def events(said: str, name: str) -> list[dict[str, Any]]:
    """A process's log lines of one event."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def test_a_worker_that_is_told_to_end_works_on_until_another_has_taken_over(
    processes: Processes, log_settings: LogSettings
) -> None:
    async with writer(processes, log_settings) as client:
        await asyncio.to_thread(processes.worker, "first")
        await asyncio.to_thread(processes.worker, "second")
        requests: list[ingestion_pb2.WriteRequest] = []
        processes.signal("first", signal.SIGTERM)
        ending = asyncio.create_task(asyncio.to_thread(processes.exit_status, "first"))
        while not ending.done():  # so that the first has something to be fenced over
            more = [client.put(f"d{number}", f"text {len(requests)}") for number in range(10)]
            await client.write(more)
            requests += more
        assert ending.result() == 0
        (handed_over,) = events(processes.said("first"), "handed over")
        taken_over = events(processes.said("second"), "assigned")[-1]
        assert taken_over["partitions"] == [0, 1]
        assert taken_over["timestamp"] < handed_over["timestamp"], "the first was there until the second was"
        assert not events(processes.said("second"), "fenced"), "who goes takes nothing back"
        index = await client.until_indexed(requests)
    write_ids = [record.write_id for records in index for record in records if record.HasField("indexed")]
    assert sorted(write_ids) == sorted(request.write_id for request in requests)


@pytest.mark.kafka
@pytest.mark.parametrize("log_settings", ["kafka"], indirect=True)
async def test_the_groups_lag_is_how_many_documents_wait(processes: Processes, log_settings: LogSettings) -> None:
    """As anything that scales workers on Kafka's lag reads it: the group's offsets against the documents' ends."""
    group = f"{log_settings.topic_prefix}{GROUP}"
    admin = AIOKafkaAdminClient(bootstrap_servers=log_settings.bootstrap_servers)

    async def lag(log: EventLog) -> int:
        topic = f"{log_settings.topic_prefix}{Topic.DOCUMENTS}"
        committed = await admin.list_consumer_group_offsets(group)
        reached = {at.partition: found.offset for at, found in committed.items() if at.topic == topic}
        ends = [await log.bounds(Topic.DOCUMENTS, partition) for partition in range(log.partitions)]
        return sum(end - reached.get(partition, 0) for partition, (_, end) in enumerate(ends))

    async with writer(processes, log_settings) as client:
        await admin.start()
        try:
            await asyncio.to_thread(processes.worker, HEADWATER_INGESTION__REPORT_SECONDS="0.2")
            requests = [client.put(f"d{number}", f"text {number}") for number in range(20)]
            await client.write(requests)
            await client.until_indexed(requests)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    if not await lag(client.log):
                        break
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(processes.kill, "worker")
            await client.write([client.put(f"e{number}", "waits") for number in range(30)])
            assert await lag(client.log) == 30
        finally:
            await admin.close()
