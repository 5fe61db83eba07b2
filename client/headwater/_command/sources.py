"""What `headwater ingest` is given, as documents: files, folders, JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from .._types import Document

CONTENT_TYPES: Final = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}
JSON_LINES: Final = ".jsonl"
MAX_LINE_BYTES: Final = 128 * 1024 * 1024  # 16 MiB of text with every character escaped, and some metadata
MAX_DIGITS: Final = 300  # what a float can hold

_FIELDS: Final = frozenset({"id", "text", "title", "metadata", "access_groups"})


class SourceError(Exception):
    """The arguments cannot be ingested as they are."""


@dataclass(slots=True)
class Sources:
    """The documents under some paths.

    files: document id to file.
    json_lines: files of JSON lines; None stands for stdin.
    skipped: files of other kinds in folders.
    on_bad: told of each line or file that is no document: where, and why.
    unused_fields: names of JSON fields that are not used.
    """

    on_bad: Callable[[str, str], None]
    files: dict[str, Path] = field(default_factory=dict)
    json_lines: list[Path | None] = field(default_factory=list)
    skipped: int = 0
    unused_fields: set[str] = field(default_factory=set)

    @property
    def total(self) -> int | None:
        """How many documents there are; None when only reading them tells."""
        return None if self.json_lines else len(self.files)

    def documents(self) -> Iterator[Document]:
        """Every document, each read when it is asked for."""
        for document_id, path in self.files.items():
            try:
                body = path.read_bytes()
            except OSError as error:
                self.on_bad(document_id, f"cannot be read: {error.strerror}")
                continue
            yield Document(document_id, body=body, content_type=CONTENT_TYPES[path.suffix.lower()])
        for source in self.json_lines:
            if source is None:
                yield from self._lines(sys.stdin.buffer, "stdin")
                continue
            try:
                with source.open("rb") as file:
                    yield from self._lines(file, str(source))
            except OSError as error:
                self.on_bad(str(source), f"cannot be read: {error.strerror}")

    def _lines(self, file: BinaryIO, name: str) -> Iterator[Document]:
        for number, line in read_lines(file):
            try:
                record = parse_line(line, first=number == 1)
                if record is not None:
                    document = to_document(record)
                    self.unused_fields |= record.keys() - _FIELDS
                    yield document
            except ValueError as error:
                self.on_bad(f"{name}:{number}", str(error))


def find_sources(paths: Iterable[str], on_bad: Callable[[str, str], None]) -> Sources:
    """What is under these paths; "-" is JSON lines on stdin. Raises SourceError."""
    sources = Sources(on_bad)
    for given in paths:
        path = Path(given)
        if given == "-":
            sources.json_lines.append(None)
        elif path.is_dir():
            _add_folder(sources, path)
        elif not path.exists():
            raise SourceError(f"{given}: no such file or folder")
        elif path.suffix.lower() == JSON_LINES:
            sources.json_lines.append(path)
        elif path.suffix.lower() in CONTENT_TYPES:
            _add(sources, path.name, path)
        else:
            known = " ".join([*CONTENT_TYPES, JSON_LINES])
            raise SourceError(f"{given}: of no known kind; known are {known}, and - for JSON lines on stdin")
    return sources


def _add_folder(sources: Sources, root: Path) -> None:
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix == JSON_LINES and path.is_file():
                sources.json_lines.append(path)
            elif suffix in CONTENT_TYPES and path.is_file():
                _add(sources, path.relative_to(root).as_posix(), path)
            else:
                sources.skipped += 1


def _add(sources: Sources, document_id: str, path: Path) -> None:
    other = sources.files.setdefault(document_id, path)
    if other != path:
        raise SourceError(
            f"{path} and {other} would both be document {document_id!r}; ingest the folder above them instead"
        )


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, none held longer than it is used; one that is too long comes cut off."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield number, line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)


def parse_line(line: bytes, *, first: bool = False) -> dict[str, Any] | None:
    """The line's JSON object.

    None for an empty line. `first` allows a byte order mark. Raises ValueError saying why not.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        text = line.decode("utf-8-sig" if first else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
    if not text:
        return None
    try:
        record = json.loads(text, parse_constant=_refuse_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not taken: nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError('not a JSON object such as {"id": "…", "text": "…"}')
    return record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"not JSON: {name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"not taken: a number of {len(digits):,} digits")
    return int(digits)


def to_document(record: dict[str, Any]) -> Document:
    """The document that a line tells of. Raises ValueError saying which field is wrong."""
    groups = record.get("access_groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise ValueError('"access_groups" must be a list of strings')
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict) or not all(map(_is_metadata_value, metadata.values())):
        raise ValueError('"metadata" must be an object of strings, numbers, flags and lists of strings')
    return Document(
        string(record, "id"), text=string(record, "text"), title=string(record, "title", ""),
        metadata=metadata, access_groups=groups,
    )  # fmt: skip


def string(record: dict[str, Any], name: str, default: str | None = None) -> str:
    """The record's field of this name. Raises ValueError when it is no string, or absent without a default."""
    value = record.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f'"{name}" is missing' if name not in record else f'"{name}" must be a string')
    return value


def _is_metadata_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str | bool | int | float)
