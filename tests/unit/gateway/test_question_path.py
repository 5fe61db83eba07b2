"""The parts of a question's path, each alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from headwater.common.v1 import common_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import evidence, passages, prompt
from services.gateway.embedder import Embedder, Matrix, TextKind
from services.gateway.models import Model, ModelDirectory
from services.gateway.retriever import Fanout, merge_hits
from services.gateway.settings import GatewaySettings
from services.gateway.values import DegradationKind, DocumentState, Evidence, Passage
from serving.errors import InvalidArgument, Unavailable
from serving.eventlog.keys import partitions_of


@dataclass(frozen=True)
class Chunk:
    document_id: str
    text: str = "some text"
    chunk: int = 0
    score: float = 0.0
    title: str = ""


class Embedding:
    """Counts what it is asked; a text's vector is its length and its first letter."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False

    async def embed(self, texts: Sequence[str], kind: TextKind, fingerprint: str) -> Matrix:
        if self.down:
            raise Unavailable("down")
        self.asked += texts
        return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)


hits = st.lists(st.builds(Chunk, st.text("abc", max_size=2), st.just(""), st.integers(0, 3), st.integers(0, 5)))


@given(st.lists(hits, max_size=4), st.integers(min_value=1, max_value=8))
def test_shards_hits_merge_to_the_best_of_all(lists: list[list[Chunk]], k: int) -> None:
    ordered = sorted((hit for one in lists for hit in one), key=lambda hit: (-hit.score, hit.document_id, hit.chunk))
    shards = [sorted(one, key=lambda hit: -hit.score) for one in lists]
    assert list(merge_hits(shards, k)) == ordered[:k]


def test_every_partition_has_one_owner_and_shards_share_evenly() -> None:
    fanout = Fanout([None, None, None], 16, GatewaySettings())
    owned = fanout.owned(range(16))
    assert sorted(partition for mine in owned.values() for partition in mine) == list(range(16))
    assert {len(mine) for mine in owned.values()} <= {5, 6}
    collection = partitions_of("c" * 32, spread=4, partitions=16)
    assert sum(len(mine) for mine in fanout.owned(collection).values()) == 4


def test_the_best_passages_come_in_the_order_of_their_documents() -> None:
    found = [Chunk("b", "first"), Chunk("a", "second", 1), Chunk("c", "third"), Chunk("a", "fourth", 0)]
    chosen = passages.select(found, max_passages=3, max_tokens=100)
    assert [(one.number, one.hit.text) for one in chosen] == [(1, "second"), (2, "first"), (3, "third")]


def test_passages_fit_their_tokens_and_the_best_is_always_there() -> None:
    found = [Chunk("b", "x" * 400), Chunk("a", "y" * 200), Chunk("c", "z" * 60)]
    chosen = passages.select(found, max_passages=3, max_tokens=160)
    assert [one.hit.document_id for one in chosen] == ["b", "c"]
    assert [one.hit.document_id for one in passages.select(found, max_passages=3, max_tokens=1)] == ["b"]


def test_the_same_text_is_one_passage() -> None:
    assert len(passages.select([Chunk("a"), Chunk("b")], max_passages=3, max_tokens=100)) == 1


async def test_vectors_are_asked_for_once_a_text_kind_and_model() -> None:
    client = Embedding()
    embedder = Embedder(client, GatewaySettings())
    first = await embedder.embed(["one", "two", "one"], TextKind.QUERY, "m")
    assert first.tolist() == [[3, 111], [3, 116], [3, 111]]
    await embedder.embed(["three", "two"], TextKind.QUERY, "m")
    assert client.asked == ["one", "two", "three"]
    await embedder.embed(["two"], TextKind.DOCUMENT, "m")
    await embedder.embed(["two"], TextKind.QUERY, "other")
    assert client.asked[3:] == ["two", "two"]


async def test_more_texts_than_are_remembered_come_back_whole() -> None:
    embedder = Embedder(Embedding(), GatewaySettings(vector_cache_entries=2))
    texts = ["a", "bb", "ccc", "dddd"]
    assert (await embedder.embed(texts, TextKind.QUERY, "m"))[:, 0].tolist() == [1, 2, 3, 4]


async def test_evidence_is_ranked_by_words_when_embedding_is_down() -> None:
    client = Embedding()
    client.down = True
    given = (Passage(1, Chunk("a", "The office is in Oslo. You get 25 days of leave.")),)
    ranked = await evidence.rank(
        Embedder(client, GatewaySettings()), "how much leave?", np.ones((1, 2), np.float32), given, "m"
    )
    assert not ranked.by_meaning
    assert ranked.sentences[0].text == "You get 25 days of leave."


async def test_a_sentence_in_two_passages_is_evidence_once() -> None:
    given = (Passage(1, Chunk("a", "You get leave now.")), Passage(2, Chunk("b", "You get leave now.")))
    ranked = await evidence.rank(Embedder(Embedding(), GatewaySettings()), "q", np.ones((1, 2), np.float32), given, "m")
    assert [(one.passage, one.text) for one in ranked.sentences] == [(1, "You get leave now.")]


@pytest.mark.parametrize("sign", [1, -1])
async def test_evidence_far_below_the_best_is_left_out(sign: int) -> None:
    given = (Passage(1, Chunk("a", "You get leave in all of the years. You get leave in May. You get it.")),)
    along_length = np.array([[sign, 0]], np.float32)
    ranked = await evidence.rank(Embedder(Embedding(), GatewaySettings()), "q", along_length, given, "m")
    [best] = ranked.sentences
    assert best.text == ("You get leave in all of the years." if sign > 0 else "You get it.")


def test_prompts_carry_what_their_style_says() -> None:
    given = (Passage(1, Chunk("a", "The whole passage. Best.", title="Leave")),)
    ranked = (Evidence(1, "Best.", 0.9), Evidence(1, "Good.", 0.5), Evidence(1, "Poor.", 0.1))
    whole = prompt.build(prompt.Style.PASSAGES, "Why?", given, ranked, evidence_sentences=2)
    assert "[1] (Leave) The whole passage. Best." in whole.turns[-1].text
    few = prompt.build(prompt.Style.EVIDENCE, "Why?", given, ranked, evidence_sentences=2)
    assert few.turns[-1].text == "Why?\n\nAnswer with the words of this text:\nBest. Good."


class Models:
    """A list of models that can be away."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.asked = 0

    async def models(self, timeout_seconds: float) -> Sequence[Model]:
        self.asked += 1
        if not self.names:
            raise Unavailable("down")
        return [Model(name, prompt.Style.EVIDENCE, 2048) for name in self.names]


async def test_the_default_model_is_the_first_and_the_list_is_remembered() -> None:
    client = Models("small", "large")
    directory = ModelDirectory(client, GatewaySettings())
    first, second = await directory.find(""), await directory.find("large")
    assert first is not None
    assert second is not None
    assert (first.name, second.name, client.asked) == ("small", "large", 1)


async def test_a_model_that_is_not_served_is_named_with_those_that_are() -> None:
    with pytest.raises(InvalidArgument, match="'small'") as caught:
        await ModelDirectory(Models("small"), GatewaySettings()).find("gpt")
    assert caught.value.field == "model"


async def test_without_a_list_there_is_no_model_and_not_every_question_asks() -> None:
    client = Models()
    directory = ModelDirectory(client, GatewaySettings())
    assert [await directory.find("") for _ in range(3)] == [None, None, None]
    assert client.asked == 1


async def test_an_old_list_serves_while_generation_is_away() -> None:
    client = Models("small")
    directory = ModelDirectory(client, GatewaySettings(models_ttl_seconds=0))
    await directory.find("")
    client.names = ()
    for _ in range(3):
        found = await directory.find("")
        assert found is not None
    await directory.close()


def test_names_and_numbers_are_those_of_the_contract() -> None:
    states = {name.removeprefix("DOCUMENT_STATE_"): number for name, number in common_pb2.DocumentState.items()}
    assert states == {state.name: state.value for state in DocumentState}
    kinds = {name.removeprefix("DEGRADATION_KIND_") for name in dict(common_pb2.DegradationKind.items())}
    assert {kind.value for kind in DegradationKind} <= kinds
