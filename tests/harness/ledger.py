"""Writers that keep a ledger of what was acknowledged, readers that hold the answers to it, and the final judgement.

Each document has one writer. Every chunk of a version names document and version, so that a reader sees from the hits
alone whether two versions were mixed, whether an old one came back, and whether a deleted one is there.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from headwater import (
    Client,
    CollectionSettings,
    Document,
    DocumentState,
    DocumentStatus,
    HeadwaterError,
    NotFound,
    WriteToken,
)

EVERY = 1000
"""Hits asked for: all there are, so that a missing part is missing."""
EVERY_PARTITION = 16
"""Of the default log. A collection's default is 4 of them: one of two shards may own those alone, and the other would
have no writes to die in."""
MARK = re.compile(r"document-(\w+) version-(\d+) part-(\d+) of-(\d+)")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the documents of a collection are like: so many words a part fill most of a chunk, so that each part is one
    chunk, and all documents together have no more than EVERY."""

    max_chunk_tokens: int
    words: int
    parts: Sequence[int]
    """Numbers of parts to choose from."""
    pause_seconds: float = 0.0
    """A thread rests for this long between two operations, a writer until its last one is applied besides."""


SMALL = Shape(max_chunk_tokens=48, words=20, parts=(1, 2, 4))
LARGE = Shape(max_chunk_tokens=254, words=220, parts=(950,), pause_seconds=8.0)
"""Three quarters of the longest text that is taken."""


def text_of(document_id: str, version: int, parts: int, shape: Shape) -> str:
    """A text of so many chunks; each names document, version and part."""
    filler = "international " * shape.words
    return "\n\n".join(
        f"document-{document_id} version-{version} part-{part} of-{parts} {filler}".strip() + "."
        for part in range(parts)
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """Something done to a document, and what is there once it is in force."""

    kind: Literal["nothing", "put", "unchanged", "poison", "delete"]
    version: int = 0
    """Of the text; 0 where none is to be found."""
    parts: int = 0


@dataclass
class Entry:
    """What is known of one document. Its operations are numbered from 1, and a text's version is its operation's."""

    operations: list[Operation] = field(default_factory=lambda: [Operation("nothing")])
    acknowledged: int = 0
    """The newest operation acknowledged."""
    unknown: set[int] = field(default_factory=set)
    """Operations after the acknowledged one whose outcome is open, or could not be settled."""
    token: WriteToken = field(default_factory=WriteToken)
    """The token of the newest acknowledgement."""

    def next(self, chance: random.Random, shape: Shape) -> Operation:
        """Something to do now."""
        number = len(self.operations)
        current = self.operations[self.acknowledged]
        dice = chance.random()
        if dice < 0.15 and number > 1:
            return Operation("delete")
        if dice < 0.2:
            return Operation("poison")
        if dice < 0.35 and current.version and not self.unknown:
            return Operation("unchanged", current.version, current.parts)
        return Operation("put", number, chance.choice(shape.parts))

    def in_force(self) -> list[Operation]:
        """Operations that may be the one in force."""
        numbers = {self.acknowledged} | {number for number in self.unknown if number > self.acknowledged}
        return [self.operations[number] for number in numbers]


class Ledger:
    """The judge: what was acknowledged, and what readers saw."""

    def __init__(self, collection: str, shape: Shape = SMALL) -> None:
        self.collection = collection
        self.shape = shape
        self.entries: dict[str, Entry] = {}
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.failures: list[str] = []
        """Reads that failed: when, and with which words."""
        self._open: set[tuple[str, int]] = set()

    def violation(self, what: str) -> None:
        """Note what must never happen."""
        with self.lock:
            self.violations.append(what)

    def count(self, what: str) -> None:
        """One more of these."""
        with self.lock:
            self.counts[what] += 1

    def failed(self, what: str, error: HeadwaterError) -> None:
        """One more of these, and what the caller was told."""
        self.count(what)
        with self.lock:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {what}: {error}")

    def acknowledged(self) -> int:
        """Writes acknowledged so far."""
        return self.counts["acknowledged"]

    def in_flight(self) -> frozenset[tuple[str, int]]:
        """Writes begun and not ended, by document and number."""
        with self.lock:
            return frozenset(self._open)

    def begin(self, document_id: str, operation: Operation) -> int:
        """An operation is tried; returns its number. From now on a reader may see it."""
        with self.lock:
            entry = self.entries[document_id]
            number = len(entry.operations)
            entry.operations.append(operation)
            entry.unknown.add(number)
            self._open.add((document_id, number))
            return number

    def end(self, document_id: str, number: int, token: WriteToken | None) -> None:
        """It was acknowledged with this token; or (None) the client gave up, and nothing is claimed."""
        with self.lock:
            entry = self.entries[document_id]
            self._open.discard((document_id, number))
            if token is None:
                return
            entry.acknowledged = number
            entry.unknown = {later for later in entry.unknown if later > number}
            entry.token |= token
            self.counts["acknowledged"] += 1
            self.counts[f"acknowledged {entry.operations[number].kind}"] += 1

    def known(self, document_id: str) -> tuple[int, WriteToken]:
        """The newest operation acknowledged, and the token to read it by."""
        with self.lock:
            entry = self.entries[document_id]
            return entry.acknowledged, entry.token

    def since(self, document_id: str, number: int) -> list[Operation]:
        """That operation and all that were tried after it: one of them is what a reader sees."""
        with self.lock:
            return self.entries[document_id].operations[number:]


def _operate(client: Client, ledger: Ledger, document_id: str, chance: random.Random) -> None:
    _look(client, ledger, document_id)
    operation = ledger.entries[document_id].next(chance, ledger.shape)
    number = ledger.begin(document_id, operation)
    token = None
    try:
        match operation.kind:
            case "delete":
                token = client.delete(ledger.collection, [document_id], timeout=90).token
            case "poison":
                body = b"%PDF-1.7 cut short " + str(number).encode()
                document = Document(document_id, body=body, content_type="application/pdf")
                token = client.put(ledger.collection, [document], timeout=90).token
            case _:
                text = text_of(document_id, operation.version, operation.parts, ledger.shape)
                document = Document(document_id, text=text, metadata={"version": float(operation.version)})
                token = client.put(ledger.collection, [document], timeout=90).token
    except HeadwaterError as error:
        ledger.count(f"write {error.code}")
    finally:
        ledger.end(document_id, number, token)


def _look(client: Client, ledger: Ledger, document_id: str) -> None:
    """Look at a document before it is changed, by its one writer, so that no later write hides a loss."""
    entry = ledger.entries[document_id]
    status = None
    try:
        status = client.get_document(ledger.collection, document_id, after=entry.token, timeout=1)
    except NotFound:
        pass
    except HeadwaterError:
        return  # something is down: writing goes on
    ledger.count("looked at")
    if not any(_fits(status, operation) for operation in entry.in_force()):
        ledger.violation(f"before a write: {document_id}: {status}, but in force is one of {entry.in_force()}")


def _fits(status: DocumentStatus | None, operation: Operation) -> bool:
    """Whether that is a document's status when the operation is in force."""
    match status:
        case None:
            return operation.kind in ("nothing", "delete")
        case DocumentStatus(state=DocumentState.REJECTED):
            return operation.kind == "poison" and bool(status.reason)
        case _:
            found = (status.state, status.metadata.get("version"), status.chunks)
            return found == (DocumentState.INDEXED, operation.version, operation.parts)


def _check_hits(
    ledger: Ledger, document_id: str, texts: Sequence[str], possible: Sequence[Operation], where: str
) -> None:
    """All the chunks that a complete search gave, held to the operations of which one is in force."""
    seen = [match for text in texts if (match := MARK.search(text)) and match[1] == document_id]
    versions = {int(match[2]) for match in seen}
    parts = Counter(int(match[3]) for match in seen)
    if len(versions) > 1:
        ledger.violation(f"{where}: {document_id} in versions {sorted(versions)} at once")
    elif not versions <= {operation.version for operation in possible} - {0}:
        ledger.violation(f"{where}: {document_id} in version {versions}, but in force is one of {possible}")
    if not seen and all(operation.version for operation in possible):
        ledger.violation(f"{where}: {document_id} is not there, but in force is one of {possible}")
    if any(count > 1 for count in parts.values()):
        ledger.violation(f"{where}: {document_id} has a part twice: {parts.most_common(5)}")
    if seen and len(parts) != int(seen[0][4]):
        ledger.violation(f"{where}: half a document: {document_id} has {len(parts)} parts of {seen[0][4]}")


def _read(client: Client, ledger: Ledger, document_id: str) -> None:
    number, token = ledger.known(document_id)
    try:
        result = client.search(ledger.collection, f"document-{document_id}", k=EVERY, after=token, timeout=8)
    except HeadwaterError as error:
        ledger.failed(f"search {error.code}", error)
        return
    if not result.coverage.complete:
        ledger.count("searched in part")
        return
    texts = [hit.text for hit in result.hits]
    _check_hits(ledger, document_id, texts, ledger.since(document_id, number), "search")
    ledger.count("searched")


def _ask(client: Client, ledger: Ledger, document_id: str) -> None:
    number, token = ledger.known(document_id)
    try:
        answer = client.answer(ledger.collection, f"what is in document-{document_id}?", after=token, timeout=8)
    except HeadwaterError as error:
        ledger.failed(f"ask {error.code}", error)
        return
    versions = {operation.version for operation in ledger.since(document_id, number)}
    ledger.count(f"asked, cache {answer.cache.value}")
    for passage in answer.passages:
        match = MARK.search(passage.hit.text)
        if match and match[1] == document_id and int(match[2]) not in versions:
            ledger.violation(f"ask: {document_id} in version {match[2]}, but in force is one of {versions}")


class Traffic:
    """Writers and readers in threads, from entering to leaving."""

    def __init__(self, address: str, ledger: Ledger, *, writers: int, readers: int, documents: int) -> None:
        self._address = address
        self.ledger = ledger
        self._stop_writing, self._stop_reading = threading.Event(), threading.Event()
        self._threads = [
            *(threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(writers)),
            *(threading.Thread(target=self._read, args=(number,), daemon=True) for number in range(readers)),
        ]
        self._writers = writers
        ids = [f"w{writer}d{number}" for writer in range(writers) for number in range(documents)]
        ledger.entries.update({document_id: Entry() for document_id in ids})

    def __enter__(self) -> Traffic:
        with Client(self._address) as client:
            settings = CollectionSettings(max_chunk_tokens=self.ledger.shape.max_chunk_tokens, spread=EVERY_PARTITION)
            client.create_collection(self.ledger.collection, settings=settings)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_writing.set()
        for thread in self._threads[: self._writers]:
            thread.join(timeout=120)
        self._stop_reading.set()
        for thread in self._threads[self._writers :]:
            thread.join(timeout=60)
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        if stuck:
            self.ledger.violation(f"threads that did not end: {stuck}")

    def _write(self, number: int) -> None:
        chance = random.Random(number)
        mine = [name for name in self.ledger.entries if name.startswith(f"w{number}d")]
        with Client(self._address) as client:
            while not self._stop_writing.is_set():
                self._guarded(_operate, client, self.ledger, chance.choice(mine), chance)
                if self.ledger.shape.pause_seconds:
                    self._stop_writing.wait(self.ledger.shape.pause_seconds)
                    with contextlib.suppress(HeadwaterError):
                        client.search(self.ledger.collection, "applied?", k=1, timeout=60)

    def _read(self, number: int) -> None:
        chance = random.Random(1000 + number)
        ids = list(self.ledger.entries)
        with Client(self._address) as client:
            while not self._stop_reading.is_set():
                self._guarded(_ask if chance.random() < 0.2 else _read, client, self.ledger, chance.choice(ids))
                self._stop_reading.wait(self.ledger.shape.pause_seconds)

    def _guarded(self, work, *arguments) -> None:  # type: ignore[no-untyped-def]
        try:
            work(*arguments)
        except Exception as error:  # a reader that dies would judge nothing
            self.ledger.violation(f"{work.__name__}: {type(error).__name__}: {error}")
            time.sleep(0.2)

    def wait_for_writes(self, more: int, timeout_seconds: float = 120) -> None:
        """Wait until this many more writes were acknowledged and one is in flight."""
        goal = self.ledger.acknowledged() + more
        deadline = time.monotonic() + timeout_seconds
        while self.ledger.acknowledged() < goal or not self.ledger.in_flight():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {more} writes in {timeout_seconds} s: {dict(self.ledger.counts)}")
            time.sleep(0.005)


def judge(address: str, ledger: Ledger) -> None:
    """Hold the final state to the ledger; raises AssertionError with every violation."""
    with Client(address) as client:
        written = {document_id: entry for document_id, entry in ledger.entries.items() if len(entry.operations) > 1}
        statuses = {document_id: _status(client, ledger, document_id) for document_id in written}
        listed = Counter(status.document_id for status in client.list_documents(ledger.collection))
        for document_id, entry in written.items():
            _judge_document(client, ledger, document_id, entry, statuses[document_id], listed[document_id])
    assert not ledger.violations, "\n".join(ledger.violations[:50])
    assert ledger.counts["acknowledged"] > 0
    assert ledger.counts["searched"] > 0


def _status(client: Client, ledger: Ledger, document_id: str) -> DocumentStatus | None:
    with contextlib.suppress(NotFound):
        return client.get_document(ledger.collection, document_id, after=ledger.entries[document_id].token)
    return None


def _judge_document(
    client: Client, ledger: Ledger, document_id: str, entry: Entry, status: DocumentStatus | None, listed: int
) -> None:
    result = client.search(ledger.collection, f"document-{document_id}", k=EVERY, after=entry.token, timeout=30)
    texts = [hit.text for hit in result.hits if hit.document_id == document_id]
    possible = entry.in_force()
    _check_hits(ledger, document_id, texts, possible, "end")
    chunks = 0 if status is None else status.chunks
    if (
        not any(_fits(status, operation) for operation in possible)
        or listed != int(status is not None)
        or len(texts) != chunks
    ):
        ledger.violation(
            f"end: {document_id}: {status}, listed {listed} times, {len(texts)} chunks; in force: {possible}"
        )
