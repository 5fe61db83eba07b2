"""Write tokens as clients hold them: opaque text that cannot be made up.

base64url of: version (1 byte), the first 4 bytes of SHA-256 of the log's id, a `WriteToken` without its log id, and
the first 16 bytes of HMAC-SHA256 over all of that, keyed by the log's id. It names offsets alone: no tenant, no
collection, no document.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from functools import reduce

from google.protobuf.message import DecodeError
from headwater.common.v1 import common_pb2

from serving.errors import InvalidArgument

from .errors import TokenOfAnotherLog
from .values import WriteToken

# One for each write that a client has under way at a time, and some.
MAX_TOKENS = 1024
# A token of 1,024 partitions with the largest offsets stays below this.
MAX_TOKEN_CHARACTERS = 256 * 1024

_VERSION = b"\x01"
_LOG_BYTES = 4
_MAC_BYTES = 16


class TokenCodec:
    """Writes and reads the tokens of one log."""

    def __init__(self, log_id: bytes, partitions: int) -> None:
        self._log_id = log_id
        self._partitions = partitions
        self._head = _VERSION + hashlib.sha256(log_id).digest()[:_LOG_BYTES]

    def encode(self, token: WriteToken) -> str:
        """The token as text."""
        message = common_pb2.WriteToken(
            collections_offset=token.collections_offset, documents_offsets=token.documents_offsets
        )
        signed = self._head + message.SerializeToString(deterministic=True)
        return base64.urlsafe_b64encode(signed + self._mac(signed)).rstrip(b"=").decode()

    def decode(self, after: str) -> WriteToken | None:
        """What `after` asks for, several tokens joined by commas; None when it is empty.

        Raises InvalidArgument for what is no token, TokenOfAnotherLog for one of another log.
        """
        if not after:
            return None
        parts = after.split(",")
        if len(parts) > MAX_TOKENS or len(after) > MAX_TOKEN_CHARACTERS:
            raise _invalid(
                f"at most {MAX_TOKENS} write tokens of {MAX_TOKEN_CHARACTERS} characters together can be joined"
            )
        tokens = [self._decode_one(part.strip()) for part in parts]
        return reduce(WriteToken.including, tokens)

    def _decode_one(self, text: str) -> WriteToken:
        try:
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise _invalid() from error
        signed, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if len(signed) < len(self._head) or signed[:1] != _VERSION:
            raise _invalid()
        if signed[: len(self._head)] != self._head:
            raise TokenOfAnotherLog
        if not hmac.compare_digest(mac, self._mac(signed)):
            raise _invalid()
        message = common_pb2.WriteToken()
        try:
            message.ParseFromString(signed[len(self._head) :])
        except DecodeError as error:
            raise _invalid() from error
        if any(partition >= self._partitions for partition in message.documents_offsets):
            raise _invalid()
        return WriteToken(self._log_id, message.collections_offset, dict(message.documents_offsets))

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._log_id, signed, "sha256")[:_MAC_BYTES]


def _invalid(
    message: str = "not a write token, or a damaged one: pass it exactly as a write returned it",
) -> InvalidArgument:
    return InvalidArgument(message, field="after", reason="WRITE_TOKEN_INVALID")
