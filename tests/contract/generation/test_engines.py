"""What every engine owes the scheduler."""

from contextlib import aclosing

import pytest

from services.generation.engines import Generator
from services.generation.requests import Delta, Evidence, Finished, FinishReason, Message, Request, Role, Sampling
from serving.errors import InvalidArgument

# One loop for the module, so that its tests share one loaded model.
pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "The library opens at nine on weekdays and the café closes at five in the evening 🌍 every day of the year."


def _request(text: str = TEXT, **sampling: object) -> Request:
    return Request(
        tenant="t",
        messages=(Message(Role.SYSTEM, "You repeat what you are told."), Message(Role.USER, text)),
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        evidence=(Evidence(text, 1, 0.9),),
    )


async def _run(engine: Generator, request: Request) -> tuple[list[Delta], Finished]:
    async with aclosing(engine.generate(await engine.prompt(request))) as events:
        everything = [event async for event in events]
    *deltas, finished = everything
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(finished, Finished)
    return [delta for delta in deltas if isinstance(delta, Delta)], finished


async def test_a_stream_is_deltas_and_then_one_end(engine: Generator) -> None:
    deltas, finished = await _run(engine, _request(max_tokens=24))
    assert "".join(delta.text for delta in deltas).strip()
    assert 0 < sum(delta.tokens for delta in deltas) <= finished.usage.completion_tokens <= 24
    assert finished.usage.prompt_tokens > 0


async def test_no_more_tokens_than_allowed(engine: Generator) -> None:
    _, finished = await _run(engine, _request(max_tokens=3))
    assert finished.usage.completion_tokens == 3
    assert finished.reason is FinishReason.LENGTH


async def test_the_same_request_twice_is_the_same_answer(engine: Generator) -> None:
    first, _ = await _run(engine, _request(max_tokens=24))
    second, _ = await _run(engine, _request(max_tokens=24))
    assert "".join(delta.text for delta in first) == "".join(delta.text for delta in second)


async def test_a_stop_text_ends_the_answer_and_is_not_in_it(engine: Generator) -> None:
    whole = "".join(delta.text for delta in (await _run(engine, _request(max_tokens=24)))[0])
    stop = whole[8:12]
    cut = "".join(delta.text for delta in (await _run(engine, _request(max_tokens=24, stop=(stop,))))[0])
    assert cut == whole[: whole.index(stop)]


async def test_closing_a_stream_leaves_the_engine_usable(engine: Generator) -> None:
    prompt = await engine.prompt(_request(max_tokens=24))
    events = engine.generate(prompt)
    await anext(events)
    await events.aclose()
    _, finished = await _run(engine, _request(max_tokens=3))
    assert finished.usage.completion_tokens == 3


async def test_tokens_are_counted_one_text_each(engine: Generator) -> None:
    counted = await engine.count_tokens(["", "one", "one two three four five six"])
    assert counted.counts[0] == 0
    assert 0 < counted.counts[1] < counted.counts[2]


async def test_a_prompt_longer_than_the_window_is_refused(engine: Generator) -> None:
    if engine.model.engine == "extractive":  # it reads the evidence alone
        await engine.prompt(_request("word " * 40_000))
        return
    with pytest.raises(InvalidArgument) as raised:
        await engine.prompt(_request("word " * 40_000))
    assert raised.value.field == "messages"
    assert str(engine.model.context_tokens) in raised.value.message


async def test_a_request_with_nothing_to_work_on_is_refused(engine: Generator) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await engine.prompt(Request(tenant="t", messages=()))
    assert raised.value.field in ("messages", "evidence")
