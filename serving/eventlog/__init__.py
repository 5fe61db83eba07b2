"""The log that everything rests on: three Protocols (append, follow, own), two engines (kafka, sqlite).

The six rules it keeps are in docs/architecture.md. `open_log` chooses the engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from serving.errors import ErrorCode, HeadwaterError


class Topic(StrEnum):
    """The four topics."""

    COLLECTIONS = "headwater.collections"
    DOCUMENTS = "headwater.documents"
    INDEX = "headwater.index"
    DEADLETTERS = "headwater.deadletters"


class LogUnavailable(HeadwaterError):
    """The log could not be reached; nothing was appended."""

    code = ErrorCode.UNAVAILABLE


class OutcomeUnknown(HeadwaterError):
    """The append may or may not have landed (rule 6)."""

    code = ErrorCode.UNAVAILABLE


class TimestampRefused(HeadwaterError):
    """The record was stamped too long before or after the log's clock; it did not land and cannot any more (rule 6)."""

    code = ErrorCode.DEADLINE_EXCEEDED


class Fenced(HeadwaterError):
    """A newer owner has taken the partition; nothing more can be appended (rule 1)."""

    code = ErrorCode.FAILED_PRECONDITION


class LogReplaced(HeadwaterError):
    """The log has another identity, or ends before a stored offset: rebuild from empty (rule 5)."""

    code = ErrorCode.FAILED_PRECONDITION


class LogMissing(HeadwaterError):
    """The log was never initialised; `python -m serving.eventlog init` does it."""

    code = ErrorCode.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True)
class Record:
    """A committed data record; `value` is None only for a retired collection's keys. Never the log's identity."""

    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What `read` and `follow` give: perhaps no records, but always honest bounds."""

    topic: Topic
    partition: int
    records: tuple[Record, ...]
    next_offset: int
    """Where to go on; above the last record by more than one where markers or compaction left gaps."""
    end_offset: int
    """The committed end, as asked for at `asked_at`. Current when next_offset >= end_offset."""
    asked_at: float
    """time.monotonic() before that end was asked for."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The partitions a member should own, in one generation of its group."""

    generation: int
    partitions: frozenset[int]


class Appender(Protocol):
    """Appends that any number of processes may make at once, to the documents and the dead letters.

    Collections and index are appended to by the partition's owner alone: see `Owner.take`.
    """

    async def append(
        self, topic: Topic, partition: int, key: bytes, value: bytes, *, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        """Append durably and return the offset.

        Raises InvalidArgument (too large, or an owner's topic), TimestampRefused (documents only), LogUnavailable (all:
        it did not land), OutcomeUnknown.
        """
        ...


class Reader(Protocol):
    """Reads of committed records. Every method raises LogReplaced when the log has another identity than when it was
    opened, and LogUnavailable when it cannot be reached."""

    async def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        """First offset and committed end (exclusive)."""
        ...

    async def offset_at(self, topic: Topic, partition: int, timestamp_ms: int) -> int:
        """An offset at or before the first record stamped at or after the time; the end when there is none."""
        ...

    async def read(self, topic: Topic, partition: int, offset: int, *, max_records: int = 1000) -> Batch:
        """What is committed from the offset on, without waiting; empty at the end."""
        ...

    def follow(self, positions: Mapping[tuple[Topic, int], int]) -> AsyncIterator[Batch]:
        """Batches of all these partitions as they come, for ever; for each at least one a second, empty or not.

        A position above the committed end raises LogReplaced.
        """
        ...


class OwnedPartition(Protocol):
    """A partition taken over: older owners' appends fail from now on (rule 1)."""

    last: Record | None
    """The last data record at take-over."""
    end: int
    """The committed end at take-over."""

    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        """Append all or none in one transaction; the offsets, in order. The log stamps them itself.

        Raises Fenced; any other error too means: abandon the partition (its outcome is settled by the next take-over).
        """
        ...

    async def close(self) -> None:
        """Let go of it. Does not fence."""
        ...


class Membership(Protocol):
    """A place in a group of workers."""

    def assignments(self) -> AsyncIterator[Assignment]:
        """The current assignment, and each new one. Raises Fenced when another process has joined as this member."""
        ...

    async def report(self, offsets: Mapping[int, int]) -> None:
        """Publish how far each partition is, for the lag metric alone; nobody resumes from it."""
        ...

    async def leave(self) -> bool:
        """Let the others have this member's partitions now, rather than when its session has ended; whether there are
        others. Alone it stays a member, so that a restart has its partitions back at once."""
        ...


class Owner(Protocol):
    """Ownership of partitions, one writer each."""

    async def take(self, topic: Topic, partition: int) -> OwnedPartition:
        """Fence older owners, then read the committed end, then find the last data record."""
        ...

    def join(self, group: str, member: str, topic: Topic) -> AbstractAsyncContextManager[Membership]:
        """Join a group that shares the topic's partitions out.

        `member` is stable: a restart gets its partitions back at once.
        """
        ...


class EventLog(Appender, Reader, Owner, Protocol):
    """An opened log."""

    log_id: bytes
    """16 random bytes, written by `init` (rule 5)."""
    partitions: int
    """Partitions of the documents and index topics."""


class LogSettings(BaseModel):
    """Where the log is."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["sqlite", "kafka"] = Field("sqlite", description="Engine: `sqlite` (one machine) or `kafka`.")
    path: Path = Field(Path(".headwater/log/log.sqlite3"), description="File of the sqlite engine.")
    bootstrap_servers: str = Field("127.0.0.1:9092", description="Brokers of the kafka engine, comma-separated.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How the brokers are spoken to, in Kafka's own words."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How the brokers are told who asks, with SASL."
    )
    sasl_username: str = Field("", description="Who asks, with SASL.")
    sasl_password: SecretStr = Field(SecretStr(""), description="Its password.")
    tls_ca_path: Path | None = Field(
        None, description="PEM file of who signs the brokers' certificates; the system's authorities when not set."
    )
    tls_certificate_path: Path | None = Field(None, description="PEM file of our certificate, for brokers that ask.")
    tls_key_path: Path | None = Field(None, description="PEM file of its key.")
    partitions: int = Field(16, ge=1, le=1024, description="Partitions of documents and index; read by `init` alone.")
    replication_factor: int = Field(
        1, ge=1, le=7, description="Replicas of each Kafka partition; read by `init` alone."
    )
    session_seconds: float = Field(
        10.0, ge=1.0, le=300.0, description="A worker that was silent for this long loses its partitions."
    )
    topic_prefix: str = Field(
        "", max_length=64, description="Put before the topics' names, so that tests can share a broker."
    )

    @model_validator(mode="after")
    def _security_is_whole(self) -> LogSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(f"{self.security_protocol} needs sasl_username and sasl_password")
        if self.tls_key_path and not self.tls_certificate_path:
            raise ValueError("tls_key_path is of no use without tls_certificate_path")
        if (self.tls_ca_path or self.tls_certificate_path) and "SSL" not in self.security_protocol:
            raise ValueError(f"{self.security_protocol} uses no certificates: security_protocol SSL or SASL_SSL does")
        return self


def open_log(settings: LogSettings) -> AbstractAsyncContextManager[EventLog]:
    """Open an initialised log; LogMissing when it is not."""
    match settings.kind:
        case "sqlite":
            from .sqlite import open_sqlite_log

            return open_sqlite_log(settings)
        case "kafka":
            from .kafka import open_kafka_log

            return open_kafka_log(settings)


async def init_log(settings: LogSettings) -> bytes:
    """Create the topics where they are missing and give the log its identity, once; return the log's id."""
    match settings.kind:
        case "sqlite":
            from .sqlite import init_sqlite_log

            return await init_sqlite_log(settings)
        case "kafka":
            from .kafka import init_kafka_log

            return await init_kafka_log(settings)
