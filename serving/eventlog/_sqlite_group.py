"""Groups of workers in the log's own file: static members, heartbeats, a generation that rises with every change."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import apsw

from serving.errors import HeadwaterError

from . import Assignment, Fenced, LogReplaced, Topic
from ._sqlite_file import BUSY_SECONDS, WriterThread

BEATS_A_SESSION = 10


class SqliteMembership:
    """A member that stays one while it beats; a stalled process loses its place after the session's length.

    Its end is not announced, so that a restart within the session finds its partitions waiting.
    """

    def __init__(
        self, writer: WriterThread, group: str, member: str, topic: Topic, partitions: int, session_seconds: float
    ) -> None:
        self._writer = writer
        self._group = group
        self._member = member
        self._topic = topic
        self._partitions = partitions
        self._session_seconds = session_seconds
        self._instance = os.urandom(16)
        self._current: Assignment | None = None
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> SqliteMembership:
        self._current = await self._writer.run(lambda c: self._beat(c, joining=True), timeout_seconds=BUSY_SECONDS)
        self._task = asyncio.create_task(self._keep_beating(), name=f"eventlog-member-{self._member}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError, HeadwaterError):
            await self._task

    async def assignments(self) -> AsyncIterator[Assignment]:
        assert self._task is not None
        seen: Assignment | None = None
        while True:
            changed = self._changed
            if self._current is not None and self._current != seen:
                seen = self._current
                yield seen
            elif self._task.done():
                await self._task
                return
            else:
                await changed.wait()

    async def report(self, offsets: Mapping[int, int]) -> None:
        rows = [(self._group, self._topic, partition, offset) for partition, offset in offsets.items()]
        await self._writer.run(
            lambda c: c.executemany("INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)", rows) and None,
            timeout_seconds=BUSY_SECONDS,
        )

    async def leave(self) -> bool:
        self._leaving.set()
        assert self._task is not None
        await self._task
        return await self._writer.run(self._remove, timeout_seconds=BUSY_SECONDS)

    def _remove(self, connection: apsw.Connection) -> bool:
        others = connection.execute(
            "SELECT count(*) FROM members WHERE group_name = ? AND member <> ?", (self._group, self._member)
        ).get
        if others:
            connection.execute(
                "DELETE FROM members WHERE group_name = ? AND member = ? AND instance = ?",
                (self._group, self._member, self._instance),
            )
        return bool(others)

    async def _keep_beating(self) -> None:
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), self._session_seconds / BEATS_A_SESSION)
                    return
                try:
                    current = await self._writer.run(self._beat, timeout_seconds=BUSY_SECONDS)
                except (Fenced, LogReplaced):
                    raise
                except HeadwaterError:
                    continue  # beats go on; a place lost in the meantime is taken anew
                if current != self._current:
                    self._current = current
                    self._wake()
        finally:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _beat(self, connection: apsw.Connection, *, joining: bool = False) -> Assignment:
        group = self._group
        holder = connection.execute(
            "SELECT instance FROM members WHERE group_name = ? AND member = ?", (group, self._member)
        ).get
        if holder not in (None, self._instance) and not joining:
            raise Fenced(f"another process has joined group {group} as {self._member}")
        # CLOCK_MONOTONIC is one clock for all processes; a beat after now is from before a reboot
        now = time.monotonic()
        connection.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
            (group, self._member, self._instance, now, self._session_seconds),
        )
        connection.execute(
            "DELETE FROM members WHERE group_name = ? AND (beat_seconds + session_seconds < ? OR beat_seconds > ?)",
            (group, now, now),
        )
        rows = connection.execute("SELECT member FROM members WHERE group_name = ? ORDER BY member", (group,))
        members = [member for (member,) in rows]
        generation, known = connection.execute(
            "SELECT generation, members FROM groups WHERE name = ?", (group,)
        ).get or (0, "")
        if json.dumps(members) != known:
            generation += 1
            connection.execute(
                "INSERT OR REPLACE INTO groups VALUES (?, ?, ?)", (group, generation, json.dumps(members))
            )
        place = members.index(self._member)
        return Assignment(generation, frozenset(range(place, self._partitions, len(members))))
