"""Write tokens: what they carry, and what they refuse to be."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.errors import TokenOfAnotherLog
from services.gateway.tokens import MAX_TOKENS, TokenCodec
from services.gateway.values import WriteToken
from serving.errors import HeadwaterError, InvalidArgument

LOG = bytes(range(16))
PARTITIONS = 16
CODEC = TokenCodec(LOG, PARTITIONS)

offsets = st.integers(min_value=0, max_value=2**63 - 1)
tokens = st.builds(
    WriteToken,
    st.just(LOG),
    offsets,
    st.dictionaries(st.integers(min_value=0, max_value=PARTITIONS - 1), offsets),
)


@given(tokens)
def test_a_token_comes_back_as_it_was(token: WriteToken) -> None:
    assert CODEC.decode(CODEC.encode(token)) == token


@given(st.lists(tokens, min_size=1, max_size=5))
def test_joined_tokens_ask_for_the_most_of_each(several: list[WriteToken]) -> None:
    joined = CODEC.decode(", ".join(map(CODEC.encode, several)))
    assert joined is not None
    assert joined.collections_offset == max(token.collections_offset for token in several)
    for partition in range(PARTITIONS):
        wanted = [token.documents_offsets[partition] for token in several if partition in token.documents_offsets]
        assert joined.documents_offsets.get(partition) == max(wanted, default=None)


@given(tokens, st.data())
def test_a_changed_byte_is_never_taken(token: WriteToken, data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(_padded(CODEC.encode(token))))
    position = data.draw(st.integers(min_value=0, max_value=len(raw) - 1))
    raw[position] ^= data.draw(st.integers(min_value=1, max_value=255))
    with pytest.raises((InvalidArgument, TokenOfAnotherLog)):
        CODEC.decode(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(st.text(min_size=1))
def test_text_that_is_no_token_names_the_field(text: str) -> None:
    with pytest.raises(HeadwaterError) as caught:
        CODEC.decode(text)
    assert caught.value.field == "after"


def test_a_token_of_another_log_says_so() -> None:
    theirs = TokenCodec(b"another log, 16b", PARTITIONS).encode(WriteToken(b"another log, 16b", 1, {0: 1}))
    with pytest.raises(TokenOfAnotherLog) as caught:
        CODEC.decode(theirs)
    assert caught.value.reason == "LOG_REPLACED"


def test_a_token_signed_with_another_key_is_not_taken() -> None:
    forger = TokenCodec(b"another log, 16b", PARTITIONS)
    forger._head = CODEC._head  # knows which log, but not its id
    with pytest.raises(InvalidArgument):
        CODEC.decode(forger.encode(WriteToken(LOG, 1, {0: 1})))


def test_no_more_than_the_bound_are_joined() -> None:
    text = CODEC.encode(WriteToken(LOG, 1, {}))
    with pytest.raises(InvalidArgument):
        CODEC.decode(",".join([text] * (MAX_TOKENS + 1)))


def test_a_token_fits_its_bound_with_the_most_partitions() -> None:
    codec = TokenCodec(LOG, 1024)
    token = WriteToken(LOG, 2**63 - 1, dict.fromkeys(range(1024), 2**63 - 1))
    assert codec.decode(codec.encode(token)) == token


def test_nothing_asked_for_is_none() -> None:
    assert CODEC.decode("") is None


def test_only_what_concerns_some_partitions_is_left() -> None:
    token = WriteToken(LOG, 7, {1: 10, 2: 20})
    assert token.only([2, 3]) == WriteToken(LOG, 0, {2: 20})
    assert token.only([3]) is None


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
