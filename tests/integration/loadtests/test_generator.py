"""The generator against a gateway that answers when the test says so: every request is accounted for."""

from __future__ import annotations

import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from loadtests.generator import Generator
from loadtests.options import add_options, options_of
from loadtests.workload import Workload


@dataclass
class Gateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Answers a search once it is let go, with this status."""

    let_go: threading.Event = field(default_factory=threading.Event)
    status: grpc.StatusCode = grpc.StatusCode.OK
    address: str = ""

    def GetStatus(self, request: gateway_pb2.GetStatusRequest, context: grpc.ServicerContext):  # type: ignore[no-untyped-def]
        return gateway_pb2.GetStatusResponse()

    def Search(self, request: gateway_pb2.SearchRequest, context: grpc.ServicerContext):  # type: ignore[no-untyped-def]
        while not self.let_go.wait(0.05):
            if not context.is_active():
                break
        if self.status is not grpc.StatusCode.OK:
            context.abort(self.status, "told to")
        coverage = common_pb2.Coverage(partitions_answered=1, partitions_total=1)
        return gateway_pb2.SearchResponse(results=[gateway_pb2.QueryResult()], coverage=coverage)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    server = grpc.server(ThreadPoolExecutor(64))
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(made, server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    made.let_go.set()
    server.stop(None).wait()


def started(gateway: Gateway, *arguments: str) -> Generator:
    parser = ArgumentParser()
    add_options(parser)
    options = options_of(parser.parse_args([f"--address={gateway.address}", "--mix=search", *arguments]))
    generator = Generator(options, Workload(options))
    generator.start()
    return generator


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kinds(generator: Generator) -> Counter[str]:
    """Of all outcomes, once there are no more to come."""
    until(lambda: not generator.running)
    assert generator.error is None
    return Counter(outcome.kind for outcome in generator.outcomes)


def test_what_is_beyond_the_bound_in_flight_is_counted_as_dropped(gateway: Gateway) -> None:
    generator = started(gateway, "--rate=50", "--seconds=2", "--max-in-flight=3", "--arrivals=uniform")
    until(lambda: sum(outcome.kind == "dropped" for outcome in list(generator.outcomes)) >= 5)
    gateway.let_go.set()
    seen = kinds(generator)
    assert generator.most_in_flight == 3
    assert set(seen) == {"answered", "dropped"}
    assert seen["answered"] >= 3
    assert sum(seen.values()) in (99, 100)  # the last one is due at the very end


def test_arrivals_do_not_wait_for_answers(gateway: Gateway) -> None:
    generator = started(gateway, "--rate=20", "--seconds=1", "--arrivals=uniform", "--deadline-seconds=60")
    until(lambda: generator.most_in_flight >= 19)  # though nothing was answered yet
    gateway.let_go.set()
    assert set(kinds(generator)) == {"answered"}


def test_stopping_abandons_what_is_in_flight_and_says_so(gateway: Gateway) -> None:
    generator = started(gateway, "--rate=20", "--seconds=600")
    until(lambda: generator.most_in_flight >= 5)
    generator.stop()
    seen = kinds(generator)
    assert set(seen) == {"abandoned"}
    assert seen["abandoned"] == generator.most_in_flight
    assert generator.seconds < 600


@pytest.mark.parametrize(
    ("status", "kind"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, "refused"), (grpc.StatusCode.UNAVAILABLE, "failed")],
)
def test_a_refusal_is_no_failure_and_neither_is_tried_again(
    gateway: Gateway, status: grpc.StatusCode, kind: str
) -> None:
    gateway.status = status
    gateway.let_go.set()
    generator = started(gateway, "--rate=20", "--seconds=1", "--max-requests=25")
    seen = kinds(generator)
    assert set(seen) == {kind}
    assert all(outcome.error.startswith(status.name) for outcome in generator.outcomes)


def test_a_closed_loop_asks_again_only_once_answered(gateway: Gateway) -> None:
    generator = started(gateway, "--loop=closed", "--callers=4", "--seconds=60", "--max-requests=20")
    until(lambda: generator.most_in_flight == 4)
    assert not generator.outcomes
    gateway.let_go.set()
    assert kinds(generator) == {"answered": 20}
    assert generator.most_in_flight == 4


def test_a_gateway_that_is_not_there_ends_the_run_with_the_reason(gateway: Gateway) -> None:
    gateway.address = "127.0.0.1:1"
    generator = started(gateway, "--rate=20", "--seconds=1")
    until(lambda: not generator.running)
    assert "cannot reach the gateway" in str(generator.error)
    assert not generator.outcomes
