"""How the services behind the gateway are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.errors import HeadwaterError


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service: whether it is ready, and what it runs or why it is not."""

    name: str
    ready: bool
    detail: str


class Probe(Protocol):
    """Asks one service."""

    name: str

    async def ready(self, timeout_seconds: float) -> bool:
        """Whether it says so."""
        ...

    async def detail(self, timeout_seconds: float) -> str:
        """What it runs, in one line."""
        ...


async def overview(probes: Sequence[Probe], timeout_seconds: float) -> list[ServiceStatus]:
    """Ask all at once."""
    return list(await asyncio.gather(*(_ask(probe, timeout_seconds) for probe in probes)))


async def _ask(probe: Probe, timeout_seconds: float) -> ServiceStatus:
    try:
        ready, detail = await asyncio.gather(probe.ready(timeout_seconds), probe.detail(timeout_seconds))
    except HeadwaterError as error:
        return ServiceStatus(probe.name, False, error.message)
    return ServiceStatus(probe.name, ready, detail if ready else f"not ready yet: {detail}")
