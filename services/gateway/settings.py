"""The gateway's settings: the only reader of its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.eventlog import LogSettings
from serving.limits import MAX_K
from serving.server import ServerSettings
from serving.telemetry import TelemetrySettings


class GatewaySettings(BaseModel):
    """The front door: who may enter, whom it asks, and how much."""

    model_config = ConfigDict(frozen=True)

    auth: Literal["none", "keys"] = Field(
        default="none", description="who may call: `none` (everybody is tenant `default`; loopback only) or `keys`"
    )
    allow_unauthenticated: bool = Field(
        default=False, description="let auth `none` listen on other addresses than loopback"
    )
    keys_path: Path = Field(
        default=Path(".headwater/keys.json"),
        description="file of auth `keys`, read again when it changes: "
        '{"keys": [{"sha256": HEX, "tenant": NAME, "access_groups": [NAME], "max_concurrent_calls": N, '
        '"requests_per_second": N}]}; HEX is what `printf %s "$KEY" | sha256sum` prints',
    )

    retrieval_addresses: tuple[str, ...] = Field(
        default=("127.0.0.1:8021",), min_length=1, description="addresses of the shards, shard 0 first, as a JSON list"
    )
    embedding_address: str = Field(default="127.0.0.1:8011", description="address of the embedding service")
    generation_address: str = Field(default="127.0.0.1:8031", description="address of the generation service")
    cache_address: str = Field(default="127.0.0.1:8041", description="address of the cache service; empty for no cache")
    ingestion_address: str = Field(default="127.0.0.1:8051", description="address of the ingestion API")

    reply_margin_ms: int = Field(
        default=100,
        ge=0,
        le=10_000,
        description="kept back from the deadline for telling what there is, in milliseconds",
    )
    collection_timeout_ms: int = Field(
        default=2000,
        ge=0,
        le=60_000,
        description="longest wait for a collection just made to be known here, in milliseconds",
    )
    cache_timeout_ms: int = Field(
        default=100, ge=1, le=10_000, description="longest wait for the cache, single flight aside, in milliseconds"
    )
    single_flight_wait_ms: int = Field(
        default=15_000,
        ge=0,
        le=600_000,
        description="longest wait for the answer that another caller of the same question is having worked out, "
        "in milliseconds; at most half of what is left of the deadline",
    )
    embedding_timeout_ms: int = Field(
        default=10_000, ge=1, le=600_000, description="longest wait for vectors, in milliseconds"
    )
    retrieval_timeout_ms: int = Field(
        default=5000,
        ge=1,
        le=600_000,
        description="longest wait for a shard before answering without it, in milliseconds, and never more than half "
        "of the deadline; a shard that has to apply a write token first gets all of it",
    )
    models_ttl_seconds: float = Field(
        default=30.0, ge=0, le=3600, description="age at which the list of models is asked for anew, in seconds"
    )
    status_timeout_ms: int = Field(
        default=1000, ge=1, le=60_000, description="longest wait for a service in GetStatus, in milliseconds"
    )

    max_concurrent_asks: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="questions worked out at once; more are refused, cached answers are not",
    )
    refused_retry_after_ms: int = Field(
        default=1000, ge=1, le=600_000, description="when a refused caller is told to come back, in milliseconds"
    )

    k: int = Field(default=10, ge=1, le=MAX_K, description="chunks retrieved for a question that asks for no number")
    max_passages: int = Field(default=4, ge=1, le=100, description="passages given to the model")
    max_passage_tokens: int = Field(default=1500, ge=100, le=100_000, description="tokens of the passages, about")
    min_passage_score: float = Field(
        default=0.15,
        ge=-1,
        le=1,
        description="similarity below which passages that share no word with the question are noise: when all are, the "
        "answer is that the collection holds nothing on it; -1 answers from whatever there is",
    )
    prompt_evidence_sentences: int = Field(
        default=2, ge=1, le=50, description="evidence sentences in the prompt of a small model"
    )
    evidence_sentences: int = Field(default=3, ge=1, le=50, description="evidence sentences told with an answer")
    max_quotes: int = Field(
        default=2, ge=1, le=20, description="evidence sentences quoted in place of what was withheld, or of generation"
    )
    max_tokens: int = Field(
        default=64, ge=1, le=4096, description="tokens generated for a question that asks for no number"
    )
    vector_cache_entries: int = Field(
        default=20_000, ge=1, le=10_000_000, description="vectors of sentences and questions remembered, by text"
    )

    max_writes_in_flight: int = Field(
        default=256, ge=1, le=100_000, description="documents of one stream forwarded and not yet acknowledged"
    )
    max_write_bytes_in_flight: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="the same in bytes; a single larger document still goes alone"
    )
    max_documents_per_stream: int = Field(
        default=200_000, ge=1, le=10_000_000, description="documents of one stream; more go into another"
    )


class Settings(BaseSettings):
    """The gateway process: its own group and the shared ones."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="HEADWATER_", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    server: ServerSettings = Field(default=ServerSettings(grpc_port=8001, metrics_port=8002))
    telemetry: TelemetrySettings = Field(default=TelemetrySettings())
    log: LogSettings = Field(default=LogSettings())
    gateway: GatewaySettings = Field(default=GatewaySettings())
