"""Plain text: UTF-8 and nothing else; guessing would let garbled text in silently."""

from __future__ import annotations

from services.ingestion.errors import DocumentRejected

from . import Extracted, normalise


def extract_text(body: bytes) -> Extracted:
    """Raises DocumentRejected for what is not UTF-8."""
    return Extracted(normalise(decode_utf8(body)))


def decode_utf8(body: bytes) -> str:
    """The text, without a byte-order mark. Raises DocumentRejected."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentRejected("NOT_UTF8", f"the text is not UTF-8 at byte {error.start}") from None
