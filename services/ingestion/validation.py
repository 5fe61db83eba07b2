"""What a write and a collection must be like. Everything that can be seen without parsing is refused here, at once."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from serving import limits
from serving.errors import InvalidArgument

from .documents import Content, MetadataValue, Write
from .parsers import CONTENT_TYPES

WRITE_ID_BYTES: Final = 16
_MAX_METADATA_KEY_BYTES: Final = 256
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")


def check_write(write: Write) -> None:
    """Raises InvalidArgument naming the field and the limit."""
    check_write_id(write.write_id)
    check_document_id(write.document_id)
    if write.accepted_ms < 0:
        raise InvalidArgument("accepted_unix_ms must not be negative", field="accepted_unix_ms")
    if write.collections_offset < 0:
        raise InvalidArgument("collections_offset must not be negative", field="collections_offset")
    if write.content is not None:
        _check_content(write.content)


def check_write_id(write_id: bytes) -> None:
    """Raises InvalidArgument."""
    if len(write_id) != WRITE_ID_BYTES:
        raise InvalidArgument(
            f"write_id must be {WRITE_ID_BYTES} random bytes, this one has {len(write_id)}", field="write_id"
        )


def check_document_id(document_id: str) -> None:
    """Raises InvalidArgument."""
    _check_words(document_id, "id", limits.MAX_DOCUMENT_ID_BYTES)


def check_collection_name(name: str) -> None:
    """Raises InvalidArgument."""
    if len(name) > limits.MAX_COLLECTION_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"a collection's name has 1 to {limits.MAX_COLLECTION_NAME_CHARACTERS} of a-z, 0-9, '-' and '_', and starts"
            " with a letter or digit",
            field="name",
        )


def _check_content(content: Content) -> None:
    if not content.body:
        raise InvalidArgument("the body is empty; delete the document instead", field="body", reason="DOCUMENT_EMPTY")
    if len(content.body) > limits.MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            f"the body may have {limits.MAX_DOCUMENT_BYTES} bytes, this one has {len(content.body)}",
            field="body",
            reason="DOCUMENT_TOO_LARGE",
        )
    if content.content_type not in CONTENT_TYPES:
        raise InvalidArgument(
            f"content_type must be one of {', '.join(CONTENT_TYPES)}",
            field="content_type",
            reason="CONTENT_TYPE_UNKNOWN",
        )
    if content.content_type in ("text/plain", "text/markdown"):
        _check_text(content)
    if len(content.title.encode()) > limits.MAX_TITLE_BYTES:
        raise InvalidArgument(f"the title may have {limits.MAX_TITLE_BYTES} bytes", field="title")
    _check_metadata(content)
    if len(content.access_groups) > limits.MAX_ACCESS_GROUPS:
        raise InvalidArgument(
            f"a document may have {limits.MAX_ACCESS_GROUPS} access groups, this one has {len(content.access_groups)}",
            field="access_groups",
        )
    for group in content.access_groups:
        _check_words(group, "access_groups", limits.MAX_ACCESS_GROUP_BYTES)


def _check_text(content: Content) -> None:
    try:
        text = content.body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"the body is not UTF-8 at byte {error.start}; convert it before sending", field="body", reason="NOT_UTF8"
        ) from None
    if content.content_type == "text/plain" and not text.strip():
        raise InvalidArgument("the body holds nothing but spaces", field="body", reason="DOCUMENT_EMPTY")


def _check_metadata(content: Content) -> None:
    for key, value in content.metadata.items():
        _check_words(key, "metadata", _MAX_METADATA_KEY_BYTES)
        _check_value(key, value)
    size = len(json.dumps(dict(content.metadata), ensure_ascii=False).encode())
    if size > limits.MAX_METADATA_BYTES:
        raise InvalidArgument(
            f"metadata may have {limits.MAX_METADATA_BYTES} bytes as JSON, this has {size}",
            field="metadata",
            reason="METADATA_TOO_LARGE",
        )


def _check_value(key: str, value: MetadataValue | None) -> None:
    match value:
        case None:
            raise InvalidArgument(f"metadata field {key!r} has no value", field="metadata")
        case bool():
            return
        case float() | int():
            if not math.isfinite(value):
                raise InvalidArgument(f"metadata field {key!r} is not a finite number", field="metadata")
        case _:
            words: Sequence[str] = (value,) if isinstance(value, str) else value
            if any(len(word.encode()) > limits.MAX_METADATA_KEYWORD_BYTES for word in words):
                raise InvalidArgument(
                    f"metadata field {key!r}: a keyword may have {limits.MAX_METADATA_KEYWORD_BYTES} bytes",
                    field="metadata",
                )


def _check_words(words: str, field: str, max_bytes: int) -> None:
    size = len(words.encode())
    if not 1 <= size <= max_bytes:
        raise InvalidArgument(f"{field} must have 1 to {max_bytes} bytes, this one has {size}", field=field)
    if any(unicodedata.category(character) == "Cc" for character in words):
        raise InvalidArgument(f"{field} must not hold control characters", field=field)
