"""`headwater doctor`: checks a running Headwater from outside, and says in words what is wrong."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

import typer

from .._errors import HeadwaterError
from .._sync import Client
from .._types import Answer, CacheOutcome, Document, WriteToken
from .output import explain, one_line, say, say_json

_CACHE_TRIES: Final = 5
_QUESTION: Final = "What is the canary of this check called?"


class Result(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and what was found."""

    name: str
    result: Result
    detail: str
    milliseconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """One of `--json`'s checks."""
        return {
            "name": self.name,
            "result": self.result.value,
            "detail": self.detail,
            "milliseconds": round(self.milliseconds, 1),
        }


class _Wrong(Exception):
    """A check found what must not be."""


class _Odd(Exception):
    """A check found what is less than it should be."""


def doctor(client: Client, *, write: bool, timeout: float, as_json: bool) -> typer.Exit:
    """Runs every check; the result is the exit to raise."""
    found: list[Check] = []
    for check in _Doctor(client, timeout).checks(write=write):
        found.append(check)
        if not as_json:
            took = f"  ({check.milliseconds:,.0f} ms)" if check.milliseconds else ""
            say(f"{check.result.value:<4}  {check.name}: {one_line(check.detail, 600)}{took}")
    failed = [check.name for check in found if check.result is Result.FAIL]
    odd = [check.name for check in found if check.result is Result.WARN]
    if as_json:
        say_json({"ok": not failed, "checks": [check.as_json() for check in found]})
    else:
        say(f"wrong: {', '.join(failed)}" if failed else f"look at: {', '.join(odd)}" if odd else "all is well")
    return typer.Exit(1 if failed else 0)


class _Doctor:
    """One examination. Each check says at most so many seconds."""

    def __init__(self, client: Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._broken = False

    def checks(self, *, write: bool) -> Iterator[Check]:
        """Each check as it is made; those that an earlier failure makes pointless are skipped."""
        yield self._check("gateway", self._gateway)
        if self._broken:
            yield Check("everything else", Result.SKIP, "the gateway has to answer first")
            return
        status = self._client.status(timeout=self._timeout)
        for service in status.services:
            if service.name != "gateway":
                why = "" if service.ready else "; its log and its /ready page say more"
                result = Result.OK if service.ready else Result.FAIL
                yield Check(service.name, result, f"{service.detail}{why}")
        yield from self._collections()
        if write:
            yield from self._round_trip()
        else:
            yield Check("round trip", Result.SKIP, "--no-write was given")

    def _gateway(self) -> str:
        status = self._client.status(timeout=self._timeout)
        return f"answers; you are tenant {status.tenant}"

    def _collections(self) -> Iterator[Check]:
        try:
            collections = self._client.list_collections(timeout=self._timeout)
        except HeadwaterError as error:
            yield Check("collections", Result.FAIL, explain(error))
            return
        began = time.perf_counter()
        healthy = 0
        for collection in collections:
            check = self._check(f"collection {collection.name}", partial(self._collection, collection.name))
            if check.result is Result.OK:
                healthy += 1
            else:
                yield check
        detail = f"{healthy} of {len(collections)} are well" if collections else "there are none yet"
        yield Check("collections", Result.OK, detail, (time.perf_counter() - began) * 1000)

    def _collection(self, name: str) -> str:
        details = self._client.get_collection(name, timeout=self._timeout)
        coverage = details.coverage
        if not coverage.complete:
            raise _Wrong(
                f"only {coverage.partitions_answered} of {coverage.partitions_total} partitions answer: a retrieval "
                "shard is down or catches up, and answers lack what it holds"
            )
        held = f"{details.documents} documents in {details.chunks} chunks"
        if details.rejected:
            raise _Odd(f"{held}, {details.rejected} rejected: ListDocuments with state REJECTED says which and why")
        return held

    def _round_trip(self) -> Iterator[Check]:
        name = f"headwater-doctor-{secrets.token_hex(6)}"
        trip = _RoundTrip(self._client, name, self._timeout)
        try:
            for what, step in trip.steps():
                check = self._check(what, step)
                yield check
                if check.result is Result.FAIL:
                    yield Check("rest of the round trip", Result.SKIP, f"{what} failed")
                    break
        finally:
            with suppress(HeadwaterError):
                self._client.delete_collection(name, timeout=self._timeout)

    def _check(self, name: str, look: Callable[[], str]) -> Check:
        began = time.perf_counter()
        result, detail = Result.OK, ""
        try:
            detail = look()
        except _Odd as odd:
            result, detail = Result.WARN, str(odd)
        except _Wrong as wrong:
            result, detail = Result.FAIL, str(wrong)
        except HeadwaterError as error:
            result, detail = Result.FAIL, explain(error)
        self._broken = self._broken or result is Result.FAIL
        return Check(name, result, detail, (time.perf_counter() - began) * 1000)


class _RoundTrip:
    """A document's life in a collection of its own: written, found, asked about, changed, deleted."""

    def __init__(self, client: Client, name: str, timeout: float) -> None:
        self._client = client
        self._name = name
        self._timeout = timeout
        self._first, self._second = f"canary{secrets.token_hex(4)}", f"canary{secrets.token_hex(4)}"
        self._token = WriteToken()

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """What is done, in order."""
        yield "create a collection", self._create
        yield "write a document", partial(self._put, self._first)
        yield "find it", partial(self._find, self._first)
        yield "ask about it", partial(self._ask, self._first)
        yield "ask again, from the cache", self._ask_again
        yield "change it", partial(self._put, self._second)
        yield "ask about the change", partial(self._ask, self._second)
        yield "delete it", self._delete
        yield "find it no more", self._find_nothing

    def _create(self) -> str:
        self._client.create_collection(self._name, timeout=self._timeout)
        return f"{self._name}, deleted at the end"

    def _put(self, word: str) -> str:
        document = Document("canary", text=f"The canary of this check is called {word}.")
        self._token = self._client.put(self._name, [document], timeout=self._timeout).token
        return "acknowledged"

    def _find(self, word: str) -> str:
        hits = self._client.search(self._name, _QUESTION, k=10, after=self._token, timeout=self._timeout).hits
        if not any(word in hit.text for hit in hits):
            raise _Wrong("a search with the write's token did not see the write: it must wait for it, or fail")
        return "a search with the write's token sees it"

    def _ask(self, word: str) -> str:
        answer = self._answer()
        other = self._first if word == self._second else self._second
        if other in repr(answer):
            raise _Wrong("the answer rests on what the document said before it was changed")
        if not any(word in passage.hit.text for passage in answer.passages):
            raise _Wrong("the answer does not rest on the document")
        if answer.degradations:
            raise _Odd(f"answered, with something missing: {'; '.join(one.message for one in answer.degradations)}")
        return f"answered by {answer.model or 'quotation'}"

    def _ask_again(self) -> str:
        for _ in range(_CACHE_TRIES):
            answer = self._answer()
            if answer.cache in (CacheOutcome.HIT, CacheOutcome.SHARED):
                return f"outcome {answer.cache.value}"
            if answer.degradations:
                raise _Odd(f"not cached, as the answer lacks something: {answer.degradations[0].message}")
        raise _Odd(
            f"{_CACHE_TRIES} answers to one question came from the model (outcome {answer.cache.value}): is the cache "
            "service there, and its Valkey or Redis?"
        )

    def _answer(self) -> Answer:
        return self._client.answer(self._name, _QUESTION, after=self._token, timeout=self._timeout)

    def _delete(self) -> str:
        self._token = self._client.delete(self._name, ["canary"], timeout=self._timeout).token
        return "acknowledged"

    def _find_nothing(self) -> str:
        hits = self._client.search(self._name, _QUESTION, k=10, after=self._token, timeout=self._timeout).hits
        if hits:
            raise _Wrong("a deleted document is still found")
        return "gone"
