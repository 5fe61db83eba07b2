"""What is refused before it reaches the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.ingestion.documents import Content, Write
from services.ingestion.validation import check_collection_name, check_write
from serving import limits
from serving.errors import InvalidArgument

CONTENT = Content(b"text", "text/plain", "title", {"a": "b", "n": 1.5, "f": True, "l": ("x", "y")}, ("group",))
WRITE = Write("tenant", "c" * 32, "id", bytes(16), 1, 0, CONTENT)


def test_a_sane_write_passes() -> None:
    check_write(WRITE)
    check_write(replace(WRITE, content=None))
    check_write(
        replace(
            WRITE, document_id="\u00e9" * 256, content=replace(CONTENT, body=b"%PDF", content_type="application/pdf")
        )
    )


@pytest.mark.parametrize(
    ("field", "write"),
    [
        ("write_id", replace(WRITE, write_id=bytes(15))),
        ("id", replace(WRITE, document_id="")),
        ("id", replace(WRITE, document_id="\u00e9" * 257)),
        ("id", replace(WRITE, document_id="a\nb")),
        ("accepted_unix_ms", replace(WRITE, accepted_ms=-1)),
        ("collections_offset", replace(WRITE, collections_offset=-1)),
    ],
)
def test_a_bad_write_is_refused_by_its_field(field: str, write: Write) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_write(write)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "reason", "content"),
    [
        ("body", "DOCUMENT_EMPTY", replace(CONTENT, body=b"")),
        ("body", "DOCUMENT_EMPTY", replace(CONTENT, body=b" \n\t")),
        ("body", "DOCUMENT_TOO_LARGE", replace(CONTENT, body=b"a" * (limits.MAX_DOCUMENT_BYTES + 1))),
        ("body", "NOT_UTF8", replace(CONTENT, body=b"ab\xff")),
        ("body", "NOT_UTF8", replace(CONTENT, body=b"ab\xff", content_type="text/markdown")),
        ("content_type", "CONTENT_TYPE_UNKNOWN", replace(CONTENT, content_type="image/png")),
        ("title", "INVALID_ARGUMENT", replace(CONTENT, title="a" * 1025)),
        ("metadata", "INVALID_ARGUMENT", replace(CONTENT, metadata={"": "a"})),
        ("metadata", "INVALID_ARGUMENT", replace(CONTENT, metadata={"a": None})),
        ("metadata", "INVALID_ARGUMENT", replace(CONTENT, metadata={"a": float("nan")})),
        ("metadata", "INVALID_ARGUMENT", replace(CONTENT, metadata={"a": "b" * 1025})),
        ("metadata", "METADATA_TOO_LARGE", replace(CONTENT, metadata={str(n): "b" * 1000 for n in range(17)})),
        ("access_groups", "INVALID_ARGUMENT", replace(CONTENT, access_groups=tuple(map(str, range(33))))),
        ("access_groups", "INVALID_ARGUMENT", replace(CONTENT, access_groups=("",))),
    ],
)
def test_bad_content_is_refused_by_its_field(field: str, reason: str, content: Content) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_write(replace(WRITE, content=content))
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_text_that_is_not_utf8_is_refused_naming_the_byte() -> None:
    with pytest.raises(InvalidArgument, match="byte 2"):
        check_write(replace(WRITE, content=replace(CONTENT, body=b"ab\xff")))


@pytest.mark.parametrize("name", ["a", "a-b_c", "0", "a" * 64])
def test_a_sane_name_passes(name: str) -> None:
    check_collection_name(name)


@pytest.mark.parametrize("name", ["", "a" * 65, "A", "-a", "a b", "a/b", "\u00e9", "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_collection_name(name)
