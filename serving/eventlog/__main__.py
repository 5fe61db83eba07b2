"""`python -m serving.eventlog COMMAND`: make a log (init), look at it (describe), compact the sqlite engine's file
(compact), back it up into a file (backup FILE), fill a new one from such a file (restore FILE).
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.errors import FailedPrecondition, HeadwaterError

from . import LogSettings, LogUnavailable, Topic, init_log, open_log
from ._rules import topic_partitions
from .backup import Progress, backup, restore

_NEWS_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class EventLogSettings(BaseSettings):
    """HEADWATER_LOG__*; everything else of the environment is other programs' business."""

    model_config = SettingsConfigDict(env_prefix="HEADWATER_", env_nested_delimiter="__", frozen=True)

    log: LogSettings = Field(default_factory=LogSettings, description="The log.")


async def init(settings: LogSettings) -> dict[str, Any]:
    log_id = await init_log(settings)
    return {"kind": settings.kind, "log_id": log_id.hex(), "partitions": settings.partitions}


async def describe(settings: LogSettings) -> dict[str, Any]:
    async with open_log(settings) as log:
        topics = {
            str(topic): [await log.bounds(topic, p) for p in range(topic_partitions(topic, log.partitions))]
            for topic in Topic
        }
        return {
            "kind": settings.kind,
            "log_id": log.log_id.hex(),
            "partitions": log.partitions,
            "topics": {
                topic: [{"partition": p, "first": first, "end": end} for p, (first, end) in enumerate(bounds)]
                for topic, bounds in topics.items()
            },
        }


async def back_up(settings: LogSettings, path: Path) -> dict[str, Any]:
    async with open_log(settings) as log:
        return asdict(await backup(log, path, _say_progress("backed up")))


async def fill(settings: LogSettings, path: Path) -> dict[str, Any]:
    async with open_log(settings) as log:
        return asdict(await restore(log, path, _say_progress("restored")))


def _say_progress(what: str) -> Progress:
    said_at = time.monotonic()

    def say(records: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > _NEWS_SECONDS:
            said_at = time.monotonic()
            print(f"{what}: {records} records", file=sys.stderr, flush=True)

    return say


async def compact(settings: LogSettings) -> dict[str, Any]:
    from .sqlite import open_sqlite_log

    if settings.kind != "sqlite":
        raise FailedPrecondition("only the sqlite engine is compacted by hand; Kafka's brokers do it by themselves")
    async with open_sqlite_log(settings) as log:
        return {"dropped": {str(topic): await log.compact(topic) for topic in Topic}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.eventlog", description=__doc__)
    parser.add_argument("command", choices=["init", "describe", "compact", "backup", "restore"])
    parser.add_argument("file", nargs="?", type=Path, help="of backup (a new one) and restore")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--every-seconds", type=float, default=0.0, help="run the command again and again, this far apart"
    )
    parser.add_argument(
        "--wait-seconds", type=float, default=0.0, help="how long to wait for brokers that are not there yet"
    )
    arguments = parser.parse_args()
    commands = {"init": init, "describe": describe, "compact": compact}
    if arguments.command not in commands and arguments.file is None:
        parser.error(f"{arguments.command} needs a file")
    if arguments.command in commands and arguments.file is not None:
        parser.error(f"{arguments.command} takes no file")
    with_file = {"backup": back_up, "restore": fill}.get(arguments.command)
    command = partial(with_file, path=arguments.file) if with_file else commands[arguments.command]
    try:
        settings = EventLogSettings().log
        command = partial(_once_there, command, time.monotonic() + arguments.wait_seconds)
        asyncio.run(_run(command, settings, arguments.json, arguments.every_seconds))
    except (HeadwaterError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _once_there(command: Any, until: float, settings: LogSettings) -> dict[str, Any]:
    """The command's result, tried again until then (monotonic seconds) while the log cannot be reached."""
    while True:
        try:
            return dict(await command(settings))
        except LogUnavailable as error:
            if time.monotonic() >= until:
                raise
            print(f"waiting for the log: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(_RETRY_SECONDS)


async def _run(command: Any, settings: LogSettings, as_json: bool, every_seconds: float) -> None:
    while True:
        result = await command(settings)
        print(json.dumps(result) if as_json else _table(result), flush=True)
        if every_seconds <= 0:
            return
        await asyncio.sleep(every_seconds)


def _table(result: dict[str, Any]) -> str:
    lines = [f"{name:<12}{value}" for name, value in result.items() if not isinstance(value, dict)]
    for topic, bounds in result.get("topics", {}).items():
        lines += [f"{topic}/{b['partition']}: {b['first']} to {b['end']}" for b in bounds]
    lines += [f"{topic}: {count} records dropped" for topic, count in result.get("dropped", {}).items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
