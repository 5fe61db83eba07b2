"""What makes a client read its own writes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from ._types import WriteToken

MAX_COLLECTIONS: Final = 1024

NAMES: Final = ""
"""Where the tokens of creating and deleting collections are kept besides: no collection has this name."""


class WriteMemory:
    """The newest token of each collection that this client wrote to; the least recently used are forgotten first.

    The token that a write returns includes the one it was sent with (the gateway sees to it), so the two change
    places. What is kept is therefore one token a collection, and one more for each write that goes on at the same
    time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, WriteToken] = OrderedDict()

    def token(self, collection: str) -> WriteToken:
        """What this client wrote to the collection; empty when nothing."""
        with self._lock:
            token = self._tokens.get(collection)
            if token is None:
                return WriteToken()
            self._tokens.move_to_end(collection)
            return token

    def wrote(self, collection: str, *, sent: str, token: str) -> None:
        """A write that was sent after `sent` returned `token`."""
        with self._lock:
            gone = set(sent.split(","))
            kept = [part for part in self._tokens.pop(collection, "").split(",") if part and part not in gone]
            self._tokens[collection] = WriteToken(",".join(kept)) | token
            if len(self._tokens) > MAX_COLLECTIONS:
                self._tokens.popitem(last=False)

    def forget(self, collection: str) -> None:
        """The log that the token speaks of is gone."""
        with self._lock:
            self._tokens.pop(collection, None)
