"""Channels to other services: balanced, kept alive, bounded, retried only where trying again is harmless."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

import grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving import deadlines, limits, telemetry
from serving.errors import InvalidArgument

# Calls that change nothing, or the same thing when they come twice. Writes are retried by the SDK alone.
RETRIED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "headwater.cache.v1.CacheService": ("Lookup", "GetStatistics"),
        "headwater.embedding.v1.EmbeddingService": ("Embed", "GetModel"),
        "headwater.gateway.v1.GatewayService": (
            "Search",
            "FindWrites",
            "GetDocument",
            "ListDocuments",
            "ListDeadLetters",
            "GetCollection",
            "ListCollections",
            "GetStatus",
        ),
        "headwater.generation.v1.GenerationService": ("CountTokens", "ListModels"),
        "headwater.ingestion.v1.IngestionService": ("FindWrites",),
        "headwater.retrieval.v1.RetrievalService": ("Search", "GetDocuments", "ListDocuments", "GetStatus"),
    }
)

_RETRY_POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method} for service, methods in RETRIED.items() for method in methods
                ],
                "retryPolicy": _RETRY_POLICY,
            }
        ],
    }
)

_OPTIONS = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", limits.MAX_CALL_METADATA_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A service that is back is called again before the SDK's retries of a read (at least 0.75 s) are used up.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # The time that a connection may take to be made, whatever its name says.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # A connection that has aged makes the name be looked up again, where new replicas are; the default is 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
)

_propagator = TraceContextTextMapPropagator()


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address`: host:port, several IP addresses as host:port,host:port, or dns:///name:port.

    Calls carry the request id and the trace of the call they are made for, and end no later than it does.
    Close it when done.
    """
    return _Channel(grpc.aio.insecure_channel(target(address), options=_OPTIONS))


def target(address: str) -> str:
    """gRPC's name for `address`. Raises InvalidArgument for a list that is not all IP addresses."""
    if "," not in address:
        return address
    parts = [part.strip().replace("localhost:", "127.0.0.1:", 1) for part in address.split(",")]
    versions = set()
    for part in parts:
        host, _, port = part.rpartition(":")
        try:
            versions.add(ipaddress.ip_address(host.strip("[]")).version)
        except ValueError as error:
            raise InvalidArgument(
                f"address {part!r}: a list takes IP addresses with ports; for names use dns:///name:port",
                field="address",
            ) from error
        if not port.isdecimal():
            raise InvalidArgument(f"address {part!r}: the port is missing", field="address")
    if len(versions) > 1:
        raise InvalidArgument(f"address {address!r}: IPv4 and IPv6 cannot be mixed in one list", field="address")
    return f"ipv{versions.pop()}:{','.join(parts)}"


class _Channel(grpc.aio.Channel):
    """A channel whose calls carry what belongs to the call they are made for.

    gRPC's own way, interceptors, runs each call in a task of its own: twice the cost of a small call.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, *method: Any, **options: Any) -> Any:
        return _carrying(self._channel.unary_unary(*method, **options))

    def unary_stream(self, *method: Any, **options: Any) -> Any:
        return _carrying(self._channel.unary_stream(*method, **options))

    def stream_unary(self, *method: Any, **options: Any) -> Any:
        return _carrying(self._channel.stream_unary(*method, **options))

    def stream_stream(self, *method: Any, **options: Any) -> Any:
        return _carrying(self._channel.stream_stream(*method, **options))


def _carrying(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call with the request id and trace added to its metadata, and its timeout cut to what is left."""

    def carrying(*request: Any, timeout: float | None = None, metadata: Any = (), **options: Any) -> Any:
        carried: dict[str, str] = {}
        _propagator.inject(carried)
        if identity := telemetry.request_id():
            carried[telemetry.REQUEST_ID_KEY] = identity
        left = min(deadlines.remaining(), limits.MAX_DEADLINE_SECONDS)
        seconds = left if timeout is None else min(timeout, left)
        whole = grpc.aio.Metadata(*(metadata or ()), *carried.items())
        return call(*request, timeout=max(seconds, 0.0), metadata=whole, **options)

    return carrying
