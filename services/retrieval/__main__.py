"""`python -m services.retrieval`: one shard."""

from headwater.retrieval.v1 import retrieval_pb2_grpc

from serving.server import Registration, run, serve

from .answerer import Answerer
from .batcher import Batcher
from .follower import Follower
from .publication import Publication
from .servicer import RetrievalServicer
from .settings import Settings


async def main(settings: Settings) -> None:
    """Follow the log and answer, until told to stop."""
    publication = Publication()
    async with (
        Follower(settings.retrieval, settings.log, publication) as follower,
        Batcher(publication, settings.retrieval) as batcher,
    ):
        servicer = RetrievalServicer(Answerer(publication, batcher, follower), settings.retrieval)
        await serve(
            "retrieval",
            settings.server,
            Registration(
                retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server,
                servicer,
                "headwater.retrieval.v1.RetrievalService",
            ),
            readiness=publication.readiness(),
            watch=(follower.task, batcher.task),
        )


if __name__ == "__main__":
    run("retrieval", Settings, main)
