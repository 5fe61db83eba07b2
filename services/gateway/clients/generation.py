"""The generation service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import grpc
from headwater.common.v1 import common_pb2
from headwater.generation.v1 import generation_pb2, generation_pb2_grpc

from ..draft import Finished, GenerationRequest
from ..messages import scope_message
from ..models import Model
from ..prompt import Style
from ..values import Timing, Usage
from . import translated


class Generation:
    """Is the draft's client and the model directory's."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)

    async def generate(
        self, request: GenerationRequest, timeout_seconds: float
    ) -> AsyncGenerator[str | Finished, None]:
        call = self._stub.Generate(_request_message(request), timeout=timeout_seconds)
        try:
            with translated():
                async for event in call:
                    if event.WhichOneof("event") == "delta":
                        yield event.delta.text
                    elif event.WhichOneof("event") == "done":
                        yield _finished(event.done)
        finally:
            call.cancel()

    async def models(self, timeout_seconds: float) -> Sequence[Model]:
        with translated():
            response = await self._stub.ListModels(generation_pb2.ListModelsRequest(), timeout=timeout_seconds)
        return [
            Model(
                name=model.name,
                style=Style.EVIDENCE if model.prompt_style == generation_pb2.PROMPT_STYLE_EVIDENCE else Style.PASSAGES,
                context_tokens=model.context_tokens,
                engine=model.engine,
            )
            for model in response.models
        ]

    async def detail(self) -> str:
        with translated():
            response = await self._stub.ListModels(generation_pb2.ListModelsRequest())
        return ", ".join(f"{model.name} on {model.engine}" for model in response.models)


def _request_message(request: GenerationRequest) -> generation_pb2.GenerateRequest:
    sampling = request.sampling
    return generation_pb2.GenerateRequest(
        scope=scope_message(request.scope),
        messages=[
            generation_pb2.Message(role=generation_pb2.Role.Value(f"ROLE_{turn.role}"), text=turn.text)
            for turn in request.prompt.turns
        ],
        sampling=generation_pb2.Sampling(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=request.prompt.stop,
        ),
        priority=common_pb2.PRIORITY_INTERACTIVE,
        model=request.model,
        evidence=[
            generation_pb2.Evidence(text=one.text, passage=one.passage, score=one.score) for one in request.evidence
        ],
    )


def _finished(done: generation_pb2.Done) -> Finished:
    return Finished(
        finish_reason="length" if done.finish_reason == generation_pb2.FINISH_REASON_LENGTH else "stop",
        usage=Usage(done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.cached_prompt_tokens),
        timings=tuple(
            Timing("generate" if one.stage == "generate" else f"generate_{one.stage}", one.milliseconds)
            for one in done.timings
        ),
        model=done.model,
    )
