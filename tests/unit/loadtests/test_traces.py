"""Own time is what nothing below a span accounts for; traces that began elsewhere are left out."""

from __future__ import annotations

import pytest

from loadtests.traces import QUESTION, Span, where_time_goes


def span(name: str, identity: str, parent: str, began_ms: float, ended_ms: float, trace: str = "one") -> Span:
    began_ns, ended_ns = int(began_ms * 1e6), int(ended_ms * 1e6)
    return Span("", name, trace.encode(), identity.encode(), parent.encode(), began_ns, ended_ns, "")


def test_time_is_told_where_it_was_spent() -> None:
    found = where_time_goes(
        [
            span(QUESTION, "a", "", 0, 100),
            span("embedding.queue", "b", "a", 10, 30),
            span("embedding.infer", "c", "a", 20, 60),  # overlaps the one before
            span("generation.decode", "d", "c", 50, 90),  # outlives its parent
            span("headwater.gateway.v1.GatewayService/Search", "e", "", 0, 1000, trace="another"),
        ],
        QUESTION,
    )
    assert {name: figures["share"] for name, figures in found.items()} == pytest.approx(
        {QUESTION: 0.5, "embedding.queue": 0.2, "embedding.infer": 0.3, "generation.decode": 0.4}
    )
    assert [name for name, figures in found.items() if figures["waiting"]] == ["embedding.queue"]
    assert found["embedding.infer"]["p50"] == pytest.approx(40)


def test_without_traces_there_is_nothing_to_tell() -> None:
    assert where_time_goes([], QUESTION) == {}
