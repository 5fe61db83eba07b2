"""Channels: names of many servers, and retries where they are harmless."""

from __future__ import annotations

import importlib
from typing import Any

import grpc
import pytest
from headwater.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from headwater.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc

from serving.channels import RETRIED, open_channel, target
from serving.errors import InvalidArgument, Unavailable
from serving.server import Registration, Server, ServerSettings


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("localhost:8011", "localhost:8011"),
        ("dns:///embedding:50051", "dns:///embedding:50051"),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("localhost:1, 127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_addresses(address: str, name: str) -> None:
    assert target(address) == name


@pytest.mark.parametrize("address", ["a:1,b:2", "10.0.0.1,10.0.0.2", "10.0.0.1:1,[::1]:1", "10.0.0.1:x,10.0.0.2:1"])
def test_a_list_that_gRPC_could_not_resolve_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument):
        target(address)


def test_what_is_retried_exists_and_changes_nothing() -> None:
    for service, methods in RETRIED.items():
        package, _, name = service.rpartition(".")
        module = importlib.import_module(f"{package}.{package.split('.')[1]}_pb2")
        known = module.DESCRIPTOR.services_by_name[name].methods_by_name
        assert set(methods) <= set(known)
        for method in methods:
            assert method.startswith(("Get", "List", "Search", "Lookup", "Find", "Count", "Embed"))
            assert not known[method].server_streaming
            assert not known[method].client_streaming


class _Flaky(embedding_pb2_grpc.EmbeddingServiceServicer, ingestion_pb2_grpc.IngestionServiceServicer):
    def __init__(self) -> None:
        self.calls = 0

    def _fail_once(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise Unavailable("not just now")

    async def Embed(self, request: Any, context: Any) -> Any:
        self._fail_once()
        return embedding_pb2.EmbedResponse()

    async def CreateCollection(self, request: Any, context: Any) -> Any:
        self._fail_once()
        return ingestion_pb2.CreateCollectionResponse()


async def test_reads_are_retried_and_writes_are_not() -> None:
    flaky = _Flaky()
    settings = ServerSettings(grpc_port=0, metrics_port=0, drain_pause_seconds=0)
    registrations = [
        Registration(
            embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, flaky, "headwater.embedding.v1.EmbeddingService"
        ),
        Registration(
            ingestion_pb2_grpc.add_IngestionServiceServicer_to_server, flaky, "headwater.ingestion.v1.IngestionService"
        ),
    ]
    async with Server("flaky", settings, *registrations) as server, open_channel(server.address) as channel:
        await embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(embedding_pb2.EmbedRequest())
        assert flaky.calls == 2
        flaky.calls = 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ingestion_pb2_grpc.IngestionServiceStub(channel).CreateCollection(
                ingestion_pb2.CreateCollectionRequest()
            )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert flaky.calls == 1


async def test_a_list_of_servers_is_balanced(echoing: Any) -> None:
    answered: list[str] = []

    def named(name: str) -> Any:
        async def behave(request: bytes, context: Any) -> bytes:
            answered.append(name)
            return b""

        return behave

    async with (
        echoing(named("a")) as first,
        echoing(named("b")) as second,
        open_channel(f"{first.server.address},{second.server.address}") as channel,
    ):
        call = channel.unary_unary(f"/{first.service}/UnaryUnary")
        while len(set(answered)) < 2:  # the second connection may come up a moment after the first
            await call(b"")
        answered.clear()
        for _ in range(10):
            await call(b"")
    assert answered.count("a") == answered.count("b") == 5
