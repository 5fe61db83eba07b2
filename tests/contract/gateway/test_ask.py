"""`Ask` over gRPC: its events, its degradations, its failures."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from headwater.cache.v1 import cache_pb2
from headwater.common.v1 import common_pb2
from headwater.gateway.v1 import gateway_pb2
from headwater.generation.v1 import generation_pb2

from serving.errors import ErrorCode, FailedPrecondition, ResourceExhausted, Unavailable
from tests.harness.calls import failure, until
from tests.harness.gateway import World
from tests.harness.gateway import world as open_world

DOWN = Unavailable("down")


def kinds(done: gateway_pb2.Done) -> list[str]:
    return [common_pb2.DegradationKind.Name(one.kind).removeprefix("DEGRADATION_KIND_") for one in done.degradations]


def outcome(done: gateway_pb2.Done) -> str:
    return gateway_pb2.CacheOutcome.Name(done.cache).removeprefix("CACHE_OUTCOME_")


async def test_events_come_in_order_and_say_all(world: World) -> None:
    retrieved, *tokens, done = await world.ask()
    assert retrieved.WhichOneof("event") == "retrieved"
    assert [passage.number for passage in retrieved.retrieved.passages] == [1, 2, 3]
    assert retrieved.retrieved.coverage == common_pb2.Coverage(partitions_answered=4, partitions_total=4)
    assert [one.partition for one in retrieved.retrieved.progress] == [0, 1, 2, 3]
    assert "".join(event.token.text for event in tokens) == done.done.answer == "Staff get 25 days of leave [2]."
    [citation] = done.done.citations
    cited = retrieved.retrieved.passages[citation.passage - 1].hit
    assert (citation.document_id, citation.chunk) == (cited.document_id, cited.chunk)
    assert citation.evidence in cited.text
    assert done.done.evidence[0].text == "Staff get 25 days of leave a year."
    assert [one.score for one in done.done.evidence] == sorted((e.score for e in done.done.evidence), reverse=True)
    stages = {timing.stage for timing in done.done.timings}
    assert stages == {"cache", "embed", "retrieve", "evidence", "generate_first_token", "total"}
    assert done.done.usage.prompt_tokens == 100
    assert (done.done.finish_reason, done.done.model, outcome(done.done)) == ("stop", "scripted", "MISS")
    assert kinds(done.done) == []


async def test_the_same_question_comes_from_the_cache(world: World) -> None:
    [first, *_, worked_out] = await world.ask("How many days of leave?")
    [again, token, replayed] = await world.ask("  How many\u00a0days of  leave?")
    assert again == first
    assert token.token.text == replayed.done.answer == worked_out.done.answer
    assert replayed.done.citations == worked_out.done.citations
    assert outcome(replayed.done) == "HIT"
    assert world.generation.calls == 1


async def test_what_shapes_an_answer_is_part_of_its_key(world: World) -> None:
    question = "How many days of leave?"
    await world.ask(question)
    for options in (
        {"k": 3},
        {"sampling": gateway_pb2.Sampling(max_tokens=7)},
        {"sampling": gateway_pb2.Sampling(temperature=0.5, seed=7)},
    ):
        [*_, done] = await world.ask(question, **options)
        assert outcome(done.done) == "MISS", options
    [*_, done] = await world.ask(question.upper())
    assert outcome(done.done) == "MISS"


async def test_what_is_stored_names_all_it_rests_on(world: World) -> None:
    await world.ask(k=2)
    await until(lambda: len(world.cache.entries) == 1)
    [stored] = world.cache.entries.values()
    assert {candidate.document_id for candidate in stored.candidates} <= {"leave", "park"}
    assert stored.dense_cutoff > -1  # the list was full
    assert stored.lexical_cutoff > 3e38
    assert [one.partition for one in stored.progress] == [0, 1, 2, 3]
    assert stored.log_id == world.log.log_id
    assert stored.question_vector.dimensions == 64
    await world.ask(k=200)
    await until(lambda: len(world.cache.entries) == 2)
    assert list(world.cache.entries.values())[-1].dense_cutoff < -3e38  # anything would have entered


@pytest.mark.parametrize(
    "options", [{"cache": gateway_pb2.CACHE_USE_BYPASS}, {"sampling": gateway_pb2.Sampling(temperature=1)}]
)
async def test_the_cache_is_not_asked_when_the_answer_is_not_for_it(world: World, options: dict[str, Any]) -> None:
    for _ in range(2):
        [*_, done] = await world.ask(**options)
        assert outcome(done.done) == "BYPASSED"
        assert kinds(done.done) == []
    assert world.cache.calls == 0


async def test_identical_questions_at_once_are_worked_out_once(world: World) -> None:
    world.generation.gate = asyncio.Event()
    first = asyncio.create_task(world.ask())
    await until(lambda: world.generation.calls)
    second = asyncio.create_task(world.ask())
    await until(lambda: any(lookup.wait_ms for lookup in world.cache.lookups))
    world.generation.gate.set()
    assert outcome((await first)[-1].done) == "MISS"
    assert outcome((await second)[-1].done) == "SHARED"
    assert world.generation.calls == 1


async def test_whoever_waits_for_a_caller_that_is_gone_works_it_out_in_time(world: World) -> None:
    await world.ask()
    await until(lambda: len(world.cache.entries) == 1)
    world.cache.leases = dict.fromkeys(world.cache.entries, b"of a gateway gone")
    world.cache.entries.clear()
    [*_, done] = await world.ask(timeout=2)
    assert world.cache.lookups[-1].wait_ms < 1100
    assert (outcome(done.done), kinds(done.done)) == ("MISS", [])


async def test_a_lease_whose_grant_was_lost_is_given_back(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings={"cache_timeout_ms": 50}) as world:
        await world.collection("empty")
        world.cache.loses_replies = True
        [*_, done] = await world.ask(collection="empty")
        assert kinds(done.done) == ["CACHE_UNAVAILABLE"]
        assert world.cache.lookups
        await until(lambda: world.cache.released == 1)
        assert not world.cache.leases


async def test_a_cache_slower_than_a_callers_patience_still_gets_leases_back(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings={"cache_timeout_ms": 50}) as world:
        await world.collection()
        world.embedding.error = DOWN
        world.cache.background_seconds = 0.3
        await failure(world.ask())
        await until(lambda: world.cache.released == 1)
        assert not world.cache.leases


async def test_a_lost_cache_is_marked_and_costs_no_answer(world: World) -> None:
    await world.stop("cache")
    [*_, done] = await world.ask()
    assert kinds(done.done) == ["CACHE_UNAVAILABLE"]
    assert done.done.answer == "Staff get 25 days of leave [2]."


async def test_a_lost_store_behind_the_cache_is_marked(world: World) -> None:
    world.cache.miss_reason = cache_pb2.MISS_REASON_STORE_UNAVAILABLE
    [*_, done] = await world.ask()
    assert kinds(done.done) == ["CACHE_UNAVAILABLE"]


async def test_a_cache_that_hangs_costs_its_budget_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings={"cache_timeout_ms": 20}) as world:
        await world.collection()
        await world.put({"leave": "Staff get 25 days of leave a year."})
        world.generation.says = ["Staff get 25 days of leave."]
        world.cache.gate = asyncio.Event()
        [*_, done] = await world.ask()
        assert kinds(done.done) == ["CACHE_UNAVAILABLE"]


async def test_a_cache_behind_the_log_is_no_degradation(world: World) -> None:
    world.cache.miss_reason = cache_pb2.MISS_REASON_BEHIND
    [*_, done] = await world.ask()
    assert (kinds(done.done), outcome(done.done)) == ([], "MISS")


async def test_a_lost_embedding_service_is_unavailable(world: World) -> None:
    world.embedding.error = DOWN
    error = await failure(world.ask())
    assert (error.code, error.reason) == (ErrorCode.UNAVAILABLE, "EMBEDDING_UNAVAILABLE")
    await until(lambda: world.cache.released == 1)


async def test_another_embedding_model_is_a_failed_precondition(world: World) -> None:
    world.embedding.error = FailedPrecondition("another model is served", reason="FINGERPRINT_MISMATCH")
    error = await failure(world.ask())
    assert (error.code, error.reason) == (ErrorCode.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH")


async def test_without_embedding_of_sentences_evidence_goes_by_words(world: World) -> None:
    world.embedding.error_for_documents = DOWN
    [*_, done] = await world.ask("How many days of leave do staff get?")
    assert kinds(done.done) == ["EVIDENCE_UNRANKED"]
    assert done.done.evidence[0].text == "Staff get 25 days of leave a year."


async def test_sentences_are_embedded_once(world: World) -> None:
    await world.ask("How many days of leave?")
    before = len(world.embedding.texts)
    await world.ask("How many days of leave do I get?")
    assert world.embedding.texts[before:] == ["How many days of leave do I get?"]


async def test_a_lost_shard_is_marked_on_the_answer(world: World) -> None:
    await world.stop("retrieval/1")
    [retrieved, *_, done] = await world.ask()
    assert retrieved.retrieved.coverage.partitions_answered == 2
    assert list(retrieved.retrieved.coverage.partitions_missing) == [2, 3]
    assert "PARTIAL_COVERAGE" in kinds(done.done)
    assert not world.cache.entries
    await until(lambda: world.cache.released == 1)


async def test_a_shard_that_hangs_is_left_out_at_the_budget(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings={"retrieval_timeout_ms": 50}) as world:
        await world.collection()
        world.shards[0].gate = asyncio.Event()
        [retrieved, *_] = await world.ask()
        assert list(retrieved.retrieved.coverage.partitions_missing) == [0, 1]


async def test_a_strict_caller_gets_no_partial_answer(world: World) -> None:
    await world.stop("retrieval/1")
    error = await failure(world.ask(strict=True))
    assert (error.code, error.reason) == (ErrorCode.UNAVAILABLE, "PARTIAL_COVERAGE")


async def test_without_any_shard_there_is_no_answer(world: World) -> None:
    await world.stop("retrieval/0")
    await world.stop("retrieval/1")
    error = await failure(world.ask())
    assert (error.code, error.reason) == (ErrorCode.UNAVAILABLE, "RETRIEVAL_UNAVAILABLE")
    assert world.generation.calls == 0


async def test_a_shard_of_another_log_does_not_count(world: World) -> None:
    world.shards[1].log_id = b"another log, 16b"
    [retrieved, *_] = await world.ask()
    assert list(retrieved.retrieved.coverage.partitions_missing) == [2, 3]


async def test_a_write_is_waited_for(world: World) -> None:
    world.ingestion.held = []
    token = await world.put({"leave": "Staff get 30 days of leave a year."})
    asking = asyncio.create_task(world.ask(after=token))
    await until(lambda: world.shards[0].calls + world.shards[1].calls)
    await world.ingestion.apply_held()
    [retrieved, *_] = await asking
    assert any("30 days" in passage.hit.text for passage in retrieved.retrieved.passages)


async def test_a_write_that_does_not_come_is_the_deadlines_end_not_an_old_answer(world: World) -> None:
    world.ingestion.held = []
    token = await world.put({"leave": "Staff get 30 days of leave a year."})
    assert (await failure(world.ask(after=token, timeout=0.5))).code is ErrorCode.DEADLINE_EXCEEDED


async def test_a_lost_generator_leaves_the_evidence(world: World) -> None:
    await world.stop("generation")
    [*tokens, done] = await world.ask("How many days of leave do staff get?")
    assert kinds(done.done) == ["GENERATION_UNAVAILABLE"]
    assert done.done.answer.startswith("Staff get 25 days of leave a year. [")
    assert "".join(event.token.text for event in tokens[1:]) == done.done.answer
    assert done.done.citations[0].evidence == "Staff get 25 days of leave a year."
    assert not world.cache.entries


async def test_a_generator_that_is_lost_between_two_questions_leaves_the_evidence(world: World) -> None:
    await world.ask("Who runs the office?")
    world.generation.error = DOWN
    [*_, done] = await world.ask()
    assert kinds(done.done) == ["GENERATION_UNAVAILABLE"]
    await until(lambda: world.cache.released == 1)


async def test_a_generator_that_is_lost_midway_leaves_a_partial_answer(world: World) -> None:
    world.generation.says = ["Staff get 25 days of leave [2]. ", "Mary Jones runs "]
    world.generation.error_after_pieces = DOWN
    [*_, done] = await world.ask()
    assert kinds(done.done) == ["GENERATION_PARTIAL"]
    assert done.done.answer == "Staff get 25 days of leave [2]."
    assert done.done.finish_reason == "length"
    assert not world.cache.entries


async def test_a_slow_generator_leaves_what_it_said_by_the_deadline(world: World) -> None:
    world.generation.hangs_after_pieces = True
    [*_, done] = await world.ask(timeout=1)
    assert kinds(done.done) == ["GENERATION_PARTIAL"]
    assert done.done.answer == "Staff get 25 days of leave [2]."


async def test_a_refusal_by_generation_is_passed_on_with_its_hint(world: World) -> None:
    world.generation.says = []
    world.generation.error_after_pieces = ResourceExhausted(
        "the queue is full", reason="QUEUE_FULL", retry_after_ms=900
    )
    [retrieved, failed] = await world.ask()
    assert retrieved.WhichOneof("event") == "retrieved"
    error = failed.failed.error
    assert (error.code, error.reason, error.retry_after_ms) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 900)
    await until(lambda: world.cache.released == 1)


async def test_a_model_that_says_nothing_leaves_the_evidence(world: World) -> None:
    world.generation.says = [" "]
    [*_, done] = await world.ask()
    assert kinds(done.done) == ["GENERATION_UNAVAILABLE"]
    assert done.done.answer


async def test_unsupported_sentences_and_marks_to_nothing_never_reach_the_user(world: World) -> None:
    world.generation.says = ["Tesla gives 99 da", "ys. Staff get 25 days [9", "]."]
    events = await world.ask()
    done = events[-1].done
    assert kinds(done) == ["SENTENCE_WITHHELD", "CITATION_WITHHELD"]
    assert "Tesla" not in str(events)
    assert "99" not in done.answer
    assert done.answer.endswith("Staff get 25 days.")
    assert not world.cache.entries


async def test_a_model_that_marks_nothing_gets_no_citations(world: World) -> None:
    world.generation.says = ["Staff get 25 days."]
    [*_, done] = await world.ask()
    assert (done.done.answer, len(done.done.citations)) == ("Staff get 25 days.", 0)


async def test_an_answer_cut_at_its_length_is_whole_enough_to_keep(world: World) -> None:
    world.generation.finish_reason = generation_pb2.FINISH_REASON_LENGTH
    world.generation.says = ["Staff get 25 days of lea"]
    [*_, done] = await world.ask()
    assert (done.done.answer, done.done.finish_reason) == ("Staff get 25 days of leave a year. [1]", "length")
    await until(lambda: len(world.cache.entries) == 1)


async def test_an_empty_collection_says_so_without_a_model(world: World) -> None:
    await world.collection("empty")
    [retrieved, token, done] = await world.ask(collection="empty")
    assert not retrieved.retrieved.passages
    assert token.token.text == done.done.answer == "The collection holds nothing on this."
    assert world.generation.calls == 0


async def test_a_caller_that_hangs_up_stops_the_work_and_frees_the_lease(world: World) -> None:
    world.generation.hangs_after_pieces = True
    call = world.stub.Ask(gateway_pb2.AskRequest(collection="handbook", question="How many days?"), timeout=20)
    await call.read()
    await world.generation.spoke.wait()
    call.cancel()
    await until(lambda: world.generation.cancelled == 1)
    await until(lambda: world.cache.released == 1)


async def test_a_caller_that_hangs_up_stops_a_shards_work(world: World) -> None:
    world.shards[0].gate = asyncio.Event()
    call = world.stub.Ask(gateway_pb2.AskRequest(collection="handbook", question="How many days?"), timeout=20)
    reading = asyncio.ensure_future(call.read())
    await until(lambda: world.shards[0].calls)
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await until(lambda: world.shards[0].cancelled == 1)


async def test_questions_beyond_the_bound_are_refused_and_cached_ones_are_not(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings={"max_concurrent_asks": 1}) as world:
        await world.collection()
        await world.put({"leave": "Staff get 25 days of leave a year."})
        world.generation.says = ["Staff get 25 days of leave."]
        await world.ask("leave, cached?")
        world.generation.gate = asyncio.Event()
        working = asyncio.create_task(world.ask("leave, one?"))
        await until(lambda: world.generation.calls == 2)
        error = await failure(world.ask("leave, two?"))
        assert (error.code, error.reason, error.retry_after_ms > 0) == (
            ErrorCode.RESOURCE_EXHAUSTED,
            "QUOTA_EXCEEDED",
            True,
        )
        [*_, done] = await world.ask("leave, cached?")
        assert outcome(done.done) == "HIT"
        world.generation.gate.set()
        await working


async def test_a_question_that_nothing_is_near_to_is_not_answered_from_noise(world: World) -> None:
    [retrieved, token, done] = await world.ask("Who discovered penicillin?")
    assert token.token.text == done.done.answer == "The collection holds nothing on this."
    assert (len(retrieved.retrieved.passages), world.generation.calls) == (0, 0)


async def test_small_models_get_evidence_in_their_prompt_and_large_ones_passages(world: World) -> None:
    await world.ask("How many days of leave do staff get?")
    assert all(text in str(world.generation.requests[0].messages) for text in ("40 places", "Oslo", "25 days"))


async def test_evidence_prompts_hold_the_best_sentences_alone(tmp_path: Path) -> None:
    async with open_world(tmp_path, settings={"prompt_evidence_sentences": 1}) as world:
        world.generation.prompt_style = generation_pb2.PROMPT_STYLE_EVIDENCE
        world.generation.says = ["Staff get 25 days."]
        await world.collection()
        await world.put({"leave": "Staff get 25 days of leave a year.", "park": "The car park has 40 places."})
        await world.ask("How many days of leave do staff get?")
        [request] = world.generation.requests
        assert "25 days" in str(request.messages)
        assert "40 places" not in str(request.messages)
        assert request.evidence[0].text == "Staff get 25 days of leave a year."
        assert request.scope.tenant == "default"


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        ({"collection": ""}, "INVALID_ARGUMENT", "collection"),
        ({"collection": "nobodys"}, "NOT_FOUND", "collection"),
        ({"question": ""}, "INVALID_ARGUMENT", "question"),
        ({"question": " \n"}, "INVALID_ARGUMENT", "question"),
        ({"question": "x" * 8193}, "INVALID_ARGUMENT", "question"),
        ({"k": 1001}, "INVALID_ARGUMENT", "k"),
        ({"after": "nonsense"}, "INVALID_ARGUMENT", "after"),
        ({"model": "gpt"}, "INVALID_ARGUMENT", "model"),
        ({"sampling": gateway_pb2.Sampling(max_tokens=4097)}, "INVALID_ARGUMENT", "sampling.max_tokens"),
        ({"sampling": gateway_pb2.Sampling(temperature=2.5)}, "INVALID_ARGUMENT", "sampling.temperature"),
        ({"sampling": gateway_pb2.Sampling(temperature=float("nan"))}, "INVALID_ARGUMENT", "sampling.temperature"),
        ({"sampling": gateway_pb2.Sampling(top_p=1.5)}, "INVALID_ARGUMENT", "sampling.top_p"),
        ({"filter": common_pb2.Filter(exists=common_pb2.FieldExists(field="a"))}, "UNIMPLEMENTED", "filter"),
        ({"mode": common_pb2.SEARCH_MODE_HYBRID}, "UNIMPLEMENTED", "mode"),
    ],
)
async def test_a_bad_question_is_refused_naming_its_field(
    world: World, request_: dict[str, Any], code: str, field: str
) -> None:
    error = await failure(world.ask(**{"collection": "handbook", "question": "what?", **request_}))
    assert (error.code, error.field) == (ErrorCode(code), field)


async def test_a_question_without_a_deadline_is_answered(world: World) -> None:
    [*_, done] = await world.ask(timeout=None)
    assert done.done.answer
