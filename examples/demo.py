"""`make demo`: from nothing to answers on one machine.

Starts a stack of its own (other ports and another folder than `make up`), puts Headwater's own documentation in, asks
questions, asks one again from the cache, changes a document, asks again, and stops what it started.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

from headwater import CacheOutcome, Client, Document, Done, Retrieved, Token
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deploy.local.stack import ROOT, Stack, start, stop

STATE = ROOT / ".headwater" / "demo"
COLLECTION = "handbook"
QUESTIONS = (
    "Which document formats can Headwater read?",
    "What happens when a retrieval shard is down?",
    "How do I use my own language model?",
)
LEAVE_BEFORE = "Employees get 25 days of paid leave a year. Leave must be requested two weeks ahead."
LEAVE_AFTER = "Employees get 30 days of paid leave a year. Leave must be requested two weeks ahead."
LEAVE_QUESTION = "How many days of paid leave do employees get?"
WIDTH = 100
SOURCES = 2
console = Console(highlight=False, width=WIDTH)


def documents() -> list[Document]:
    """Headwater's own documentation, by path."""
    return [
        Document(id=str(path.relative_to(ROOT)), body=path.read_bytes(), content_type="text/markdown")
        for path in sorted((ROOT / "docs").rglob("*.md"))
    ]


class Wrapped:
    """Prints text as it comes, in lines of WIDTH."""

    def __init__(self) -> None:
        self._column = 0

    def print(self, text: str) -> None:
        """The next piece; pieces end between words."""
        for word in re.findall(r"\S+", text):
            space = 1 if self._column else 0
            if self._column + space + len(word) > WIDTH:
                console.out("\n", end="")
                self._column = space = 0
            console.out(" " * space + word, end="", style="bold")
            self._column += space + len(word)


def ask(client: Client, question: str) -> Done:
    """Ask, print the answer as it streams, then its sources; return its end."""
    console.print(f"\n[bold cyan]? {question}[/]")
    names: dict[int, str] = {}
    done: Done | None = None
    answer = Wrapped()
    with client.ask(COLLECTION, question) as events:
        for event in events:
            if isinstance(event, Retrieved):
                names = {passage.number: passage.hit.document_id for passage in event.passages}
            elif isinstance(event, Token):
                answer.print(event.text)
            elif isinstance(event, Done):
                done = event
    console.print()
    if done is None:
        raise SystemExit("the answer did not end: see the gateway's log")
    for evidence in done.evidence[:SOURCES]:
        source = f"  [{evidence.passage}] {names[evidence.passage]}: \u201c{evidence.text}\u201d"
        console.print(source, style="dim", markup=False, no_wrap=True, overflow="ellipsis")
    for degradation in done.degradations:
        console.print(f"  ! {degradation.message}", style="yellow", markup=False)
    return done


def timings(answers: list[tuple[str, Done]]) -> Table:
    """Where the time went, a column a question."""
    stages = list(dict.fromkeys(stage for _, done in answers for stage in done.timings_ms))
    table = Table(title="milliseconds by stage", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("stage")
    for name, _ in answers:
        table.add_column(name, justify="right")
    for stage in stages:
        times = (done.timings_ms.get(stage) for _, done in answers)
        table.add_row(stage.replace("_", " "), *("" if time is None else f"{time:,.0f}" for time in times))
    return table


def put_and_wait(client: Client, *batch: Document) -> None:
    """Put documents and wait until all are searchable."""
    started = time.monotonic()
    client.put(COLLECTION, batch)
    outcomes = list(client.watch(COLLECTION, [document.id for document in batch]))
    chunks = sum(outcome.chunks for outcome in outcomes)
    console.print(f"{len(outcomes)} documents in {chunks} chunks searchable after {time.monotonic() - started:.1f} s")


def show(address: str) -> None:
    """The main job, from documents to answers."""
    with Client(address) as client:
        client.create_collection(COLLECTION)
        console.rule("documents in", align="left")
        put_and_wait(client, *documents())

        console.rule("questions", align="left")
        answers = [(f"question {number}", ask(client, question)) for number, question in enumerate(QUESTIONS, start=1)]
        console.print("\nthe first one again, now from the cache:")
        answers.append(("again", ask(client, QUESTIONS[0])))
        if answers[-1][1].cache is not CacheOutcome.HIT:
            raise SystemExit(f"the cache answered {answers[-1][1].cache.value}: see its log")

        console.rule("a document changes", align="left")
        put_and_wait(client, Document(id="leave", text=LEAVE_BEFORE))
        before = ask(client, LEAVE_QUESTION)
        console.print("\nthe document now says 30 days, and the very next answer must know:")
        client.put(COLLECTION, [Document(id="leave", text=LEAVE_AFTER)])
        after = ask(client, LEAVE_QUESTION)
        if "25" not in before.answer or "30" not in after.answer or "25" in after.answer:
            raise SystemExit("the answer did not follow the document: this is a defect")
        console.print()
        console.print(timings(answers))


def main() -> None:
    """Start, show, stop."""
    began = time.monotonic()
    stack = Stack(state=STATE, port_base=18000)
    stop(stack)
    shutil.rmtree(STATE, ignore_errors=True)
    prepare = [sys.executable, "-m", "services.generation.prepare"]
    subprocess.run(prepare, check=True, cwd=ROOT)
    console.print("starting the services, each a process of its own on loopback")
    try:
        if not start(stack, console):
            raise SystemExit(1)
        console.print(f"ready after {time.monotonic() - began:.1f} s, the gateway on {stack.address}")
        show(stack.address)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        stop(stack)
    console.print(f"everything is stopped again; {time.monotonic() - began:.0f} s in all. `make up` starts it for you.")


if __name__ == "__main__":
    main()
