from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cache.admissions import AdmissionLimits, Admissions, Refusal
from services.cache.entries import Candidate, Header
from services.cache.history import Advance, Change, History

LOG = b"log"
LIMITS = AdmissionLimits(max_entries=3, max_bytes=1_000_000, ttl_ms=1000)


class Clock:
    """A wall clock in milliseconds that a test sets."""

    def __init__(self) -> None:
        self.now_ms = 10_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admissions(clock: Clock) -> Admissions:
    return following(clock)


def following(clock: Clock, limits: AdmissionLimits = LIMITS) -> Admissions:
    admissions = Admissions(History(100), limits, clock)
    admissions.follow(LOG, {0: 0, 1: 0})
    return admissions


def header(
    key: str = "k",
    at: Mapping[int, int] | None = None,
    *,
    entry_id: bytes = b"e",
    log_id: bytes = LOG,
    collection_id: str = "c",
    stored_unix_ms: int = 10_000,
) -> Header:
    at = {0: 10, 1: 10} if at is None else at
    candidates = (Candidate("d", 0.5),)
    return Header(entry_id, key.encode(), collection_id, log_id, at, candidates, 0.1, 0.1, b"", stored_unix_ms)


def change(admissions: Admissions, offset: int, *, partition: int = 0, collection_id: str = "c") -> None:
    record = Change(partition, offset, collection_id, "d")
    admissions.apply(Advance(partition, [record], None, offset + 1, offset + 1, 0.0))


def test_change_since_retrieval_keeps_the_entry_out(admissions: Admissions) -> None:
    change(admissions, 10)
    assert admissions.admit(header()) is Refusal.OVERTAKEN
    assert admissions.admit(header(at={0: 11, 1: 10})) is None


def test_change_drops_what_was_retrieved_before_it(admissions: Admissions) -> None:
    admissions.admit(header("before", {0: 4, 1: 4}))
    admissions.admit(header("after", {0: 6, 1: 4}))
    admissions.admit(header("elsewhere", {0: 4, 1: 4}, collection_id="other"))
    change(admissions, 5)
    assert admissions.get(b"before") is None
    assert admissions.get(b"after") is not None
    assert admissions.get(b"elsewhere") is not None
    assert admissions.invalidations == 1


def test_change_in_a_partition_the_entry_says_nothing_of_drops_it(admissions: Admissions) -> None:
    admissions.admit(header(at={0: 10}))
    change(admissions, 3, partition=1)
    assert admissions.get(b"k") is None


@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("cd")), max_size=20),
    st.integers(0, 20),
    st.fixed_dictionaries({0: st.integers(0, 12), 1: st.integers(0, 12)}),
)
def test_what_is_served_does_not_depend_on_when_it_was_admitted(
    records: list[tuple[int, str]], admitted_after: int, at: Mapping[int, int]
) -> None:
    """Admission's look back and invalidation's look forward are one rule: no change at or above the retrieval."""
    admissions = following(Clock())
    ends = {0: 0, 1: 0}
    for number, (partition, collection_id) in enumerate(records):
        if number == admitted_after:
            admissions.admit(header(at=at))
        change(admissions, ends[partition], partition=partition, collection_id=collection_id)
        ends[partition] += 1
    if admitted_after >= len(records):
        admissions.admit(header(at=at))
    seen = {0: 0, 1: 0}
    touched = False
    for partition, collection_id in records:
        touched = touched or (collection_id == "c" and seen[partition] >= at[partition])
        seen[partition] += 1
    assert (admissions.get(b"k") is None) == touched


def test_entry_of_another_log_is_refused(admissions: Admissions) -> None:
    assert admissions.admit(header(log_id=b"other")) is Refusal.ANOTHER_LOG
    admissions.forget_log()
    assert admissions.admit(header()) is Refusal.ANOTHER_LOG
    assert admissions.admit(header(log_id=b"")) is Refusal.ANOTHER_LOG


def test_new_log_drops_everything(admissions: Admissions) -> None:
    admissions.admit(header())
    admissions.follow(b"new", {0: 0})
    assert len(admissions) == 0
    assert admissions.memory_bytes == 0


def test_entry_retrieved_before_what_is_known_is_refused(clock: Clock) -> None:
    admissions = Admissions(History(100), LIMITS, clock)
    admissions.follow(LOG, {0: 11, 1: 0})
    assert admissions.admit(header()) is Refusal.TOO_OLD


def test_entries_expire(admissions: Admissions, clock: Clock) -> None:
    admissions.admit(header())
    clock.now_ms += 999
    assert admissions.get(b"k") is not None
    clock.now_ms += 1
    assert admissions.get(b"k") is None
    assert admissions.admit(header()) is Refusal.EXPIRED


def test_least_recently_used_goes_when_full(admissions: Admissions) -> None:
    for key in "abc":
        admissions.admit(header(key))
    admissions.get(b"a")
    admissions.admit(header("d"))
    assert admissions.get(b"b") is None
    assert len(admissions) == 3


def test_memory_is_bounded(clock: Clock) -> None:
    admissions = following(clock, AdmissionLimits(max_entries=1000, max_bytes=10_000, ttl_ms=1000))
    for number in range(100):
        admissions.admit(header(f"{number}"))
        assert admissions.memory_bytes <= 10_000
    assert len(admissions) > 1


def test_newer_entry_of_a_key_takes_the_place_of_the_former(admissions: Admissions) -> None:
    former, newer = header(entry_id=b"1"), header(entry_id=b"2")
    admissions.admit(former)
    admissions.admit(newer)
    admissions.discard(former)
    assert admissions.get(b"k") == newer
    admissions.discard(newer)
    assert admissions.get(b"k") is None
    assert admissions.memory_bytes == 0


def test_collection_is_dropped_whole(admissions: Admissions) -> None:
    admissions.admit(header("a"))
    admissions.admit(header("b"))
    admissions.admit(header("o", collection_id="other"))
    assert admissions.discard_collection("c") == 2
    assert admissions.discard_collection("c") == 0
    assert admissions.get(b"o") is not None
