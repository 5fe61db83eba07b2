import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from services.cache import codec
from services.cache.entries import Candidate, Header, Invalidated, Released, Stored
from services.cache.errors import Corrupt

HEADER = Header(
    entry_id=b"e" * 16,
    key_hash=b"k" * 32,
    collection_id="c" * 32,
    log_id=b"l" * 16,
    index_offsets={0: 10, 3: 7},
    candidates=(Candidate("a", 0.5), Candidate("b", 0.25)),
    dense_cutoff=0.125,
    lexical_cutoff=-1.0,
    question_vector=b"\x00\x00\x80\x3f" * 4,
    stored_unix_ms=123,
)


def test_entry_comes_back_as_it_was() -> None:
    assert codec.decode_entry(codec.encode_entry(HEADER, b"an answer")) == (HEADER, b"an answer")


@pytest.mark.parametrize("event", [Stored(HEADER), Released(b"k"), Invalidated("c")])
def test_event_comes_back_as_it_was(event: Stored | Released | Invalidated) -> None:
    assert codec.decode_event(codec.encode_event(event)) == event


@given(st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(byte: int, bit: int) -> None:
    data = bytearray(codec.encode_entry(HEADER, b"an answer"))
    data[byte % len(data)] ^= 1 << bit
    with pytest.raises(Corrupt):
        codec.decode_entry(bytes(data))


@given(st.binary(max_size=40))
def test_anything_else_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        codec.decode_entry(data)
    with pytest.raises(Corrupt):
        codec.decode_event(data)


def test_an_empty_announcement_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        codec.decode_event(xxh3_64_digest(b""))
