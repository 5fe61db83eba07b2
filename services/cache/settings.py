"""Settings of the cache; nothing else in it reads the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.eventlog import LogSettings
from serving.server import ServerSettings
from serving.telemetry import TelemetrySettings


class CacheSettings(BaseModel):
    """What is kept, for how long, and how long is waited for it."""

    model_config = ConfigDict(frozen=True)

    engine: Literal["redis", "fake"] = Field(
        default="redis", description="`redis` (Valkey or Redis) or `fake` (this process's memory, for one process)"
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://[[user]:password@]host:port/database, or rediss:// for TLS",
    )
    max_connections: int = Field(default=32, ge=2, le=1024, description="connections to the store")
    read_budget_ms: float = Field(
        default=20.0, gt=0, le=10_000, description="time the store gets for what a caller waits for, in milliseconds"
    )
    write_budget_ms: float = Field(
        default=250.0,
        gt=0,
        le=10_000,
        description="time the store gets to keep an answer that was already given, in milliseconds",
    )
    connect_seconds: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="time a connection or a late reply gets after its caller has gone on, in seconds",
    )
    breaker_failures: int = Field(
        default=5, ge=1, le=1000, description="failures in a row after which the store is left alone for a while"
    )
    breaker_cooldown_seconds: float = Field(
        default=1.0, gt=0, le=60, description="how long it is left alone before one caller tries again, in seconds"
    )
    entry_ttl_seconds: float = Field(
        default=3600.0, gt=0, le=604_800, description="longest life of an entry, in seconds"
    )
    lease_seconds: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="time a caller gets to work an answer out before another may take over, in seconds",
    )
    currency_seconds: float = Field(
        default=2.0,
        gt=0,
        le=2.0,
        description="how old the last look at the log's end may be for anything to be served, in seconds",
    )
    poll_ms: float = Field(
        default=500.0,
        gt=0,
        le=10_000,
        description="how often a waiter looks for itself, as announcements can be lost, in milliseconds",
    )
    max_waiters_per_key: int = Field(default=256, ge=1, le=100_000, description="callers that wait for one answer")
    max_entries: int = Field(default=50_000, ge=1, le=10_000_000, description="entries this process may serve")
    max_memory_bytes: int = Field(
        default=128 * 1024**2, ge=1024**2, le=64 * 1024**3, description="memory for what is known of them, in bytes"
    )
    max_entry_bytes: int = Field(
        default=1024**2, ge=1024, le=16 * 1024**2, description="longest entry that is kept, in bytes"
    )
    ring_records: int = Field(
        default=65_536, ge=1, le=10_000_000, description="recent changes remembered, over all partitions"
    )
    backfill_records: int = Field(
        default=256, ge=1, le=1_000_000, description="offsets of each index partition read back at start"
    )


class Settings(BaseSettings):
    """Settings of a cache process, from HEADWATER_* variables."""

    model_config = SettingsConfigDict(
        env_prefix="HEADWATER_", env_nested_delimiter="__", frozen=True, nested_model_default_partial_update=True
    )

    server: ServerSettings = ServerSettings(grpc_port=8041, metrics_port=8042)
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    cache: CacheSettings = CacheSettings()
