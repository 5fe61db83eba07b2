"""The commands and their options."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .output import INTERRUPTED, PIPE_CLOSED, console, error_json, explain, note, say, say_json, wrong_usage

if TYPE_CHECKING:
    from .._sync import Client


@dataclass(slots=True)
class _State:
    """What the options before the command said, and whether failures are to be told as JSON too."""

    address: str | None = None
    insecure: bool = False
    as_json: bool = False


class _Group(TyperGroup):
    """Turns what a command raises into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        from .._errors import HeadwaterError

        try:
            return super().invoke(ctx)
        except HeadwaterError as error:
            note(f"error: {explain(error)}")
            state = ctx.find_object(_State)
            if state is not None and state.as_json:
                say_json(error_json(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone. Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from None


app = typer.Typer(
    name="headwater",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
collections_app = typer.Typer(no_args_is_help=False, rich_markup_mode="markdown")
app.add_typer(collections_app, name="collections")

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
After = Annotated[str, typer.Option(metavar="TOKEN", help="See the writes of this token, or fail.", show_default=False)]
Strict = Annotated[bool, typer.Option("--strict", help="Fail rather than answer from some of the partitions.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"headwater {version('headwater')}")
        raise typer.Exit


@app.callback()
def headwater(
    ctx: typer.Context,
    address: Annotated[
        str,
        typer.Option(
            envvar="HEADWATER_ADDRESS",
            metavar="HOST:PORT",
            help="The gateway, 127.0.0.1:8001 by default; https://HOST:PORT for TLS.",
            show_default=False,
        ),
    ] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="Send the key unencrypted to another machine.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Answers grounded in your documents.

    The caller's key is taken from HEADWATER_API_KEY.

    Exit codes: 0 done, 1 something failed or was rejected, 2 wrong usage, 130 interrupted.
    With --json a failure is also printed to stdout, as {"error": {"code", "reason", "field", "message"}}.
    """
    ctx.obj = _State(address or None, insecure)


@contextmanager
def _client(ctx: typer.Context, as_json: bool) -> Iterator["Client"]:
    from .._sync import Client

    state = ctx.ensure_object(_State)
    state.as_json = as_json
    with Client(state.address, insecure=state.insecure) as client:
        yield client


@app.command()
def ingest(
    ctx: typer.Context,
    collection: Collection,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files, folders, or - for JSON lines on stdin.", show_default=False),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Return when all is searchable or rejected.")] = False,
    as_json: Json = False,
    create: Annotated[
        bool, typer.Option("--create/--no-create", help="Make the collection when there is none.")
    ] = True,
) -> None:
    """Put documents into a collection.

    Taken are .txt, .md, .markdown, .html, .htm, .pdf and .jsonl; other and hidden files in folders are skipped. A
    file's id is its path inside the folder given. A line of a .jsonl file is {"id", "text", "title"?, "metadata"?,
    "access_groups"?}.

    --json ends with {"accepted", "indexed", "rejected": [{"id", "reason"}], "token"}; "indexed" is null without --wait.

    Examples:

    - headwater ingest handbook docs/ --wait
    - headwater ingest papers corpus.jsonl --json
    - zcat corpus.jsonl.gz | headwater ingest papers -
    """
    from .ingest import ingest as run

    with _client(ctx, as_json) as client:
        raise run(client, collection, paths, wait=wait, create=create, as_json=as_json)


@app.command()
def search(
    ctx: typer.Context,
    collection: Collection,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)] = "",
    queries: Annotated[
        str,
        typer.Option(
            metavar="FILE.jsonl", help='Many queries, {"id", "text"} a line; - for stdin.', show_default=False
        ),
    ] = "",
    k: Annotated[int, typer.Option("-k", help="Hits a query, 1 to 1,000.")] = 10,
    as_json: Json = False,
    after: After = "",
    strict: Strict = False,
) -> None:
    """Find the chunks that match a query best.

    --json prints one line a query: {"id", "hits": [{"document_id", "chunk", "score", "text"}], "coverage"}.

    Examples:

    - headwater search handbook "how much leave do I get?"
    - headwater search papers --queries queries.jsonl -k 5 --json
    """
    from .._types import Query
    from .asking import read_queries
    from .asking import search as run

    if bool(query) == bool(queries):
        raise wrong_usage("give either a QUERY or --queries FILE.jsonl")
    many = read_queries(queries) if queries else iter([Query(query)])
    with _client(ctx, as_json) as client:
        run(client, collection, many, k=k, after=after, strict=strict, as_json=as_json)


@app.command()
def ask(
    ctx: typer.Context,
    collection: Collection,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.", show_default=False)],
    as_json: Json = False,
    after: After = "",
    strict: Strict = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Let the cache take part.")] = True,
    timings: Annotated[bool, typer.Option("--timings", help="Show the time that each stage took.")] = False,
    k: Annotated[int, typer.Option("-k", help="Chunks retrieved; 0 for the gateway's default.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens generated; 0 for the gateway's default.")] = 0,
    model: Annotated[str, typer.Option(help="The model; empty for the gateway's default.", show_default=False)] = "",
) -> None:
    """Answer a question from a collection, with its sources.

    --json prints {"answer", "citations", "passages", "evidence", "usage", "timings_ms", "cache", "degraded",
    "coverage", "finish_reason", "model"}.

    Examples:

    - headwater ask handbook "how much leave do I get?"
    - headwater ask handbook "who signs off travel?" --no-cache --timings
    """
    from .asking import ask as run

    with _client(ctx, as_json) as client:
        run(
            client,
            collection,
            question,
            k=k,
            after=after,
            strict=strict,
            cache=cache,
            max_tokens=max_tokens,
            model=model,
            timings=timings,
            as_json=as_json,
        )


@app.command()
def delete(
    ctx: typer.Context,
    collection: Collection,
    document_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Documents to delete.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Delete every document; the collection stays.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete documents. Deleting one that does not exist is no error.

    --json prints {"deleted", "token"}.

    Examples:

    - headwater delete handbook leave.md travel.md
    - headwater delete handbook --all --yes
    """
    if bool(document_ids) == every:
        raise wrong_usage("give either IDs or --all")
    with _client(ctx, as_json) as client:
        if every:
            _confirm(f"delete every document of {collection!r}?", yes)
            document_ids = [document.document_id for document in client.list_documents(collection, page_size=1000)]
        result = client.delete(collection, document_ids or [])
        if as_json:
            say_json({"deleted": result.accepted, "token": result.token})
        else:
            say(f"{result.accepted} documents deleted")


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show how the services are; exits with 1 when one is not ready.

    --json prints {"address", "tenant", "ready", "services": [{"name", "ready", "detail"}]}.
    """
    with _client(ctx, as_json) as client:
        found = client.status()
        ready = all(service.ready for service in found.services)
        if as_json:
            services = [{"name": s.name, "ready": s.ready, "detail": s.detail} for s in found.services]
            say_json({"address": client.address, "tenant": found.tenant, "ready": ready, "services": services})
        else:
            _say_table(
                ("service", "ready", "what it runs"),
                [(s.name, "yes" if s.ready else "NO", s.detail) for s in found.services],
            )
            note(f"gateway {client.address}, tenant {found.tenant}")
    raise typer.Exit(0 if ready else 1)


@app.command()
def doctor(
    ctx: typer.Context,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Write, ask about and delete a document of its own.")
    ] = True,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Longest time of a step, in seconds.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Check a running Headwater from outside, and say what is wrong.

    Looks at the gateway, every service behind it and every collection; then takes a document through its life in a
    collection of its own, which it deletes. Exits with 1 when something is wrong.

    --json prints {"ok", "checks": [{"name", "result", "detail", "milliseconds"}]}; a result is ok, warn, fail or skip.
    """
    from .doctor import doctor as run

    with _client(ctx, as_json) as client:
        raise run(client, write=write, timeout=timeout, as_json=as_json)


@collections_app.callback(invoke_without_command=True)
def collections(ctx: typer.Context, as_json: Json = False) -> None:
    """List, create, show and delete collections.

    Examples:

    - headwater collections
    - headwater collections create handbook
    - headwater collections show handbook
    - headwater collections delete handbook --yes
    """
    if ctx.invoked_subcommand is None:
        list_collections(ctx, as_json)


@collections_app.command("list")
def list_collections(ctx: typer.Context, as_json: Json = False) -> None:
    """List the collections. --json prints one line each: {"name", "collection_id", "created_unix_ms"}."""
    with _client(ctx, as_json) as client:
        found = client.list_collections()
    if as_json:
        for one in found:
            say_json({"name": one.name, "collection_id": one.collection_id, "created_unix_ms": one.created_unix_ms})
    elif found:
        _say_table(("collection", "created"), [(one.name, _time(one.created_unix_ms)) for one in found])
    else:
        say("no collections yet; `headwater ingest COLLECTION PATH…` makes one")


@collections_app.command("create")
def create_collection(
    ctx: typer.Context,
    name: Collection,
    spread: Annotated[int, typer.Option(help="Partitions its documents are spread over; 0 for the default.")] = 0,
    max_chunk_tokens: Annotated[int, typer.Option(help="Longest chunk in tokens; 0 for the default.")] = 0,
    chunk_overlap_tokens: Annotated[int, typer.Option(help="Tokens shared by neighbouring chunks.")] = 0,
    as_json: Json = False,
) -> None:
    """Create a collection. --json prints {"name", "collection_id", "token"}."""
    from .._types import CollectionSettings

    settings = CollectionSettings(
        spread=spread, max_chunk_tokens=max_chunk_tokens, chunk_overlap_tokens=chunk_overlap_tokens
    )
    with _client(ctx, as_json) as client:
        created = client.create_collection(name, settings=settings)
        if as_json:
            token = client.own_writes(name)
            say_json({"name": created.name, "collection_id": created.collection_id, "token": token})
        else:
            say(f"collection {created.name} created")


@collections_app.command("show")
def show_collection(ctx: typer.Context, name: Collection, as_json: Json = False) -> None:
    """Show how much a collection holds.

    --json prints {"name", "collection_id", "documents", "chunks", "rejected", …}.
    """
    from .output import coverage_json, say_shortcomings

    with _client(ctx, as_json) as client:
        details = client.get_collection(name)
    one = details.collection
    values: dict[str, Any] = {
        "name": one.name,
        "collection_id": one.collection_id,
        "documents": details.documents,
        "chunks": details.chunks,
        "rejected": details.rejected,
        "created_unix_ms": one.created_unix_ms,
        "spread": one.settings.spread,
        "max_chunk_tokens": one.settings.max_chunk_tokens,
        "chunk_overlap_tokens": one.settings.chunk_overlap_tokens,
        "embedding_fingerprint": one.settings.embedding_fingerprint,
    }
    if as_json:
        say_json(values | {"coverage": coverage_json(details.coverage)})
        return
    shown = values | {"created_unix_ms": _time(one.created_unix_ms)}
    _say_table(None, [(key.removesuffix("_unix_ms").replace("_", " "), str(value)) for key, value in shown.items()])
    say_shortcomings(details.coverage, ())


@collections_app.command("delete")
def delete_collection(ctx: typer.Context, name: Collection, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a collection and all its documents. --json prints {"deleted", "token"}."""
    with _client(ctx, as_json) as client:
        _confirm(f"delete collection {name!r} and all its documents?", yes)
        token = client.delete_collection(name)
        if as_json:
            say_json({"deleted": name, "token": token})
        else:
            say(f"collection {name} deleted")


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise wrong_usage("nobody is there to confirm; add --yes")
    if not typer.confirm(question, err=True):
        note("nothing was deleted")
        raise typer.Exit(1)


def _say_table(header: tuple[str, ...] | None, rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(*(header or ("", "")), box=None, pad_edge=False, show_header=header is not None)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _time(unix_ms: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(" ", "seconds")
