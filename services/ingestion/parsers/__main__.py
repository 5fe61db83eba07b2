"""A parser process: documents in, text and chunks out, within limits; a document that breaks them kills only this.

It says with an empty frame that it is ready; then it answers each frame with one.

It opens no connection and writes no file. Standard output is the worker's; standard error says nothing, because what
libraries complain of quotes documents.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from services.ingestion.errors import DocumentRejected
from services.ingestion.splitter import Splitter, headings_above
from serving import frames

from . import extract


def main() -> None:
    arguments = argparse.ArgumentParser(prog="services.ingestion.parsers")
    arguments.add_argument("--tokenizer", type=Path)
    arguments.add_argument("--memory-bytes", type=int, required=True)
    arguments.add_argument("--cpu-seconds", type=int, required=True)
    parsed = arguments.parse_args()
    answers = frames.take_stdout()
    _limit(resource.RLIMIT_AS, parsed.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    splitter = Splitter(parsed.tokenizer)
    answers.write(frames.encode({}, b""))  # ready
    answers.flush()
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        _allow_cpu(parsed.cpu_seconds)
        header, body = _process(splitter, *frame)
        answers.write(frames.encode(header, body))
        answers.flush()


def _process(splitter: Splitter, header: frames.Header, body: bytes) -> tuple[frames.Header, bytes]:
    try:
        extracted = extract(header["content_type"], body)
        text = extracted.text
        spans = splitter.split(
            text,
            max_tokens=header["max_tokens"],
            overlap_tokens=header["overlap_tokens"],
            markdown=extracted.markdown,
            headings=extracted.headings,
        )
        chunks = [(span.start, span.end, headings_above(extracted.headings, span.start)) for span in spans]
        return {"title": extracted.title, "chunks": chunks}, text.encode()
    except DocumentRejected as error:
        return {"reason": error.reason, "message": error.message}, b""
    except (MemoryError, RecursionError):
        return {
            "reason": "PARSER_MEMORY",
            "message": "the document needs more memory to be parsed than is allowed",
        }, b""
    except Exception as error:
        message = f"the document cannot be parsed ({type(error).__name__})"
        return {"reason": "PARSER_FAILED", "message": message}, b""


def _allow_cpu(seconds: int) -> None:
    """Set the clock for one document; when it runs out the kernel kills."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
