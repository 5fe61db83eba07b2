"""A stack of this machine's own for a load test: every service, on engines of known delay, gone afterwards."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from deploy.local import stack as local
from loadtests.tenants import Tenant, keys_file
from tests.harness.processes import free_port_base

SENT_EVERY_MS: Final = 500
"""How long a span may wait in its service before it is sent."""
MAX_DELAY_MS: Final = 60_000
MAX_SLOTS: Final = 4096


@dataclass(frozen=True, slots=True)
class FakeEngines:
    """What the engines take: for a batch of texts, until the first token, for each further one; answers at once."""

    embed_ms: float
    first_token_ms: float
    token_ms: float
    slots: int

    def __post_init__(self) -> None:
        for option, value in (
            ("--embed-ms", self.embed_ms),
            ("--first-token-ms", self.first_token_ms),
            ("--token-ms", self.token_ms),
        ):
            if not 0 <= value <= MAX_DELAY_MS:
                raise ValueError(f"{option} is {value:g}, and must be from 0 to {MAX_DELAY_MS:,}")
        if not 1 <= self.slots <= MAX_SLOTS:
            raise ValueError(f"--slots is {self.slots}, and must be from 1 to {MAX_SLOTS:,}")

    def settings(self) -> dict[str, str]:
        """As environment of the services."""
        return {
            "HEADWATER_EMBEDDING__ENGINE": "fake",
            "HEADWATER_EMBEDDING__FAKE_DELAY_MS": str(self.embed_ms),
            "HEADWATER_GENERATION__ENGINE": "fake",
            "HEADWATER_GENERATION__FAKE__FIRST_TOKEN_DELAY_MS": str(self.first_token_ms),
            "HEADWATER_GENERATION__FAKE__TOKEN_DELAY_MS": str(self.token_ms),
            "HEADWATER_GENERATION__SCHEDULING__MAX_RUNNING_REQUESTS": str(self.slots),
            "HEADWATER_GATEWAY__MAX_CONCURRENT_ASKS": str(2 * self.slots),
        }


class NotStarted(RuntimeError):
    """A service did not become ready."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where the services send their spans, and of which share of the requests."""

    endpoint: str
    ratio: float

    def settings(self) -> dict[str, str]:
        """As environment of the services."""
        return {
            "HEADWATER_TELEMETRY__OTLP_ENDPOINT": self.endpoint,
            "HEADWATER_TELEMETRY__TRACE_RATIO": str(self.ratio),
            "OTEL_BSP_SCHEDULE_DELAY": str(SENT_EVERY_MS),
        }


@contextmanager
def running(
    engines: FakeEngines, tenants: tuple[Tenant, ...], console: Console, tracing: Tracing | None = None
) -> Iterator[str]:
    """The gateway's address on 127.0.0.1, while the stack runs. Raises NotStarted."""
    with tempfile.TemporaryDirectory(prefix="headwater-load-") as folder:
        settings = engines.settings() | (tracing.settings() if tracing else {})
        if any(tenant.key for tenant in tenants):
            keys = Path(folder) / "keys.json"
            keys.write_text(keys_file(tenants))
            settings |= {"HEADWATER_GATEWAY__AUTH": "keys", "HEADWATER_GATEWAY__KEYS_PATH": str(keys)}
        stack = local.Stack(state=Path(folder), port_base=free_port_base(), settings=settings)
        try:
            if not local.start(stack, console):
                raise NotStarted("the stack did not start: its logs are named above")
            yield stack.address
        finally:
            # A second Ctrl-C would leave processes behind that nobody remembers.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            local.stop(stack)
            signal.signal(signal.SIGINT, before)
