"""What the openai engine makes of a server's ways."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from services.generation.engines import Generator, open_engine
from services.generation.requests import Delta, Finished, Message, Request, Role, Sampling, Usage
from services.generation.settings import GenerationSettings
from serving.errors import ErrorCode, HeadwaterError

REQUEST = Request("t", (Message(Role.SYSTEM, "be brief"), Message(Role.USER, "one two three four")))


def _settings(server: Any, **openai: object) -> GenerationSettings:
    return GenerationSettings.model_validate(
        {"engine": "openai", "openai": {"base_url": server.url, "model": "echo", "api_key": "a-key", **openai}}
    )


@pytest.fixture
async def openai(model_server: Any) -> AsyncIterator[Generator]:
    """The engine before the test's server."""
    async with open_engine(_settings(model_server)) as opened:
        yield opened


async def _run(engine: Generator, request: Request = REQUEST) -> list[Delta | Finished]:
    async with aclosing(engine.generate(await engine.prompt(request))) as events:
        return [event async for event in events]


async def test_the_request_is_what_was_asked(model_server: Any, openai: Generator) -> None:
    sampling = Sampling(max_tokens=3, temperature=0.5, top_p=0.9, seed=7, stop=("END",))
    await _run(openai, Request("t", REQUEST.messages, sampling))
    (body,) = model_server.bodies
    assert body["model"] == "echo"
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert [body[key] for key in ("max_tokens", "temperature", "top_p", "seed", "stop")] == [3, 0.5, 0.9, 7, ["END"]]


async def test_the_servers_usage_is_taken(openai: Generator) -> None:
    *_, finished = await _run(openai)
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(prompt_tokens=7, completion_tokens=4, cached_prompt_tokens=3)


async def test_without_usage_chunks_are_counted(model_server: Any, openai: Generator) -> None:
    model_server.sends_usage = False
    *_, finished = await _run(openai)
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("refusal", "code", "retry_after_ms"),
    [
        (Response(status_code=429, headers={"Retry-After": "3"}), ErrorCode.RESOURCE_EXHAUSTED, 3000),
        (Response(status_code=429), ErrorCode.RESOURCE_EXHAUSTED, 1000),
        (Response(status_code=500), ErrorCode.UNAVAILABLE, 0),
        (Response(status_code=503), ErrorCode.UNAVAILABLE, 0),
        (Response(status_code=401), ErrorCode.FAILED_PRECONDITION, 0),
        (Response(status_code=404), ErrorCode.FAILED_PRECONDITION, 0),
        (Response(status_code=400), ErrorCode.INVALID_ARGUMENT, 0),
        (Response("<html>hello</html>", media_type="text/html"), ErrorCode.UNAVAILABLE, 0),
        (Response("data: {nonsense\n\n", media_type="text/event-stream"), ErrorCode.UNAVAILABLE, 0),
        (Response('data: {"error": {"message": "no"}}\n\n', media_type="text/event-stream"), ErrorCode.UNAVAILABLE, 0),
    ],
)
async def test_a_refusal_is_a_typed_error(
    model_server: Any, openai: Generator, refusal: Response, code: ErrorCode, retry_after_ms: int
) -> None:
    model_server.refusal = refusal
    with pytest.raises(HeadwaterError) as raised:
        await _run(openai)
    assert (raised.value.code, raised.value.retry_after_ms) == (code, retry_after_ms)


async def test_an_answer_that_breaks_off_is_no_answer(model_server: Any, openai: Generator) -> None:
    model_server.breaks_off = True
    with pytest.raises(HeadwaterError) as raised:
        await _run(openai)
    assert raised.value.code is ErrorCode.UNAVAILABLE


async def test_a_server_that_is_down_is_unavailable(model_server: Any) -> None:
    async with open_engine(_settings(model_server, base_url="http://127.0.0.1:9/v1")) as engine:
        with pytest.raises(HeadwaterError) as raised:
            await _run(engine)
    assert raised.value.code is ErrorCode.UNAVAILABLE


async def test_a_wrong_key_says_which_setting(model_server: Any) -> None:
    async with open_engine(_settings(model_server, api_key="wrong")) as engine:
        with pytest.raises(HeadwaterError, match="API_KEY") as raised:
            await _run(engine)
    assert raised.value.code is ErrorCode.FAILED_PRECONDITION


async def test_closing_hangs_up_on_the_server(model_server: Any, openai: Generator) -> None:
    request = Request("t", (Message(Role.USER, "word " * 2000),), Sampling(max_tokens=2000))
    events = openai.generate(await openai.prompt(request))
    await anext(events)
    await events.aclose()
    await model_server.hung_up.wait()


async def test_the_key_is_never_shown(model_server: Any) -> None:
    assert "a-key" not in repr(_settings(model_server))


async def test_a_tokenizer_makes_counts_exact(model_server: Any, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the generation extra installs it")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    words.save(str(path))
    async with open_engine(_settings(model_server, tokenizer=str(path))) as engine:
        counted = await engine.count_tokens(["one two", ""])
    assert (counted.counts, counted.estimated) == ((2, 0), False)
