"""A lost shard is written on the answer, and strict callers are refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from headwater import Client, Document, Unavailable

from tests.e2e.conftest import QUOTING
from tests.harness.processes import Processes, running_stack


@pytest.fixture
def two_shards(state: Path):  # type: ignore[no-untyped-def]
    with running_stack(state, settings=QUOTING, shards=2) as processes:
        yield processes


def spread_out(client: Client) -> None:
    """A collection that lies on both shards whatever its id: it is spread over every partition."""
    from headwater import CollectionSettings

    client.create_collection("wide", settings=CollectionSettings(spread=16))
    client.put("wide", [Document(f"d{n}", text=f"Fact number{n} of the wide collection.") for n in range(64)])


def test_one_of_two_shards_lost_is_marked_and_heals(two_shards: Processes) -> None:
    with Client(two_shards.stack.address) as client:
        spread_out(client)
        whole = client.search("wide", "fact of the wide collection", k=100)
        assert whole.coverage.complete
        assert len(whole) == 64

        two_shards.kill("retrieval-1")
        partial = client.search("wide", "fact of the wide collection", k=100, after=None)
        assert partial.coverage.partitions_total == 16
        assert partial.coverage.partitions_answered == 8
        assert partial.coverage.partitions_missing == tuple(range(8, 16))
        assert [degradation.kind for degradation in partial.degradations] == ["partial_coverage"]
        assert {hit.document_id for hit in partial} < {hit.document_id for hit in whole}

        answer = client.answer("wide", "what is fact number3?", after=None)
        assert answer.coverage.partitions_answered == 8
        assert "partial_coverage" in [degradation.kind for degradation in answer.degradations]
        again = client.answer("wide", "what is fact number3?", after=None)
        assert again.cache.value != "hit", "a partial answer must not be cached"

        with pytest.raises(Unavailable):
            client.search("wide", "fact", strict=True, after=None)
        with pytest.raises(Unavailable):
            client.answer("wide", "what is fact number3?", strict=True, after=None)

        time.sleep(5)  # the gateway's attempts to reach it are by now as far apart as they get
        two_shards.start("retrieval-1")
        two_shards.wait_ready("retrieval-1")
        assert client.search("wide", "fact of the wide collection", k=100, strict=True).hits == whole.hits


def test_without_any_shard_there_is_no_answer(two_shards: Processes) -> None:
    with Client(two_shards.stack.address) as client:
        spread_out(client)
        client.search("wide", "fact", k=1)
        two_shards.kill("retrieval-0")
        two_shards.kill("retrieval-1")
        with pytest.raises(Unavailable):
            client.answer("wide", "what is fact number3?", after=None)


def test_shards_change_by_a_restart(state: Path) -> None:
    with running_stack(state, settings=QUOTING, shards=1) as processes, Client(processes.stack.address) as client:
        spread_out(client)
        before = client.search("wide", "fact of the wide collection", k=100)
    for shards in (2, 1):
        with (
            running_stack(state, settings=QUOTING, shards=shards) as processes,
            Client(processes.stack.address) as client,
        ):
            after = client.search("wide", "fact of the wide collection", k=100, strict=True)
            assert after.hits == before.hits
