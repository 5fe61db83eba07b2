"""Waiting for a searcher that has seen a write."""

import asyncio
from typing import cast

import pytest

from services.retrieval.errors import NotReady
from services.retrieval.publication import Publication, Requirement, View
from services.retrieval.reader import Reader
from services.retrieval.rows import Progress
from services.retrieval.searcher import Searcher
from serving.deadlines import with_deadline
from serving.errors import DeadlineExceeded, FailedPrecondition


def view(*documents_offsets: int, log_id: bytes = b"log") -> View:
    progress = {partition: Progress(offset, offset) for partition, offset in enumerate(documents_offsets)}
    return View(Searcher(log_id, progress), cast(Reader, None))


async def test_a_wait_ends_with_the_first_searcher_that_has_seen_the_write() -> None:
    publication = Publication()
    publication.publish(view(5, 5))
    waiting = asyncio.create_task(publication.wait_for(Requirement(b"log", {0: 5, 1: 5})))
    for published in (view(6, 5), view(6, 5), view(6, 6)):
        await asyncio.sleep(0)
        assert not waiting.done()
        publication.publish(published)

    assert (await waiting).searcher.progress[1].documents_offset == 6


async def test_a_wait_ends_at_the_deadline_and_names_the_partition_that_is_behind() -> None:
    publication = Publication()
    publication.publish(view(5, 7))

    with with_deadline(0.01), pytest.raises(DeadlineExceeded, match="partition 1 is applied up to offset 7, and 9"):
        await publication.wait_for(Requirement(b"log", {0: 4, 1: 9}))


async def test_a_token_of_another_log_fails_clearly() -> None:
    publication = Publication()
    publication.publish(view(5))

    with pytest.raises(FailedPrecondition) as refused:
        await publication.wait_for(Requirement(b"other", {0: 1}))

    assert refused.value.reason == "LOG_REPLACED"


async def test_those_who_wait_are_told_when_the_log_is_replaced() -> None:
    publication = Publication()
    publication.publish(view(5))
    waiting = asyncio.create_task(publication.wait_for(Requirement(b"log", {0: 9})))
    await asyncio.sleep(0)

    publication.withdraw(NotReady("made anew", reason="REBUILDING"))

    with pytest.raises(NotReady) as refused:
        await waiting
    assert refused.value.reason == "REBUILDING"


def test_only_the_partitions_concerned_are_waited_for() -> None:
    requirement = Requirement(b"log", {0: 1, 1: 2, 5: 3}).of({1, 2})

    assert requirement == Requirement(b"log", {1: 2})
