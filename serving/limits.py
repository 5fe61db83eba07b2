"""The table of limits: documentation, error messages and checks all read it. Units are in the names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_KIB = 1024
_MIB = 1024 * 1024

MAX_DOCUMENT_BYTES = 16 * _MIB
MAX_TEXT_CHARACTERS = 4 * _MIB
MAX_LOG_RECORD_BYTES = 32 * _MIB
MAX_METADATA_BYTES = 16 * _KIB
MAX_METADATA_KEYWORD_BYTES = 1 * _KIB
MAX_DOCUMENT_ID_BYTES = 512
MAX_TITLE_BYTES = 1 * _KIB
MAX_ACCESS_GROUPS = 32
MAX_ACCESS_GROUP_BYTES = 128
MAX_COLLECTION_NAME_CHARACTERS = 64
MAX_TENANT_CHARACTERS = 64
MAX_QUERY_BYTES = 8 * _KIB
MAX_QUERIES = 256
MAX_K = 1000
MAX_TEXTS = 256
MAX_TEXT_BYTES = 64 * _KIB
MAX_PAGE_SIZE = 1000
MAX_DEADLINE_SECONDS = 600
MAX_CALL_METADATA_BYTES = 16 * _KIB
MAX_MESSAGE_BYTES = MAX_LOG_RECORD_BYTES + 1 * _MIB
MAX_STREAMS_PER_CONNECTION = 1024

LIMITS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "MAX_DOCUMENT_BYTES": (MAX_DOCUMENT_BYTES, "content of one document as it is sent, in bytes"),
        "MAX_TEXT_CHARACTERS": (MAX_TEXT_CHARACTERS, "text extracted from one document, in characters"),
        "MAX_LOG_RECORD_BYTES": (MAX_LOG_RECORD_BYTES, "one record of the log, in bytes"),
        "MAX_METADATA_BYTES": (MAX_METADATA_BYTES, "metadata of one document, in bytes"),
        "MAX_METADATA_KEYWORD_BYTES": (MAX_METADATA_KEYWORD_BYTES, "one keyword of the metadata, in bytes of UTF-8"),
        "MAX_DOCUMENT_ID_BYTES": (MAX_DOCUMENT_ID_BYTES, "a document's id, in bytes of UTF-8"),
        "MAX_TITLE_BYTES": (MAX_TITLE_BYTES, "a document's title, in bytes of UTF-8"),
        "MAX_ACCESS_GROUPS": (MAX_ACCESS_GROUPS, "access groups of one document or one caller"),
        "MAX_ACCESS_GROUP_BYTES": (MAX_ACCESS_GROUP_BYTES, "name of an access group, in bytes of UTF-8"),
        "MAX_COLLECTION_NAME_CHARACTERS": (MAX_COLLECTION_NAME_CHARACTERS, "name of a collection, in characters"),
        "MAX_TENANT_CHARACTERS": (MAX_TENANT_CHARACTERS, "name of a tenant, in characters"),
        "MAX_QUERY_BYTES": (MAX_QUERY_BYTES, "text of one question or query, in bytes of UTF-8"),
        "MAX_QUERIES": (MAX_QUERIES, "queries in one call"),
        "MAX_K": (MAX_K, "hits asked for per query"),
        "MAX_TEXTS": (MAX_TEXTS, "texts in one call of the embedding service"),
        "MAX_TEXT_BYTES": (MAX_TEXT_BYTES, "one text for the embedding service, in bytes of UTF-8"),
        "MAX_PAGE_SIZE": (MAX_PAGE_SIZE, "items on one page of a listing"),
        "MAX_DEADLINE_SECONDS": (
            MAX_DEADLINE_SECONDS,
            "deadline of a call in seconds; a longer one, or none, is cut to it",
        ),
        "MAX_CALL_METADATA_BYTES": (MAX_CALL_METADATA_BYTES, "gRPC metadata of one call, in bytes"),
        "MAX_MESSAGE_BYTES": (MAX_MESSAGE_BYTES, "one gRPC message, in bytes"),
        "MAX_STREAMS_PER_CONNECTION": (MAX_STREAMS_PER_CONNECTION, "concurrent calls on one connection"),
    }
)
