"""Write tokens, and the memory of one's own."""

from headwater import WriteResult, WriteToken
from headwater._memory import MAX_COLLECTIONS, WriteMemory
from hypothesis import given
from hypothesis import strategies as st

tokens = st.lists(st.sampled_from("abcdef"), max_size=6).map(lambda parts: WriteToken(",".join(dict.fromkeys(parts))))


@given(tokens, tokens, tokens)
def test_merging_is_associative_and_idempotent(a: WriteToken, b: WriteToken, c: WriteToken) -> None:
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert a | "" == a
    assert set((a | b).split(",")) - {""} == (set(a.split(",")) | set(b.split(","))) - {""}


def test_results_merge_like_their_tokens() -> None:
    first, second = WriteResult(WriteToken("a"), 1), WriteResult(WriteToken("b"), 1)
    assert first | second == "a,b"
    assert first | "c" == "a,c"
    assert WriteToken("c") | first.token == "c,a"


def test_a_token_replaces_the_one_it_was_sent_with() -> None:
    memory = WriteMemory()
    memory.wrote("c", sent="", token="1")
    memory.wrote("c", sent="1", token="2")
    assert memory.token("c") == "2"


def test_writes_at_the_same_time_are_both_kept() -> None:
    memory = WriteMemory()
    memory.wrote("c", sent="", token="1")
    memory.wrote("c", sent="1", token="2")
    memory.wrote("c", sent="1", token="3")
    assert memory.token("c") == "2,3"
    memory.wrote("c", sent="2,3", token="4")
    assert memory.token("c") == "4"


def test_the_least_recently_used_collection_is_forgotten() -> None:
    memory = WriteMemory()
    for number in range(MAX_COLLECTIONS):
        memory.wrote(str(number), sent="", token="t")
    memory.token("0")
    memory.wrote("new", sent="", token="t")
    assert memory.token("0") == "t"
    assert memory.token("1") == ""
