"""Settings of a retrieval shard; nothing else in it reads the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.eventlog import LogSettings
from serving.server import ServerSettings
from serving.telemetry import TelemetrySettings


class RetrievalSettings(BaseModel):
    """Which part of the index this is, and how it is searched."""

    model_config = ConfigDict(frozen=True)

    shard: int = Field(default=0, ge=0, le=1023, description="number of this shard, from 0")
    shards: int = Field(
        default=1, ge=1, le=1024, description="shards in all; shard s of N has partition p of P where p*N//P == s"
    )
    state_dir: Path | None = Field(
        default=None,
        description="folder of this shard's database, its alone; .headwater/retrieval-<shard> when not set."
        " What is in it is rebuilt from the log when it is gone",
    )
    max_batch_records: int = Field(
        default=500, ge=1, le=100_000, description="records of the index log applied in one transaction"
    )
    max_batch_queries: int = Field(default=256, ge=1, le=10_000, description="queries searched together")
    max_queued_queries: int = Field(
        default=4096,
        ge=256,
        le=1_000_000,
        description="queries that wait for the search before theirs; more are refused",
    )
    search_threads: int = Field(default=0, ge=0, le=1024, description="threads that FAISS uses; 0 for one a core")
    read_threads: int = Field(
        default=2, ge=1, le=64, description="threads that read texts and documents from the database"
    )
    max_lag_seconds: float = Field(
        default=1800.0,
        ge=1,
        le=3600,
        description="how long the shard may have been away from the end of the log and still answer while catching up,"
        " in seconds; compaction leaves the index log alone for an hour, and what is older than that can be applied"
        " only as a whole",
    )

    @model_validator(mode="after")
    def _shard_is_one_of_them(self) -> RetrievalSettings:
        if self.shard >= self.shards:
            raise ValueError(f"shard must be below shards ({self.shards}), since the first one is 0")
        return self

    @property
    def database(self) -> Path:
        """The database's file."""
        return (self.state_dir or Path(f".headwater/retrieval-{self.shard}")) / "index.sqlite3"


class Settings(BaseSettings):
    """All of a shard's process, from HEADWATER_* variables."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="HEADWATER_", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    server: ServerSettings = Field(default=ServerSettings(grpc_port=8021, metrics_port=8022), description="the server")
    log: LogSettings = Field(default=LogSettings(), description="the log")
    telemetry: TelemetrySettings = Field(default=TelemetrySettings(), description="logs and traces")
    retrieval: RetrievalSettings = Field(default=RetrievalSettings(), description="the shard")
