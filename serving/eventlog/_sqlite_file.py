"""The sqlite engine's file: its schema, its identity, and connections that each live on a thread of their own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import apsw

from serving.errors import HeadwaterError

from . import LogMissing, LogReplaced, LogUnavailable, OutcomeUnknown

T = TypeVar("T")
BUSY_SECONDS = 5.0
POLL_SECONDS = 0.003
# A log that nobody wrote to for a while is looked at less often: every process of the stack polls, all day long.
IDLE_POLL_SECONDS = 0.01
IDLE_AFTER_SECONDS = 1.0
MAX_JOBS_A_COMMIT = 256

# The key stands before the value, so that scans for keys leave a large value's overflow pages alone.
SCHEMA = """
CREATE TABLE log (log_id BLOB NOT NULL, partitions INTEGER NOT NULL);
CREATE TABLE heads (
  topic TEXT NOT NULL, partition INTEGER NOT NULL, "end" INTEGER NOT NULL, epoch INTEGER NOT NULL,
  PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE records (
  topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL,
  key BLOB NOT NULL, value BLOB,
  PRIMARY KEY (topic, partition, "offset")
);
CREATE INDEX records_by_time ON records (topic, partition, timestamp_ms, "offset");
CREATE TABLE groups (
  name TEXT PRIMARY KEY, generation INTEGER NOT NULL, members TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE members (
  group_name TEXT NOT NULL, member TEXT NOT NULL, instance BLOB NOT NULL, beat_seconds REAL NOT NULL,
  session_seconds REAL NOT NULL,
  PRIMARY KEY (group_name, member)
) WITHOUT ROWID;
CREATE TABLE reports (
  group_name TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
  PRIMARY KEY (group_name, topic, partition)
) WITHOUT ROWID;
"""


def connect(path: Path, *, create: bool = False) -> apsw.Connection:
    """A connection with the settings that durability rests on."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
    _use_wal(connection)
    connection.pragma("synchronous", "full")
    connection.pragma("journal_size_limit", 64 * 1024 * 1024)
    return connection


def _use_wal(connection: apsw.Connection) -> None:
    """SQLite does not wait for another that changes a new file's mode just then, whatever its busy timeout."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.pragma("journal_mode", "wal")
            return
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which log a file holds: its id, and the file itself, since an open one outlives its deletion."""

    path: Path
    device_and_inode: tuple[int, int]
    log_id: bytes
    partitions: int

    @classmethod
    def of(cls, path: Path) -> Identity:
        """Raises LogMissing where there is no log."""
        missing = LogMissing(f"there is no log at {path}; make one with `python -m serving.eventlog init`")
        try:
            # before the open: should the file change in between, every later check says so
            device_and_inode = _device_and_inode(path)
            connection = connect(path)
        except (FileNotFoundError, apsw.CantOpenError) as error:
            raise missing from error
        try:
            log_id, partitions = connection.execute("SELECT log_id, partitions FROM log").get
        except (apsw.SQLError, TypeError) as error:
            raise missing from error
        finally:
            connection.close()
        return cls(path, device_and_inode, log_id, partitions)

    def check(self, connection: apsw.Connection) -> None:
        """Raises LogReplaced when the path leads to another file, or the file to another log; in a transaction."""
        try:
            found = _device_and_inode(self.path)
        except FileNotFoundError as error:
            raise LogUnavailable(f"the log's file {self.path} is gone") from error
        if found != self.device_and_inode:
            raise LogReplaced(f"the log's file {self.path} was replaced", reason="LOG_REPLACED")
        if connection.execute("SELECT log_id FROM log").get != self.log_id:
            raise LogReplaced(f"the log in {self.path} has another id", reason="LOG_REPLACED")


class ReaderThread:
    """A connection for reads; each is one transaction, hence one snapshot."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._connection = connect(identity.path)
        self._executor = ThreadPoolExecutor(1, "eventlog-read")

    async def run(self, operation: Callable[[apsw.Connection], T]) -> T:
        """Raises LogReplaced, LogUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, operation)

    def _run(self, operation: Callable[[apsw.Connection], T]) -> T:
        with _as_unavailable(), self._connection:
            self._identity.check(self._connection)
            result = operation(self._connection)
        return result

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._connection.close()


@dataclass(slots=True)
class _Job(Generic[T]):
    operation: Callable[[apsw.Connection], T]
    future: Future[T]


class WriterThread:
    """A connection for writes. What callers ask for at the same time is one transaction, and so costs one fsync."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._connection = connect(identity.path)
        self._executor = ThreadPoolExecutor(1, "eventlog-write")
        self._waiting: deque[_Job[Any]] = deque()

    async def run(self, operation: Callable[[apsw.Connection], T], *, timeout_seconds: float) -> T:
        """Run the operation in a transaction that is durable on return.

        The operation may raise errors of its own only before it has written anything. Besides these, raises LogReplaced
        and LogUnavailable (nothing was written), OutcomeUnknown.
        """
        job = _Job(operation, Future())
        self._waiting.append(job)
        self._executor.submit(self._commit_waiting)
        result = asyncio.wrap_future(job.future)
        try:
            await asyncio.wait({result}, timeout=timeout_seconds)
            if result.done():
                return result.result()
            # a job is cancelled for certain as long as its transaction has not begun
            if job.future.cancel():
                raise LogUnavailable(f"the log was busy for {timeout_seconds:.1f} s; nothing was appended")
            raise OutcomeUnknown(f"the log did not answer within {timeout_seconds:.1f} s")
        finally:
            result.cancel()

    def _commit_waiting(self) -> None:
        waiting = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_JOBS_A_COMMIT))]
        if not waiting:
            return  # an earlier call took its job along
        failure: HeadwaterError | None = None
        try:
            with _as_unavailable():
                self._connection.execute("BEGIN IMMEDIATE")
                self._identity.check(self._connection)
        except HeadwaterError as error:
            failure = error
        # from here on a caller that gives up cannot know any more
        jobs = [job for job in waiting if job.future.set_running_or_notify_cancel()]
        outcomes: list[Any] = []
        try:
            if failure is None:
                with _as_unavailable():
                    outcomes = [self._attempt(job) for job in jobs]
                self._commit()
        except HeadwaterError as error:
            failure = error
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        for job, outcome in zip(jobs, outcomes if failure is None else [failure] * len(jobs), strict=True):
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _attempt(self, job: _Job[Any]) -> Any:
        try:
            return job.operation(self._connection)
        except apsw.Error:
            raise
        except Exception as refusal:
            return refusal

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            raise OutcomeUnknown(f"the log could not commit: {error}") from error

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._connection.close()


class Watcher:
    """Notices commits of any process: polls SQLite's data_version on a thread, and wakes the followers."""

    def __init__(self, identity: Identity) -> None:
        self._connection = connect(identity.path)
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self.changed = asyncio.Event()
        """Set at the next commit, and replaced by a new one; take it before reading."""
        self._thread = threading.Thread(target=self._poll, name="eventlog-watch", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        seen = None
        changed_at = 0.0
        while not self._stopping:
            # waiting on an event instead costs twice the processor time
            time.sleep(POLL_SECONDS if time.monotonic() - changed_at < IDLE_AFTER_SECONDS else IDLE_POLL_SECONDS)
            try:
                version = self._connection.execute("PRAGMA data_version").get
            except apsw.Error:
                continue  # the followers' own reads say what is wrong
            if version != seen:
                seen = version
                changed_at = time.monotonic()
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._connection.close()


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise LogUnavailable(f"the log could not be used: {error}") from error


def _device_and_inode(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
