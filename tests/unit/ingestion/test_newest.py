"""Whose word counts when a document is said to be unchanged."""

from __future__ import annotations

from services.ingestion.newest import NOTHING_SAID, Newest, Word


def test_what_was_appended_here_goes_before_what_a_shard_says() -> None:
    newest = Newest(10, 100)
    newest.appended(b"key", b"new", 10)

    assert newest.hash_of(b"key", "id", Word({"id": b"old"}, 11)) == b"new"


def test_a_shard_counts_from_the_end_at_the_take_over_on() -> None:
    newest = Newest(10, 100)

    assert newest.hash_of(b"key", "id", Word({"id": b"old"}, 10)) == b"old"
    assert newest.hash_of(b"key", "id", Word({"id": b"old"}, 9)) == b""
    assert newest.hash_of(b"key", "id", NOTHING_SAID) == b""


def test_a_shard_must_have_applied_what_was_forgotten_here() -> None:
    newest = Newest(10, 2)
    for number, key in enumerate((b"a", b"b", b"c")):
        newest.appended(key, key, 20 + number)

    assert newest.hash_of(b"a", "a", Word({"a": b"older"}, 20)) == b""
    assert newest.hash_of(b"a", "a", Word({"a": b"a"}, 21)) == b"a"
    assert newest.knows(b"c")


def test_what_was_asked_for_lately_is_forgotten_last() -> None:
    newest = Newest(0, 2)
    newest.appended(b"a", b"a", 1)
    newest.appended(b"b", b"b", 2)
    newest.hash_of(b"a", "a", NOTHING_SAID)
    newest.appended(b"c", b"c", 3)

    assert newest.knows(b"a")
    assert not newest.knows(b"b")
