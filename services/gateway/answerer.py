"""The question path: cache, embedding, retrieval, evidence, generation; streamed, and stored when it is whole."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from serving import deadlines
from serving.errors import ErrorCode, HeadwaterError, Unavailable

from . import evidence as evidence_of
from . import metrics, passages, prompt
from .admission import Admission, Demand
from .answer_cache import AnswerCache, CacheKey, Claim, Offer, StoredAnswer
from .authentication import Caller
from .composer import Composer
from .draft import Draft, GenerationClient, GenerationRequest
from .embedder import Embedder, Matrix, TextKind
from .models import Model, ModelDirectory
from .resolver import Resolver
from .retriever import Found, Retriever
from .settings import GatewaySettings
from .stages import Stages
from .streams import begun
from .values import (
    CacheOutcome,
    Collection,
    Coverage,
    Degradation,
    DegradationKind,
    Done,
    Evidence,
    Passage,
    Retrieved,
    Sampling,
    Token,
    Usage,
    WriteToken,
)
from .wording import Wording

# Of a model's window, for the prompt's own words and the question.
_PROMPT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. Zero `k` and `max_tokens`, and an empty model, take the defaults."""

    collection: str
    text: str
    k: int = 0
    after: WriteToken | None = None
    strict: bool = False
    sampling: Sampling = field(default_factory=lambda: Sampling(0))
    use_cache: bool = True
    model: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The end without an answer, after `Retrieved`."""

    error: HeadwaterError


Event = Retrieved | Token | Done | Failed


class Answerer:
    """Answers questions: `Retrieved`, then `Token`s, then `Done` or `Failed`. What fails before `Retrieved` is
    raised."""

    def __init__(
        self,
        resolver: Resolver,
        cache: AnswerCache,
        embedder: Embedder,
        retriever: Retriever,
        generation: GenerationClient,
        models: ModelDirectory,
        admission: Admission,
        settings: GatewaySettings,
        log_id: bytes,
    ) -> None:
        self._resolver = resolver
        self._cache = cache
        self._embedder = embedder
        self._retriever = retriever
        self._generation = generation
        self._models = models
        self._admission = admission
        self._settings = settings
        self._log_id = log_id

    async def ask(self, caller: Caller, question: Question) -> AsyncGenerator[Event, None]:
        """The events of an answer. Closing it stops the work at every stage."""
        stages = Stages()
        question = self._with_defaults(question)
        collection = await self._resolver.resolve(caller, question.collection, question.after)
        model = await self._models.find(question.model)
        key = self._key(collection, question, model)
        after = question.after.only(collection.partitions) if question.after else None
        demand = Demand(caller.tenant, question.sampling.max_tokens, deadlines.remaining())
        async with AsyncExitStack() as running:
            embedding: Awaitable[Matrix] | None = None
            if self._admission.would_take(demand):  # else a miss would be refused, and its vector of no use
                embedding = await running.enter_async_context(begun(self._embed(collection, question)))
            with stages.stage("cache"):
                claim = await self._cache.lookup(key, after, collection.partitions)
            with claim:
                metrics.ASKS.labels(claim.outcome.value).inc()
                if claim.answer is not None:
                    for event in _replay(claim.answer, claim.outcome, stages):
                        yield event
                    return
                with self._admission.question(demand):
                    working = self._work_out(collection, question, model, claim, demand, embedding, stages)
                    async with aclosing(working) as events:
                        async for event in events:
                            yield event

    def _with_defaults(self, question: Question) -> Question:
        sampling = question.sampling
        return replace(
            question,
            text=" ".join(unicodedata.normalize("NFKC", question.text).split()),
            k=question.k or self._settings.k,
            sampling=replace(sampling, max_tokens=sampling.max_tokens or self._settings.max_tokens),
        )

    def _key(self, collection: Collection, question: Question, model: Model | None) -> CacheKey | None:
        """None when the answer is not for the cache: when the caller does not want it, when the model is not known,
        and when every answer is meant to be another (sampled without a seed)."""
        sampled = question.sampling.temperature > 0 and question.sampling.seed is None
        if not question.use_cache or model is None or sampled:
            return None
        settings = self._settings
        shaping = {
            "k": question.k,
            "sampling": asdict(question.sampling),
            "passages": [settings.max_passages, settings.max_passage_tokens],
            "evidence": [settings.prompt_evidence_sentences, settings.evidence_sentences, settings.max_quotes],
        }
        return CacheKey(
            scope=collection.scope,
            generation=collection.generation,
            question=question.text,
            model=model.name,
            prompt_version=prompt.PROMPT_VERSION,
            parameters=json.dumps(shaping, sort_keys=True).encode(),
        )

    async def _work_out(
        self,
        collection: Collection,
        question: Question,
        model: Model | None,
        claim: Claim,
        demand: Demand,
        embedding: Awaitable[Matrix] | None,
        stages: Stages,
    ) -> AsyncGenerator[Event, None]:
        with stages.stage("embed"):
            vector = await (embedding or self._embed(collection, question))
        with stages.stage("retrieve"):
            found = await self._retriever.search(collection, vector, question.k, question.after, strict=question.strict)
        retrieved = Retrieved(self._select(found, question, model), found.coverage, found.progress)
        yield retrieved
        degradations = _cache_and_coverage(claim, found.coverage)
        if not retrieved.passages:
            text = _nothing_found(found.coverage)
            yield Token(text)
            yield _done(Done(text, (), (), Usage(), "stop", "", claim.outcome, tuple(degradations), stages.timings()))
            return
        try:
            with stages.stage("evidence"):
                ranked = await evidence_of.rank(
                    self._embedder, question.text, vector, retrieved.passages, collection.fingerprint
                )
            if not ranked.by_meaning:
                degradations.append(_UNRANKED)
            draft = Draft(partial(self._composer, question, model, retrieved.passages, ranked.sentences))
            request = self._request(collection, question, model, retrieved.passages, ranked.sentences)
            margin = self._settings.reply_margin_ms / 1000
            async with aclosing(draft.write(self._generation, request, model, reply_margin_seconds=margin)) as pieces:
                async for piece in pieces:
                    yield Token(piece)
        except HeadwaterError as error:
            if error.code is ErrorCode.RESOURCE_EXHAUSTED:
                self._admission.refused(demand, error.retry_after_ms)
            metrics.ASKS_FAILED.labels(error.code.value).inc()
            yield Failed(error)
            return
        stages.add(draft.timings)
        done = Done(
            answer=draft.composer.answer,
            citations=tuple(draft.composer.citations),
            evidence=ranked.sentences[: self._settings.evidence_sentences],
            usage=draft.usage,
            finish_reason=draft.finish_reason,
            model=draft.model,
            cache=claim.outcome,
            degradations=(*degradations, *draft.degradations()),
        )
        if not done.degradations and model is not None and draft.model == model.name:
            claim.store(self._offer(retrieved, done, found, question, vector))
        yield _done(replace(done, timings=stages.timings()))

    async def _embed(self, collection: Collection, question: Question) -> Matrix:
        try:
            return await self._embedder.embed([question.text], TextKind.QUERY, collection.fingerprint)
        except Unavailable as error:
            raise embedding_unavailable() from error

    def _select(self, found: Found, question: Question, model: Model | None) -> tuple[Passage, ...]:
        max_tokens = self._settings.max_passage_tokens
        if model is not None and model.context_tokens:
            max_tokens = min(max_tokens, model.context_tokens - question.sampling.max_tokens - _PROMPT_TOKENS)
        chosen = passages.select(found.results[0], max_passages=self._settings.max_passages, max_tokens=max_tokens)
        noise = passages.are_noise(question.text, chosen, min_score=self._settings.min_passage_score)
        return () if noise else chosen

    def _composer(
        self, question: Question, model: Model | None, given: tuple[Passage, ...], ranked: tuple[Evidence, ...]
    ) -> Composer:
        wording = None
        if model is not None and model.style is prompt.Style.EVIDENCE:
            count = max(self._settings.prompt_evidence_sentences, self._settings.evidence_sentences)
            wording = Wording([question.text, *(sentence.text for sentence in ranked[:count])])
        return Composer(question.text, given, ranked, max_quotes=self._settings.max_quotes, wording=wording)

    def _request(
        self,
        collection: Collection,
        question: Question,
        model: Model | None,
        given: tuple[Passage, ...],
        ranked: tuple[Evidence, ...],
    ) -> GenerationRequest:
        style = model.style if model else prompt.Style.EVIDENCE
        built = prompt.build(
            style, question.text, given, ranked, evidence_sentences=self._settings.prompt_evidence_sentences
        )
        quotable = ranked[: self._settings.evidence_sentences]
        return GenerationRequest(collection.scope, built, question.sampling, model.name if model else "", quotable)

    def _offer(self, retrieved: Retrieved, done: Done, found: Found, question: Question, vector: Matrix) -> Offer:
        hits = found.results[0]
        candidates: dict[str, float] = {}
        for hit in hits:
            candidates.setdefault(hit.document_id, hit.score)  # best first
        return Offer(
            answer=StoredAnswer(retrieved, done),
            candidates=candidates,
            dense_cutoff=hits[-1].score if len(hits) == question.k else None,
            progress=found.progress,
            log_id=self._log_id,
            question_vector=vector.tobytes(),
        )


def embedding_unavailable() -> Unavailable:
    """Text cannot be searched for until there is a lexical index to search instead."""
    return Unavailable(
        "the embedding service cannot be reached, and without it text cannot be searched for; try again",
        reason="EMBEDDING_UNAVAILABLE",
    )


def coverage_degradation(coverage: Coverage) -> Degradation | None:
    """What a lack of partitions means for the caller."""
    if not coverage.missing:
        return None
    return Degradation(
        DegradationKind.PARTIAL_COVERAGE,
        f"{len(coverage.missing)} of the collection's {coverage.total} partitions did not answer; "
        "what their documents hold is missing, writes that were waited for included",
    )


def _cache_and_coverage(claim: Claim, coverage: Coverage) -> list[Degradation]:
    found = coverage_degradation(coverage)
    return [*([_UNCACHED] if claim.down else []), *([found] if found else [])]


def _nothing_found(coverage: Coverage) -> str:
    if coverage.missing:
        return "The part of the collection that could be searched holds nothing on this."
    return "The collection holds nothing on this."


def _replay(answer: StoredAnswer, outcome: CacheOutcome, stages: Stages) -> tuple[Event, ...]:
    # Nothing was read or written by a model this time.
    done = replace(answer.done, cache=outcome, usage=Usage(), timings=stages.timings())
    return (answer.retrieved, Token(done.answer), done)


def _done(done: Done) -> Done:
    for degradation in done.degradations:
        metrics.DEGRADATIONS.labels(degradation.kind.value).inc()
    return done


_UNCACHED = Degradation(
    DegradationKind.CACHE_UNAVAILABLE, "the cache could not be asked; the answer was worked out anew and is not kept"
)
_UNRANKED = Degradation(
    DegradationKind.EVIDENCE_UNRANKED,
    "the embedding service did not answer; evidence was chosen by the words it shares with the question",
)
