"""The log's rules on a running stack, over both engines: stalls, compaction, other lives of a log and of a name."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from headwater import Client, Document, DocumentState, FailedPrecondition, NotFound

from serving.eventlog import Topic
from tests.e2e.conftest import QUOTING
from tests.harness.eventlog import compact, replace, stop_outside_transactions
from tests.harness.processes import Processes, running_stack
from tests.harness.retrieval import dump

PATIENCE_SECONDS = 110
SESSION_SECONDS = 6  # the least that a Kafka broker allows
ENDED_BY_A_NEW_LOG = ("gateway", "ingestion-api", "ingestion-worker")


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def stack(request: pytest.FixtureRequest, state: Path) -> Iterator[Processes]:
    """Every service, on a log of its own."""
    settings = QUOTING | {"HEADWATER_LOG__SESSION_SECONDS": str(SESSION_SECONDS)}
    log: dict[str, object] = {}
    if request.param == "kafka":
        log = {
            "log": "kafka",
            "bootstrap_servers": request.getfixturevalue("kafka_bootstrap_servers"),
            "topic_prefix": f"test-{uuid4().hex[:8]}.",
        }
    with running_stack(state, settings=settings, **log) as processes:
        yield processes


@pytest.fixture
def client(stack: Processes) -> Iterator[Client]:
    """A client of that stack."""
    with Client(stack.stack.address) as client:
        yield client


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what no event tells of."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.05)


def put(client: Client, collection: str, texts: dict[str, str]) -> None:
    client.put(collection, [Document(name, text=text) for name, text in texts.items()])


def found(client: Client, collection: str) -> dict[str, str]:
    """Every document by a search, after all that the client wrote."""
    return {
        hit.document_id: hit.text for hit in client.search(collection, "anything", k=1000, timeout=PATIENCE_SECONDS)
    }


def listed(client: Client, collection: str) -> dict[str, DocumentState]:
    return {status.document_id: status.state for status in client.list_documents(collection)}


def database(stack: Processes, shard: str = "retrieval-0") -> Path:
    (path,) = (stack.stack.state / shard).glob("*.sqlite3")
    return path


def add_shard(stack: Processes, name: str, number: int) -> None:
    """A second process of the shard, with a database of its own, from empty."""
    stack.add(name, "retrieval-0", number, HEADWATER_RETRIEVAL__STATE_DIR=str(stack.stack.state / name))


def lags(stack: Processes, worker: str) -> bool:
    lag = [line for line in stack.metrics(worker) if line.startswith("headwater_ingestion_lag_records{")]
    return any(not line.endswith(" 0.0") for line in lag)


def compact_index(stack: Processes) -> int:
    return asyncio.run(compact(stack.stack.log_settings, Topic.INDEX))


@pytest.mark.timeout(300)
def test_a_stalled_worker_brings_no_deleted_document_back(stack: Processes, client: Client) -> None:
    """Rule 1: a put is in flight, SIGSTOP, another owner deletes the document, SIGCONT; then compaction, and a rebuild
    from empty."""
    client.create_collection("docs")
    put(client, "docs", {"gone": "before", "kept": "kept"})
    assert found(client, "docs") == {"gone": "before", "kept": "kept"}
    # a late record would be the last thing it does: going on, it would read the deletion and mend what it did
    stack.kill("ingestion-worker")
    stack.start("ingestion-worker", HEADWATER_SERVER__CRASH_POINT="ingestion.after_index_append")
    stack.wait_ready("ingestion-worker")
    stack.signal("embedding", signal.SIGSTOP)
    put(client, "docs", {"gone": "late"})
    until(lambda: lags(stack, "ingestion-worker"), "the put is in flight")
    stop_outside_transactions(partial(stack.signal, "ingestion-worker"), stack.stack.log_settings)
    stack.signal("embedding", signal.SIGCONT)

    stack.add("second-worker", "ingestion-worker", 55, HEADWATER_INGESTION__MEMBER="second")
    client.delete("docs", ["gone"])
    with pytest.raises(NotFound):
        client.get_document("docs", "gone", timeout=PATIENCE_SECONDS)
    stack.signal("ingestion-worker", signal.SIGCONT)
    until(
        lambda: '"event": "fenced"' in stack.said("ingestion-worker") or stack.has_ended("ingestion-worker"),
        "the stalled worker has tried to append",
    )

    assert compact_index(stack) > 0
    stack.kill("retrieval-0")
    shutil.rmtree(stack.stack.state / "retrieval-0")
    stack.start("retrieval-0")
    stack.wait_ready("retrieval-0")
    with Client(stack.stack.address) as other:  # asks for nothing that it wrote itself
        assert found(other, "docs") == {"kept": "kept"}
        assert listed(other, "docs") == {"kept": DocumentState.INDEXED}


@pytest.mark.timeout(300)
def test_a_shard_away_past_compaction_and_one_from_empty_equal_one_that_saw_it_all(
    stack: Processes, client: Client
) -> None:
    """Rules 2, 3 and 4: the three databases are the same, row by row."""
    add_shard(stack, "witness", 23)
    client.create_collection("docs")
    put(client, "docs", {f"d{number}": f"first {number}" for number in range(30)})
    assert len(found(client, "docs")) == 30
    stack.kill("retrieval-0")

    client.delete("docs", [f"d{number}" for number in range(0, 30, 3)])
    put(client, "docs", {f"d{number}": f"second {number}" for number in range(1, 30, 3)})
    put(client, "docs", {"d0": "put again", "d2": "first 2"})
    client.put("docs", [Document("d3", body=b"no PDF", content_type="application/pdf")])
    expected = {"d0": "put again"} | {f"d{number}": f"first {number}" for number in range(2, 30, 3)}
    expected |= {f"d{number}": f"second {number}" for number in range(1, 30, 3)}

    def states() -> dict[str, str]:
        return {row[2]: row[7] for row in dump(database(stack, "witness"))["documents"]}

    until(lambda: states().get("d3") == "rejected" and states()["d27"] == "deleted", "the witness has seen it all")
    assert compact_index(stack) > 0
    stack.start("retrieval-0")
    add_shard(stack, "rebuilt", 25)
    stack.wait_ready("retrieval-0")

    assert found(client, "docs") == expected
    assert client.get_document("docs", "d3").state is DocumentState.REJECTED
    for shard in ("retrieval-0", "rebuilt"):
        until(lambda: dump(database(stack, shard)) == dump(database(stack, "witness")), f"{shard} is the same")  # noqa: B023


@pytest.mark.timeout(300)
def test_compacting_the_log_of_a_running_stack_changes_no_answer(stack: Processes, client: Client) -> None:
    """Of every topic, whatever the records' age; then each process is restarted on what is left."""
    for name in ("kept", "dropped"):
        client.create_collection(name)
        put(client, name, {f"d{number}": f"first {number}" for number in range(10)})
    put(client, "kept", {f"d{number}": f"second {number}" for number in range(5)})
    client.delete("kept", ["d9"])
    client.delete_collection("dropped")
    client.create_collection("dropped")
    before = found(client, "kept")
    assert len(before) == 9
    answer = client.answer("kept", "what is second 3?")
    until(lambda: not lags(stack, "ingestion-worker"), "all is done")

    for topic in (Topic.COLLECTIONS, Topic.DOCUMENTS, Topic.INDEX):
        asyncio.run(compact(stack.stack.log_settings, topic))
    if stack.stack.log == "sqlite":
        until(lambda: "records dropped" in stack.said("compaction"), "the stack itself compacts its log")
    for restarted in ([], ["retrieval-0", "cache", "ingestion-worker", "ingestion-api", "gateway"]):
        for name in restarted:
            stack.kill(name)
            stack.start(name)
        stack.wait_ready()
        assert found(client, "kept") == before
        assert client.answer("kept", "what is second 3?").text == answer.text
        assert found(client, "dropped") == {}
        put(client, "kept", {"d0": f"after {restarted}"})
        before["d0"] = f"after {restarted}"
        assert found(client, "kept") == before


@pytest.mark.timeout(300)
def test_a_recreated_log_is_noticed_by_every_process(stack: Processes, client: Client) -> None:
    """Rule 5: nothing is stopped but the log. Who cannot go on ends, to be restarted; nothing old is shown, and old
    tokens fail clearly."""
    question = "how many days is paid leave?"
    client.create_collection("docs")
    put(client, "docs", {"leave": "Paid leave is 25 days."})
    old_token = client.own_writes("docs")
    assert "25" in client.answer("docs", question).text
    until(lambda: client.answer("docs", question).cache.value == "hit", "the answer is cached")

    asyncio.run(replace(stack.stack.log_settings))
    for name in ENDED_BY_A_NEW_LOG:
        until(lambda: stack.has_ended(name), f"{name} has ended")  # noqa: B023
        assert "LogReplaced" in stack.said(name)
        stack.start(name)
    until(lambda: "the log was replaced" in stack.said("cache"), "the cache has noticed")
    until(lambda: "log_replaced" in stack.said("retrieval-0"), "the shard has noticed")
    stack.wait_ready()

    with Client(stack.stack.address) as anew:
        assert anew.list_collections() == []
        anew.create_collection("docs")
        assert found(anew, "docs") == {}
        assert "25" not in anew.answer("docs", question).text
        put(anew, "docs", {"leave": "Paid leave is 30 days."})
        assert found(anew, "docs") == {"leave": "Paid leave is 30 days."}
        assert "30" in anew.answer("docs", question).text
        for call in (
            lambda: anew.search("docs", question, after=old_token),
            lambda: anew.answer("docs", question, after=old_token),
            lambda: anew.get_document("docs", "leave", after=old_token),
            lambda: anew.put("docs", [Document("other", text="other")], after=old_token),
        ):
            with pytest.raises(FailedPrecondition, match="another log") as refused:
                call()
            assert refused.value.reason == "LOG_REPLACED"
    # one from before hears of it once, and forgets what it held
    with pytest.raises(FailedPrecondition, match="another log"):
        client.search("docs", question)
    assert found(client, "docs") == {"leave": "Paid leave is 30 days."}


@pytest.mark.timeout(300)
def test_a_collection_created_anew_shows_nothing_of_its_former_life(stack: Processes, client: Client) -> None:
    question = "how many days is paid leave?"
    former = client.create_collection("docs")
    put(client, "docs", {"leave": "Paid leave is 25 days.", "other": "Other things."})
    assert "25" in client.answer("docs", question).text
    client.delete_collection("docs")
    with Client(stack.stack.address) as other, pytest.raises(NotFound):
        other.search("docs", question)

    anew = client.create_collection("docs")
    assert anew.collection_id != former.collection_id
    compact_index(stack)
    for restarted in ([], ["retrieval-0", "cache", "gateway"]):
        for name in restarted:
            stack.kill(name)
            stack.start(name)
        stack.wait_ready()
        with Client(stack.stack.address) as other:
            assert found(other, "docs") == {}
            assert listed(other, "docs") == {}
            assert "25" not in other.answer("docs", question).text
    put(client, "docs", {"leave": "Paid leave is 30 days."})
    assert found(client, "docs") == {"leave": "Paid leave is 30 days."}
    assert listed(client, "docs") == {"leave": DocumentState.INDEXED}
    assert "30" in client.answer("docs", question).text
