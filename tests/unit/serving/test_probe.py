"""What a container's health check sees."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.probe import main


@pytest.fixture
def server() -> Iterator[tuple[str, health.HealthServicer]]:
    """Address of a server, and what it says of itself."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None)


def test_serving_is_0_and_anything_else_1(server: tuple[str, health.HealthServicer]) -> None:
    address, servicer = server
    assert main([address]) == 0
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert main([address]) == 1
    servicer.set("headwater.x.v1.XService", health_pb2.HealthCheckResponse.SERVING)
    assert main([address, "headwater.x.v1.XService"]) == 0
    assert main([address, "headwater.y.v1.YService"]) == 1


def test_nobody_there_is_1_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["127.0.0.1:1"]) == 1
    assert "127.0.0.1:1: unavailable" in capsys.readouterr().err


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
