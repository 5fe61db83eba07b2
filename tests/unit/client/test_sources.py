"""Hostile input to `headwater ingest`: every line becomes a document or a reason, and nothing else."""

import io
import json
from contextlib import suppress
from pathlib import Path

import pytest
from headwater import Document, InvalidArgument
from headwater._command import sources
from headwater._command.sources import SourceError, Sources, find_sources, parse_line, read_lines, to_document
from headwater._messages import document_message
from hypothesis import given
from hypothesis import strategies as st

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries(
    {},
    optional={"id": values, "text": values, "title": values, "metadata": values, "access_groups": values, "x": values},
)


@given(st.binary(max_size=80) | records.map(lambda record: json.dumps(record).encode()))
def test_a_line_is_a_document_or_a_reason(line: bytes) -> None:
    with suppress(ValueError, InvalidArgument):
        record = parse_line(line, first=True)
        if record is not None:
            assert document_message(to_document(record)).id == record["id"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"}', '"id" is missing'),
        (b'{"id": 7, "text": "x"}', '"id" must be a string'),
        (b'{"id": "a", "text": null}', '"text" must be a string'),
        (b'{"id": "a", "text": "x", "metadata": {"a": {}}}', '"metadata" must be'),
        (b'{"id": "a", "text": "x", "access_groups": "hr"}', '"access_groups" must be'),
        (b'{"id": "a", "text": "x", "metadata": {"a": NaN}}', "NaN"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8 at byte 1"),
        (b'"x"', "not a JSON object"),
        (b'{"id": "a", "text": "x", "metadata": {"n": ' + b"9" * 5000 + b"}}", "a number of 5,000 digits"),
    ],
)
def test_the_reason_says_what_is_wrong(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_document(parse_line(line) or {})


def test_a_byte_order_mark_is_allowed_at_the_start() -> None:
    assert parse_line(b'\xef\xbb\xbf{"id": "a"}', first=True) == {"id": "a"}


def test_an_endless_line_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 10)
    lines = list(read_lines(io.BytesIO(b"x" * 95 + b"\n" + b"short\n")))
    assert [(number, len(line)) for number, line in lines] == [(1, 11), (2, 6)]
    with pytest.raises(ValueError, match="longer than"):
        parse_line(lines[0][1])


def test_a_folder_that_is_linked_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    found = find_sources([str(tmp_path)], lambda where, why: None)
    assert set(found.files) == {"a/x.txt"}


def test_a_file_that_went_away_is_a_reason(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    gone = Sources(lambda where, why: told.append((where, why)), files={"a.txt": tmp_path / "a.txt"})
    assert list(gone.documents()) == []
    assert told == [("a.txt", "cannot be read: No such file or directory")]


def test_an_empty_file_is_sent_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (document,) = find_sources([str(tmp_path / "a.txt")], lambda where, why: None).documents()
    assert document == Document("a.txt", content_type="text/plain")


def test_a_path_of_no_known_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SourceError, match="no known kind"):
        find_sources([str(tmp_path / "a.png")], lambda where, why: None)
