"""Who asks: tenants of different sizes, each with a key and a collection of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Tenant:
    """A caller. `weight`: its share of the arrivals and of the documents, against the others' weights."""

    name: str
    collection: str
    weight: float = 1.0
    key: str = ""


NOBODY = Tenant("default", "load")
"""The one tenant of a gateway that asks for no keys."""


def read_tenants(path: Path) -> tuple[Tenant, ...]:
    """The tenants of a file: {"tenants": [{"name", "key", "weight", "collection"}]}. Raises ValueError.

    The collection is "load" when the file names none: names are each tenant's own.
    """
    try:
        listed = json.loads(path.read_text())["tenants"]
        tenants = tuple(_tenant(one) for one in listed)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        form = '{"tenants": [{"name": "big", "key": "…", "weight": 8}]}'
        raise ValueError(f"{path}: not a file of tenants such as {form}: {what}") from None
    if not tenants:
        raise ValueError(f"{path}: names no tenant")
    if len({tenant.key for tenant in tenants}) < len(tenants):
        raise ValueError(f"{path}: two tenants have the same key")
    return tenants


def _tenant(one: dict[str, Any]) -> Tenant:
    tenant = Tenant(str(one["name"]), str(one.get("collection", "load")), float(one.get("weight", 1)), str(one["key"]))
    if not tenant.weight > 0:
        raise ValueError(f"the weight of {tenant.name} must be above 0")
    if not tenant.key:
        raise ValueError(f"the key of {tenant.name} is empty")
    return tenant


def keys_file(tenants: Sequence[Tenant]) -> str:
    """What a gateway with auth `keys` reads, for a stack that is started for these tenants."""
    keys = [{"sha256": hashlib.sha256(one.key.encode()).hexdigest(), "tenant": one.name} for one in tenants]
    return json.dumps({"keys": keys})


def documents_of(tenants: Sequence[Tenant], documents: int) -> dict[str, int]:
    """By tenant's name: how many of so many documents are put for it; at least one."""
    total = sum(tenant.weight for tenant in tenants)
    return {tenant.name: max(1, round(documents * tenant.weight / total)) for tenant in tenants}
