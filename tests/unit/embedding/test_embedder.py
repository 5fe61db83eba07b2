"""What is checked before a text is embedded, and what is remembered after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.embedding.batcher import Batcher
from services.embedding.embedder import TextEmbedder
from services.embedding.engines import TextKind
from services.embedding.engines.fake import FakeEmbedder
from services.embedding.errors import FingerprintMismatch
from services.embedding.settings import EmbeddingSettings
from serving.errors import ErrorCode, InvalidArgument
from serving.limits import MAX_TEXT_BYTES, MAX_TEXTS


@pytest.fixture
async def embedder() -> AsyncIterator[TextEmbedder]:
    engine = FakeEmbedder(EmbeddingSettings(engine="fake"))
    async with Batcher(engine, max_batch_tokens=4096, max_queued_tokens=1 << 20) as batcher:
        yield TextEmbedder(engine.model, batcher, max_cached_queries=2)


async def _embed(embedder: TextEmbedder, *texts: str, kind: TextKind = TextKind.DOCUMENT, **more: Any) -> Any:
    return await embedder.embed(texts, kind, interactive=False, **more)


def _embedded() -> float:
    return REGISTRY.get_sample_value("headwater_embedding_texts_total", {"outcome": "embedded"}) or 0.0


@pytest.mark.parametrize("count", [0, MAX_TEXTS + 1])
async def test_the_number_of_texts_is_bounded(embedder: TextEmbedder, count: int) -> None:
    with pytest.raises(InvalidArgument, match=str(MAX_TEXTS)) as caught:
        await _embed(embedder, *["text"] * count)
    assert caught.value.field == "texts"


@pytest.mark.parametrize("text", ["", " \n\t"])
async def test_an_empty_text_is_named_by_its_place(embedder: TextEmbedder, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await _embed(embedder, "fine", text)
    assert caught.value.field == "texts[1]"


async def test_a_texts_size_is_bounded_in_bytes(embedder: TextEmbedder) -> None:
    await _embed(embedder, "é" * (MAX_TEXT_BYTES // 2))
    with pytest.raises(InvalidArgument, match=str(MAX_TEXT_BYTES)) as caught:
        await _embed(embedder, "é" * (MAX_TEXT_BYTES // 2) + "x")
    assert caught.value.field == "texts[0]"


async def test_another_models_fingerprint_is_refused(embedder: TextEmbedder) -> None:
    await _embed(embedder, "text", expected_fingerprint=embedder.model.fingerprint)
    with pytest.raises(FingerprintMismatch) as caught:
        await _embed(embedder, "text", expected_fingerprint="other@1")
    assert caught.value.code is ErrorCode.FAILED_PRECONDITION
    assert embedder.model.fingerprint in caught.value.message


async def test_a_text_that_comes_twice_in_a_call_has_two_rows_and_is_run_once(embedder: TextEmbedder) -> None:
    before = _embedded()
    result = await _embed(embedder, "one", "two", "one")
    assert _embedded() == before + 2
    np.testing.assert_array_equal(result.vectors[0], result.vectors[2])
    assert result.token_counts == [1, 1, 1]


async def test_what_was_cut_is_said_by_its_index(embedder: TextEmbedder) -> None:
    result = await _embed(embedder, "short", "long " * 300, "short too", "long " * 257, "long " * 256)
    assert result.truncated == [1, 3]
    assert result.token_counts == [1, 256, 2, 256, 256]


async def test_questions_are_remembered_the_least_recent_forgotten(embedder: TextEmbedder) -> None:
    before = _embedded()
    for question in ("a", "b", "a", "c", "a"):
        await _embed(embedder, question, kind=TextKind.QUERY)
    assert _embedded() == before + 3
    await _embed(embedder, "b", kind=TextKind.QUERY)
    assert _embedded() == before + 4


async def test_a_remembered_question_is_the_same_as_a_computed_one(embedder: TextEmbedder) -> None:
    first = await _embed(embedder, "long " * 300, kind=TextKind.QUERY)
    again = await _embed(embedder, "long " * 300, kind=TextKind.QUERY)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert (first.token_counts, first.truncated) == (again.token_counts, again.truncated)


async def test_documents_are_not_remembered(embedder: TextEmbedder) -> None:
    before = _embedded()
    for _ in range(2):
        await _embed(embedder, "document")
    assert _embedded() == before + 2


async def test_warming_up_runs_the_model(embedder: TextEmbedder) -> None:
    before = _embedded()
    await embedder.warm_up()
    assert _embedded() == before + 2
