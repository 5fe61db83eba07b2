"""Writes the pages that say what the code says: docs/settings.md and docs/limits.md; `--check` compares them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from serving.limits import LIMITS

DOCS = Path(__file__).parent
SERVICES = ("gateway", "ingestion", "embedding", "retrieval", "generation", "cache")
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


def settings_class(service: str) -> type[BaseSettings]:
    """The one settings class of a service."""
    module = importlib.import_module(f"services.{service}.settings")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseSettings) and value.__module__ == module.__name__
    )
    return found


def kind(annotation: Any) -> str:
    """A type as a reader would write it."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(kind(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) in (list, tuple, dict):
        return "JSON"
    return {SecretStr: "secret", Path: "path"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(value: Any) -> str:
    """A default as it would be written in the environment."""
    if value is None or value in ("", [], ()):
        return ""
    if isinstance(value, SecretStr):
        return "(hidden)" if value.get_secret_value() else ""
    if isinstance(value, (list, tuple)):
        return "`" + str(list(value)).replace("'", '"') + "`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def rows(model: type[BaseModel], prefix: str, instance: BaseModel) -> Iterator[tuple[str, str]]:
    """(variable, table row) of every field, nested groups included."""
    for name, field in model.model_fields.items():
        value = getattr(instance, name)
        if isinstance(value, BaseModel):
            yield from rows(type(value), f"{prefix}{name.upper()}__", value)
        else:
            variable = f"{prefix}{name.upper()}"
            yield (
                variable,
                f"| `{variable}` | {kind(field.annotation)}{bounds(field)} | {default(value)} | {words(field)} |",
            )


def bounds(field: FieldInfo) -> str:
    """The bounds of a field, in words."""
    said = [
        f"{sign} {getattr(mark, name)}"
        for mark in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(mark, name)
    ]
    return f", {', '.join(said)}" if said else ""


def words(field: FieldInfo) -> str:
    """What a field is for, on one line of a table."""
    return " ".join((field.description or "").split()).replace("|", "\\|")


def settings_page() -> str:
    """docs/settings.md"""
    of = {service: dict(rows(cls := settings_class(service), "HEADWATER_", cls())) for service in SERVICES}
    shared = [variable for variable in of["ingestion"] if all(variable in fields for fields in of.values())]
    shared += [
        variable
        for variable in of["ingestion"]
        if variable not in shared and sum(variable in fields for fields in of.values()) > 1
    ]
    head = ["| variable | type | default | what it is |", "| --- | --- | --- | --- |"]
    lines = [
        "# Settings",
        "",
        "<!-- Written by `make docs` from the code. -->",
        "",
        "Every setting is an environment variable, read once at start. A wrong value ends the process with a sentence",
        "that names the variable and its bounds. The command and the SDK read `HEADWATER_ADDRESS` and",
        "`HEADWATER_API_KEY`.",
        "",
        "## Shared",
        "",
        "Read by several services. The ports differ by service: docs/operations.md has the table.",
        "",
        *head,
        *(of["ingestion"][variable] for variable in shared),
    ]
    for service, fields in of.items():
        lines += ["", f"## {service}", "", *head, *(row for variable, row in fields.items() if variable not in shared)]
    return "\n".join(lines) + "\n"


def limits_page() -> str:
    """docs/limits.md"""
    lines = [
        "# Limits",
        "",
        "<!-- Written by `make docs` from the code. -->",
        "",
        "What is beyond a limit is refused with an error that names the field and the limit; nothing is cut silently.",
        "",
        "| limit | value | of what |",
        "| --- | --- | --- |",
        *(f"| `{name}` | {value:,} | {text} |" for name, (value, text) in LIMITS.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the pages, or with --check compare them."""
    stale = []
    for name, text in (("settings.md", settings_page()), ("limits.md", limits_page())):
        page = DOCS / name
        if "--check" not in sys.argv:
            page.write_text(text)
        elif not page.exists() or page.read_text() != text:
            stale.append(name)
    if stale:
        sys.exit(f"{', '.join(stale)} in docs/ is not what the code says: run `make docs` and commit it")


if __name__ == "__main__":
    main()
