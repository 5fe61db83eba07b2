"""The events of an answer as messages: for the caller, and for the cache, which keeps them."""

from __future__ import annotations

from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2

from serving.errors import HeadwaterError

from .answerer import Event, Failed
from .messages import coverage_message, coverage_value, hit_message, progress_message, progress_value, timing_messages
from .values import (
    CacheOutcome,
    Citation,
    Degradation,
    Done,
    Evidence,
    Passage,
    Retrieved,
    Token,
    Usage,
)


def event_message(event: Event) -> gateway_pb2.AskResponse:
    match event:
        case Retrieved():
            return gateway_pb2.AskResponse(retrieved=retrieved_message(event))
        case Token():
            return gateway_pb2.AskResponse(token=gateway_pb2.Token(text=event.text))
        case Done():
            return gateway_pb2.AskResponse(done=done_message(event))
        case Failed():
            return gateway_pb2.AskResponse(failed=gateway_pb2.Failed(error=error_message(event.error)))


def error_message(error: HeadwaterError) -> common_pb2.Error:
    return common_pb2.Error(
        code=error.code.value,
        reason=error.reason,
        message=error.message,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
    )


def degradation_message(degradation: Degradation) -> common_pb2.Degradation:
    return common_pb2.Degradation(
        kind=common_pb2.DegradationKind.Value(f"DEGRADATION_KIND_{degradation.kind}"), message=degradation.message
    )


def retrieved_message(retrieved: Retrieved) -> gateway_pb2.Retrieved:
    return gateway_pb2.Retrieved(
        passages=[
            gateway_pb2.Passage(number=passage.number, hit=hit_message(passage.hit)) for passage in retrieved.passages
        ],
        coverage=coverage_message(retrieved.coverage),
        progress=[progress_message(one) for one in retrieved.progress],
    )


def retrieved_value(message: gateway_pb2.Retrieved) -> Retrieved:
    return Retrieved(
        passages=tuple(Passage(passage.number, passage.hit) for passage in message.passages),
        coverage=coverage_value(message.coverage),
        progress=tuple(progress_value(one) for one in message.progress),
    )


def done_message(done: Done) -> gateway_pb2.Done:
    return gateway_pb2.Done(
        answer=done.answer,
        citations=[
            gateway_pb2.Citation(
                passage=one.passage,
                document_id=one.document_id,
                chunk=one.chunk,
                evidence=one.evidence,
                position=one.position,
            )
            for one in done.citations
        ],
        evidence=[gateway_pb2.Evidence(passage=one.passage, text=one.text, score=one.score) for one in done.evidence],
        usage=common_pb2.Usage(
            prompt_tokens=done.usage.prompt_tokens,
            completion_tokens=done.usage.completion_tokens,
            cached_prompt_tokens=done.usage.cached_prompt_tokens,
        ),
        timings=timing_messages(done.timings),
        cache=gateway_pb2.CacheOutcome.Value(f"CACHE_OUTCOME_{done.cache}"),
        degradations=[degradation_message(one) for one in done.degradations],
        finish_reason=done.finish_reason,
        model=done.model,
    )


def done_value(message: gateway_pb2.Done) -> Done:
    """A stored last event; only whole answers are stored, so it has no degradations, and its timings are of the
    past."""
    usage = message.usage
    return Done(
        answer=message.answer,
        citations=tuple(
            Citation(one.passage, one.document_id, one.chunk, one.evidence, one.position) for one in message.citations
        ),
        evidence=tuple(Evidence(one.passage, one.text, one.score) for one in message.evidence),
        usage=Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens),
        finish_reason=message.finish_reason,
        model=message.model,
        cache=CacheOutcome.HIT,
    )
