"""The generation service over gRPC: proto in, one call, proto out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TypeVar

import grpc
from headwater.common.v1 import common_pb2
from headwater.generation.v1 import generation_pb2, generation_pb2_grpc

from serving.errors import InvalidArgument, NotFound

from .requests import (
    DEFAULT_OUTPUT_TOKENS,
    MAX_COUNTED_TEXTS,
    Delta,
    Evidence,
    FinishReason,
    Message,
    Priority,
    PromptStyle,
    Request,
    Role,
    Sampling,
)
from .scheduler import Done, Scheduler

_ROLES = {
    generation_pb2.ROLE_SYSTEM: Role.SYSTEM,
    generation_pb2.ROLE_USER: Role.USER,
    generation_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_PRIORITIES = {
    common_pb2.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    common_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    common_pb2.PRIORITY_BATCH: Priority.BATCH,
}
_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}
_STYLES = {
    PromptStyle.PASSAGES: generation_pb2.PROMPT_STYLE_PASSAGES,
    PromptStyle.EVIDENCE: generation_pb2.PROMPT_STYLE_EVIDENCE,
}


Wire = TypeVar("Wire")
Ours = TypeVar("Ours")


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Errors are raised; the server's interceptor turns them into statuses."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def Generate(
        self,
        request: generation_pb2.GenerateRequest,
        context: grpc.aio.ServicerContext[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse],
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        self._require_model(request.model)
        async with aclosing(self._scheduler.generate(_request(request))) as events:
            async for event in events:
                yield self._response(event)

    async def CountTokens(
        self,
        request: generation_pb2.CountTokensRequest,
        context: grpc.aio.ServicerContext[generation_pb2.CountTokensRequest, generation_pb2.CountTokensResponse],
    ) -> generation_pb2.CountTokensResponse:
        self._require_model(request.model)
        if len(request.texts) > MAX_COUNTED_TEXTS:
            raise InvalidArgument(f"at most {MAX_COUNTED_TEXTS} texts are counted at once", field="texts")
        counted = await self._scheduler.count_tokens(request.texts)
        return generation_pb2.CountTokensResponse(counts=counted.counts, estimated=counted.estimated)

    async def ListModels(
        self,
        request: generation_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[generation_pb2.ListModelsRequest, generation_pb2.ListModelsResponse],
    ) -> generation_pb2.ListModelsResponse:
        model = self._scheduler.model
        return generation_pb2.ListModelsResponse(
            models=[
                generation_pb2.Model(
                    name=model.name,
                    engine=model.engine,
                    context_tokens=model.context_tokens,
                    prompt_style=_STYLES[model.prompt_style],
                )
            ]
        )

    def _require_model(self, name: str) -> None:
        served = self._scheduler.model.name
        if name not in ("", served):
            raise NotFound(
                f"model {name!r} is not served here; {served!r} is", reason="MODEL_NOT_SERVED", field="model"
            )

    def _response(self, event: Delta | Done) -> generation_pb2.GenerateResponse:
        if isinstance(event, Delta):
            return generation_pb2.GenerateResponse(delta=generation_pb2.Delta(text=event.text, tokens=event.tokens))
        timings = {
            "queue": event.queue_seconds,
            "first_token": event.first_token_seconds,
            "generate": event.generate_seconds,
        }
        return generation_pb2.GenerateResponse(
            done=generation_pb2.Done(
                finish_reason=_REASONS[event.reason],
                usage=common_pb2.Usage(
                    prompt_tokens=event.usage.prompt_tokens,
                    completion_tokens=event.usage.completion_tokens,
                    cached_prompt_tokens=event.usage.cached_prompt_tokens,
                ),
                timings=[
                    common_pb2.StageTiming(stage=stage, milliseconds=seconds * 1000)
                    for stage, seconds in timings.items()
                ],
                model=self._scheduler.model.name,
            )
        )


def _request(request: generation_pb2.GenerateRequest) -> Request:
    sampling = request.sampling
    return Request(
        tenant=request.scope.tenant,
        messages=tuple(_message(message, place) for place, message in enumerate(request.messages)),
        sampling=Sampling(
            max_tokens=sampling.max_tokens or DEFAULT_OUTPUT_TOKENS,
            temperature=sampling.temperature,
            top_p=sampling.top_p or 1.0,
            seed=sampling.seed if sampling.HasField("seed") else None,
            stop=tuple(sampling.stop),
        ),
        priority=_known(_PRIORITIES, request.priority, "priority"),
        evidence=tuple(Evidence(each.text, each.passage, each.score) for each in request.evidence),
    )


def _message(message: generation_pb2.Message, place: int) -> Message:
    return Message(_known(_ROLES, message.role, f"messages[{place}].role"), message.text)


def _known(table: Mapping[Wire, Ours], value: Wire, field: str) -> Ours:
    if value not in table:
        raise InvalidArgument(f"{field} must be one of the contract's values", field=field)
    return table[value]
