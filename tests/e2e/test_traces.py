"""One trace through every service, time in a queue apart from time at work, and nobody's text in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from headwater import Client, Document

from loadtests.traces import QUESTION, Collector, Span, collecting
from tests.e2e.conftest import QUOTING
from tests.harness.processes import running_stack

SECRET = "tracelessword"
PUT = "headwater.gateway.v1.GatewayService/PutDocuments"


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[Span]:
    """Those of one document, one question about it, and the stack's end."""
    state = tmp_path_factory.mktemp("state")
    with collecting() as collector:
        return _record(state, collector)


def _record(state: Path, collector: Collector) -> list[Span]:
    settings = QUOTING | {"HEADWATER_TELEMETRY__OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    spans: list[Span] = []
    with running_stack(state, settings=settings) as stack, Client(stack.stack.address) as client:
        client.create_collection("docs")
        client.put("docs", [Document("one", text=f"The {SECRET} of the river is four metres.")])
        assert SECRET in client.answer("docs", f"What is the {SECRET} of the river?").text
        deadline = time.monotonic() + 30
        while not {QUESTION, "ingestion.append"} <= {span.name for span in spans}:
            assert time.monotonic() < deadline, sorted(span.name for span in spans)
            time.sleep(0.2)
            spans += collector.taken()
        time.sleep(1)  # what the other services have not sent yet
        spans += collector.taken()
    return spans


def below(spans: list[Span], root: str) -> dict[str, Span]:
    """The spans of the trace that `root` began, by name."""
    (trace_id,) = {span.trace_id for span in spans if span.name == root}
    return {span.name: span for span in spans if span.trace_id == trace_id}


def test_a_questions_trace_goes_through_every_service(spans: list[Span]) -> None:
    trace = below(spans, QUESTION)
    assert {span.service for span in trace.values()} == {
        f"headwater-{name}" for name in ("gateway", "cache", "embedding", "retrieval", "generation")
    }
    assert {"embedding.queue", "embedding.infer", "retrieval.wait", "retrieval.queue", "retrieval.search"} <= set(trace)
    assert {"generation.queue", "generation.prefill", "generation.decode"} <= set(trace)
    by_id = {span.span_id: span for span in spans if span.trace_id == trace[QUESTION].trace_id}
    parents = {name: by_id[trace[name].parent_id].name for name in trace if name != QUESTION}
    assert parents["retrieval.queue"] == parents["retrieval.search"] == "headwater.retrieval.v1.RetrievalService/Search"
    assert parents["headwater.retrieval.v1.RetrievalService/Search"] == "gateway.retrieve"
    assert parents["generation.queue"] == "headwater.generation.v1.GenerationService/Generate"
    assert trace["retrieval.queue"].ended_ns <= trace["retrieval.search"].began_ns + 1_000_000


def test_a_documents_trace_goes_on_behind_the_log(spans: list[Span]) -> None:
    trace = below(spans, PUT)
    for name in ("ingestion.wait", "ingestion.document", "ingestion.parse", "ingestion.embed", "ingestion.append"):
        assert trace[name].service == "headwater-ingestion-worker", name
    assert trace["ingestion.parse"].ended_ns <= trace["ingestion.append"].began_ns


def test_no_span_quotes_anybody(spans: list[Span]) -> None:
    assert not [span.name for span in spans if SECRET in span.name + span.words]
