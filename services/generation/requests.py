"""What is asked of a model and what it answers: the values that pass between servicer, scheduler and engines."""

from dataclasses import dataclass
from enum import StrEnum

from serving.errors import InvalidArgument

MAX_OUTPUT_TOKENS = 4096
DEFAULT_OUTPUT_TOKENS = 256
MAX_TEMPERATURE = 2.0
MAX_STOP_TEXTS = 8
MAX_COUNTED_TEXTS = 256


class Role(StrEnum):
    """Who speaks, as chat templates name them."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Priority(StrEnum):
    """Interactive goes before batch."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class FinishReason(StrEnum):
    """Why a generation ended: the model was done or a stop text came, or `max_tokens` were generated."""

    STOP = "stop"
    LENGTH = "length"


class PromptStyle(StrEnum):
    """What a prompt for a model should carry: whole passages, or the few sentences that match best."""

    PASSAGES = "passages"
    EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a passage (from 1) that matches the question; a higher score matches better."""

    text: str
    passage: int
    score: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Raises InvalidArgument, naming the field and its limit."""

    max_tokens: int = DEFAULT_OUTPUT_TOKENS
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    """For temperature above 0; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the generation; not part of the output."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= MAX_OUTPUT_TOKENS:
            raise InvalidArgument(f"max_tokens must be 1 to {MAX_OUTPUT_TOKENS}", field="sampling.max_tokens")
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidArgument(f"temperature must be 0 to {MAX_TEMPERATURE:g}", field="sampling.temperature")
        if not 0 < self.top_p <= 1:
            raise InvalidArgument("top_p must be above 0 and at most 1", field="sampling.top_p")
        if len(self.stop) > MAX_STOP_TEXTS:
            raise InvalidArgument(f"at most {MAX_STOP_TEXTS} stop texts are allowed", field="sampling.stop")
        if "" in self.stop:
            raise InvalidArgument("a stop text must not be empty", field="sampling.stop")


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for an answer. Raises InvalidArgument."""

    tenant: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    priority: Priority = Priority.INTERACTIVE
    evidence: tuple[Evidence, ...] = ()
    """Best first; read by the extractive engine only."""

    def __post_init__(self) -> None:
        if not self.tenant:
            raise InvalidArgument("the scope's tenant must be set", field="scope.tenant")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as an engine will run it."""

    request: Request
    tokens: int
    """Length of the prompt in tokens; an estimate where the engine cannot count."""
    encoded: object = None
    """What the engine made of it; nobody else reads it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model read and wrote, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """More text: always whole characters; the texts of a generation joined are its output."""

    text: str
    tokens: int
    """Tokens generated since the delta before."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an engine's stream."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of each text, in order."""

    counts: tuple[int, ...]
    estimated: bool
    """Whether they are a guess, because the model's tokenizer is not at hand."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is served."""

    name: str
    engine: str
    context_tokens: int
    """Its window: prompt and output together."""
    capacity_tokens: int
    """Tokens of prompts and outputs that fit in the engine at once."""
    prompt_style: PromptStyle


def require_messages(request: Request) -> None:
    """For engines that prompt a model. Raises InvalidArgument."""
    if not request.messages:
        raise InvalidArgument("messages must not be empty", field="messages")


def require_window(request: Request, prompt_tokens: int, context_tokens: int) -> None:
    """Refuses a prompt that leaves no room for its output. Raises InvalidArgument."""
    allowed = context_tokens - request.sampling.max_tokens
    if prompt_tokens > allowed:
        raise InvalidArgument(
            f"messages hold {prompt_tokens} tokens, but with max_tokens={request.sampling.max_tokens} at most "
            f"{max(allowed, 0)} fit in the model's window of {context_tokens}; shorten them or lower max_tokens",
            field="messages",
            reason="PROMPT_TOO_LONG",
        )
