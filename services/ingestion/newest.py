"""What the newest index record of a document says: the content hash that "unchanged" is held against (rule 2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """What a retrieval shard says of some documents of a partition."""

    hashes: Mapping[str, bytes]
    """By document id; without those that are not indexed."""
    index_offset: int
    """The first index offset that the shard had not applied."""


NOTHING_SAID = Word({}, 0)


class Newest:
    """The hashes of what an owner appended since it took over, the latest of them.

    For other documents a shard's word counts only if the shard has applied all that was there at the take-over and all
    that has been forgotten here since: then no record of the document lies above what the shard knows.
    """

    def __init__(self, end_offset: int, max_documents: int) -> None:
        self._floor = end_offset
        self._max_documents = max_documents
        self._hashes: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()

    def hash_of(self, key: bytes, document_id: str, word: Word) -> bytes:
        """The content hash of the newest index record under that key; b"" when it has none or it is not known."""
        appended = self._hashes.get(key)
        if appended is not None:
            self._hashes.move_to_end(key)
            return appended[0]
        if word.index_offset >= self._floor:
            return word.hashes.get(document_id, b"")
        return b""

    def knows(self, key: bytes) -> bool:
        """Whether nobody else need be asked of that key."""
        return key in self._hashes

    def appended(self, key: bytes, content_hash: bytes, index_offset: int) -> None:
        """Note a record that the log has; b"" for one that is not of content."""
        self._hashes[key] = (content_hash, index_offset)
        self._hashes.move_to_end(key)
        while len(self._hashes) > self._max_documents:
            _, (_, forgotten_offset) = self._hashes.popitem(last=False)
            self._floor = max(self._floor, forgotten_offset + 1)
