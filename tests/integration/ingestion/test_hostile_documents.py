"""Documents that break the parser's limits: each ends in a reason, and the pool goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import zlib
from collections.abc import AsyncIterator

import psutil
import pytest

from services.ingestion.errors import DocumentRejected
from services.ingestion.parsers.pool import Parsed, ParserLimits, ParserPool

MIB = 1 << 20


async def parse(pool: ParserPool, body: bytes, content_type: str = "text/plain") -> Parsed:
    return await pool.parse(content_type, body, max_tokens=254, overlap_tokens=0)


async def reason(pool: ParserPool, body: bytes, content_type: str) -> str:
    with pytest.raises(DocumentRejected) as caught:
        await parse(pool, body, content_type)
    return caught.value.reason


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    async with ParserPool(1, ParserLimits(512 * MIB, cpu_seconds=1, wall_seconds=60), None) as opened:
        yield opened


@pytest.fixture(autouse=True)
async def goes_on(pool: ParserPool) -> AsyncIterator[None]:
    """After whatever a test did, the next document is parsed."""
    yield
    assert (await parse(pool, b"fine")).characters == 4


def flate_bomb(megabytes: int) -> bytes:
    """A PDF of one page whose content unpacks to that much."""
    packed = zlib.compress(b"BT /F 9 Tf " + b"(a) Tj " * (megabytes * MIB // 7) + b"ET", 9)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(packed), packed),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj%sendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return body + b"xref\n0 6\n0000000000 65535 f \n%strailer<</Root 1 0 R/Size 6>>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(body),
    )


async def test_html_of_a_hundred_thousand_levels(pool: ParserPool) -> None:
    assert await reason(pool, b"<div>" * 100_000 + b"deep", "text/html") == "HTML_TOO_DEEP"


async def test_html_that_hides_its_depth_is_killed_at_its_limit(pool: ParserPool) -> None:
    """Each end is inside a comment for the parser, and an end for whoever only counts."""
    body = b"<div><!--</div>-->" * 60_000 + b"deep"

    assert await reason(pool, body, "text/html") == "PARSER_KILLED"


async def test_a_pdf_that_unpacks_to_more_than_there_is_room_for(pool: ParserPool) -> None:
    assert await reason(pool, flate_bomb(200), "application/pdf") in (
        "PDF_TOO_LARGE",
        "PARSER_MEMORY",
        "PARSER_KILLED",
    )


async def test_a_document_that_takes_too_long_dies_at_its_own_clock(pool: ParserPool) -> None:
    # text whose splitting costs seconds
    assert await reason(pool, ("汉字" * (2 * MIB)).encode(), "text/plain") == "PARSER_KILLED"


async def test_every_document_has_a_clock_of_its_own(pool: ParserPool) -> None:
    body = ("some words of text. " * 50_000).encode()

    for _ in range(5):
        await parse(pool, body)


async def test_sixteen_megabytes_of_noise(pool: ParserPool) -> None:
    for content_type in ("text/plain", "text/markdown", "application/pdf"):
        assert await reason(pool, os.urandom(16 * MIB), content_type) in ("NOT_UTF8", "PDF_DAMAGED")


async def test_a_parser_that_something_else_killed_is_no_proof_against_the_document(pool: ParserPool) -> None:
    await parse(pool, b"warm")
    body = ("some words of text. " * 100_000).encode()

    parsing = asyncio.create_task(parse(pool, body))
    await asyncio.sleep(0)
    os.kill(next(iter(pool._processes)).pid, signal.SIGKILL)

    assert (await parsing).characters == len(body)


async def test_one_that_dies_between_two_documents_is_replaced(pool: ParserPool) -> None:
    await parse(pool, b"warm")
    for _ in range(3):
        (idle,) = pool._processes
        idle.kill()
        await idle.wait()

        assert (await parse(pool, b"fine")).characters == 4


async def test_a_parser_that_cannot_start_is_waited_for(pool: ParserPool) -> None:
    command, pool._command = pool._command, [sys.executable, "-c", "raise SystemExit(3)"]
    parsing = asyncio.create_task(parse(pool, b"fine"))
    await asyncio.sleep(0.3)
    assert not parsing.done()

    pool._command = command
    assert (await parsing).characters == 4


async def test_one_that_is_stopped_is_replaced(pool: ParserPool) -> None:
    async with ParserPool(1, ParserLimits(512 * MIB, cpu_seconds=2, wall_seconds=1), None) as impatient:
        await parse(impatient, b"warm")
        stopped = next(iter(impatient._processes))
        os.kill(stopped.pid, signal.SIGSTOP)

        assert (await parse(impatient, b"fine")).characters == 4
        assert stopped.returncode == -signal.SIGKILL


async def test_a_caller_that_goes_away_leaves_no_answer_to_the_next(pool: ParserPool) -> None:
    await parse(pool, b"warm")
    parsing = asyncio.create_task(parse(pool, ("some words of text. " * 100_000).encode()))
    await asyncio.sleep(0)
    parsing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await parsing

    assert (await parse(pool, b"another")).characters == 7


async def test_a_parser_can_write_no_file_and_ends_with_its_worker() -> None:
    async with ParserPool(1, ParserLimits(512 * MIB, cpu_seconds=2, wall_seconds=60), None) as pool:
        await parse(pool, b"warm")
        (process,) = pool._processes
        child = psutil.Process(process.pid)
        assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert child.rlimit(psutil.RLIMIT_AS)[0] == 512 * MIB
    assert process.returncode == 0
