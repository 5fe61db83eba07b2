"""Wall time by stage of one call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from serving import telemetry

from . import metrics
from .values import Timing


class Stages:
    """A stopwatch for the stages of a call, and for the whole of it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._timings: list[Timing] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        began = time.monotonic()
        try:
            with telemetry.span(f"gateway.{name}"):
                yield
        finally:
            self.add([Timing(name, (time.monotonic() - began) * 1000)])

    def add(self, timings: Iterable[Timing]) -> None:
        """Stages that were timed elsewhere."""
        for timing in timings:
            metrics.STAGE_SECONDS.labels(timing.stage).observe(timing.milliseconds / 1000)
            self._timings.append(timing)

    def timings(self) -> tuple[Timing, ...]:
        """The stages so far, and "total"."""
        return (*self._timings, Timing("total", (time.monotonic() - self._began) * 1000))
