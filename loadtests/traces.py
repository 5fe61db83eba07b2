"""Where the time goes, from the traces: a collector of its own that the stack sends its spans to (OTLP over gRPC)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from loadtests.figures import distribution

MAX_SPANS: Final = 500_000
"""Kept in memory; more are counted and forgotten."""
QUESTION: Final = "headwater.gateway.v1.GatewayService/Ask"
"""The span that a question's trace begins with."""
WAITING: Final = (".queue", ".wait")
"""How the names of spans end in which nothing was worked on (serving.telemetry.record_span)."""


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of a trace; times in nanoseconds since the epoch."""

    service: str
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    began_ns: int
    ended_ns: int
    words: str
    """Its attributes and events, as text."""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that are sent to `address`."""

    def __init__(self) -> None:
        self.address = ""
        self.forgotten = 0
        self._lock = threading.Lock()
        self._spans: list[Span] = []

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any) -> Any:
        """OTLP's call."""
        spans = [
            Span(
                service=next((a.value.string_value for a in one.resource.attributes if a.key == "service.name"), ""),
                name=span.name,
                trace_id=span.trace_id,
                span_id=span.span_id,
                parent_id=span.parent_span_id,
                began_ns=span.start_time_unix_nano,
                ended_ns=span.end_time_unix_nano,
                words=f"{span.attributes}{span.events}{span.status}",
            )
            for one in request.resource_spans
            for scope in one.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            room = max(0, MAX_SPANS - len(self._spans))
            self._spans += spans[:room]
            self.forgotten += len(spans[room:])
        return trace_service_pb2.ExportTraceServiceResponse()

    def taken(self) -> list[Span]:
        """The spans so far, which are forgotten by it."""
        with self._lock:
            spans, self._spans = self._spans, []
        return spans


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def where_time_goes(spans: Sequence[Span], root: str) -> dict[str, dict[str, Any]]:
    """By span name, of the traces that a `root` span began: times in milliseconds, and how much of the roots' time was
    spent there and in nothing below it ("share"; what runs at the same time is counted twice)."""
    traces = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    of_roots = [trace for trace in traces.values() if any(one.name == root and not one.parent_id for one in trace)]
    total = sum(one.ended_ns - one.began_ns for trace in of_roots for one in trace if one.name == root) or 1
    own: dict[str, int] = defaultdict(int)
    whole: dict[str, list[float]] = defaultdict(list)
    for trace in of_roots:
        children = defaultdict(list)
        for span in trace:
            children[span.parent_id].append(span)
        for span in trace:
            below = _covered(children[span.span_id], span)
            own[span.name] += span.ended_ns - span.began_ns - below
            whole[span.name].append((span.ended_ns - span.began_ns) / 1e6)
    return {
        name: {"waiting": name.endswith(WAITING), "share": own[name] / total, **distribution(whole[name])}
        for name in sorted(own, key=lambda name: -own[name])
    }


def _covered(spans: Iterable[Span], within: Span) -> int:
    """Nanoseconds of `within` in which at least one of the spans ran."""
    covered, reached = 0, within.began_ns
    for span in sorted(spans, key=lambda one: one.began_ns):
        began, ended = max(span.began_ns, reached), min(span.ended_ns, within.ended_ns)
        if ended > began:
            covered += ended - began
            reached = ended
    return covered
