"""Starts a cache process: `python -m services.cache`."""

from __future__ import annotations

from headwater.cache.v1 import cache_pb2_grpc

from serving.eventlog import open_log
from serving.server import Registration, run, serve

from .admissions import AdmissionLimits, Admissions
from .answers import AnswerCache, now_unix_ms
from .engines import open_store
from .follower import Follower
from .history import History
from .servicer import CacheServicer
from .settings import Settings


async def main(settings: Settings) -> None:
    cache = settings.cache
    limits = AdmissionLimits(cache.max_entries, cache.max_memory_bytes, int(cache.entry_ttl_seconds * 1000))
    admissions = Admissions(History(cache.ring_records), limits, now_unix_ms)
    async with (
        open_store(cache) as store,
        Follower(lambda: open_log(settings.log), admissions, backfill_records=cache.backfill_records) as follower,
        AnswerCache(store, admissions, cache) as answers,
    ):
        servicer = CacheServicer(answers, admissions)
        await serve(
            "cache",
            settings.server,
            Registration(
                cache_pb2_grpc.add_CacheServiceServicer_to_server, servicer, "headwater.cache.v1.CacheService"
            ),
            warm_up=follower.caught_up,
            watch=(follower.task, answers.task),
        )


if __name__ == "__main__":
    run("cache", Settings, main)
