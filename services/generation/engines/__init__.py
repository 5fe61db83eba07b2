"""What the scheduler needs of an engine, and the one place where an engine is chosen."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, assert_never

from serving.errors import FailedPrecondition

from ..requests import Delta, Finished, Model, Prompt, PromptStyle, Request, TokenCounts
from ..settings import GenerationSettings


class Generator(Protocol):
    """Runs a model. Errors are those of `serving.errors`."""

    @property
    def model(self) -> Model:
        """The model that is run."""
        ...

    async def prompt(self, request: Request) -> Prompt:
        """The prompt of a request, measured. Raises InvalidArgument when it cannot be run, e.g. is too long."""
        ...

    def generate(self, prompt: Prompt) -> AsyncGenerator[Delta | Finished, None]:
        """Streams deltas, then one Finished. Closing it earlier frees what it holds within one step of the engine."""
        ...

    async def count_tokens(self, texts: Sequence[str]) -> TokenCounts:
        """Counts tokens as the model would, without a chat template."""
        ...

    async def failure(self) -> None:
        """Never returns; raises once the engine can do nothing more."""
        ...


@asynccontextmanager
async def open_engine(settings: GenerationSettings) -> AsyncIterator[Generator]:
    """The engine that the settings name, until the block ends. Raises FailedPrecondition saying what is missing."""
    style = settings.prompt_style or (PromptStyle.PASSAGES if settings.engine == "openai" else PromptStyle.EVIDENCE)
    try:
        match settings.engine:
            case "openvino":
                from .openvino import OpenVinoGenerator

                running = settings.scheduling.max_running_requests
                async with OpenVinoGenerator(settings.openvino, settings.model_name, style, running) as openvino:
                    yield openvino
            case "openai":
                from .openai import OpenAiGenerator

                async with OpenAiGenerator(settings.openai, settings.model_name, style) as openai:
                    yield openai
            case "extractive":
                from .extractive import ExtractiveGenerator

                yield ExtractiveGenerator(settings.extractive, settings.model_name, style)
            case "fake":
                from .fake import FakeGenerator

                yield FakeGenerator(settings.fake, settings.model_name, style)
            case _:
                assert_never(settings.engine)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"engine {settings.engine!r} needs {error.name!r}; install headwater-services[generation]",
            reason="ENGINE_MISSING",
        ) from error
