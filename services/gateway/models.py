"""The models that generation serves, remembered so that a question need not ask for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Protocol

from serving.errors import HeadwaterError, InvalidArgument
from serving.telemetry import get_logger

from .prompt import Style
from .settings import GatewaySettings

_log = get_logger(__name__)
# How long a generation service that could not be asked is taken to be down.
_DOWN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model that generation serves."""

    name: str
    style: Style
    """What a prompt for it carries."""
    context_tokens: int
    engine: str = ""


class ModelsClient(Protocol):
    """Whoever knows the models."""

    async def models(self, timeout_seconds: float) -> Sequence[Model]:
        """All of them, the default one first."""
        ...


class ModelDirectory:
    """The models by name. A list that has grown old is still served while a new one is fetched."""

    def __init__(self, client: ModelsClient, settings: GatewaySettings) -> None:
        self._client = client
        self._settings = settings
        self._models: Sequence[Model] = ()
        self._asked_at = -float("inf")
        self._down_until = -float("inf")
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, name: str) -> Model | None:
        """The model of that name, the default one for ""; None while no list could be had.

        Raises InvalidArgument for a name that is not served.
        """
        now = time.monotonic()
        if now - self._asked_at > self._settings.models_ttl_seconds and now >= self._down_until:
            # On behalf of all callers: in a context of its own, without the deadline of the call it is begun in.
            self._refresh = self._refresh or asyncio.create_task(self._fetch(), context=Context())
        if self._refresh is not None and (not self._models or (name and self._by_name(name) is None)):
            await asyncio.shield(self._refresh)
        if not self._models:
            return None
        if not name:
            return self._models[0]
        if (model := self._by_name(name)) is None:
            served = ", ".join(repr(model.name) for model in self._models)
            raise InvalidArgument(f"no such model is served; there are {served}", field="model", reason="MODEL_UNKNOWN")
        return model

    async def close(self) -> None:
        """Stop asking."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    def _by_name(self, name: str) -> Model | None:
        return next((model for model in self._models if model.name == name), None)

    async def _fetch(self) -> None:
        try:
            models = await self._client.models(self._settings.status_timeout_ms / 1000)
            self._models = models or self._models
            self._asked_at = time.monotonic()
        except HeadwaterError as error:
            _log.warning("the models could not be asked for", code=error.code.value)
            self._down_until = time.monotonic() + _DOWN_SECONDS
        finally:
            self._refresh = None
