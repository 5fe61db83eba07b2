"""`python -m services.generation`."""

import asyncio

from headwater.generation.v1.generation_pb2 import DESCRIPTOR
from headwater.generation.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server

from serving.server import Registration, run, serve

from .engines import open_engine
from .scheduler import Scheduler
from .servicer import GenerationServicer
from .settings import Settings


async def main(settings: Settings) -> None:
    """Serves until told to stop; ends with an error when the engine does."""
    async with open_engine(settings.generation) as engine:
        servicer = GenerationServicer(Scheduler(engine, settings.generation.scheduling))
        service = DESCRIPTOR.services_by_name["GenerationService"].full_name
        registration = Registration(add_GenerationServiceServicer_to_server, servicer, service)
        failure = asyncio.create_task(engine.failure())
        try:
            await serve("generation", settings.server, registration, watch=[failure])
        finally:
            failure.cancel()


if __name__ == "__main__":
    run("generation", Settings, main)
