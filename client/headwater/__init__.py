"""Headwater: answers grounded in your documents.

    from headwater import Client, Document

    with Client() as client:
        token = client.put("handbook", [Document(id="leave", text="…")])
        for event in client.ask("handbook", "how much leave do I get?", after=token):
            ...

`Client` and `AsyncClient` have the same surface. What they raise is a `HeadwaterError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._async import AsyncClient, AsyncStream
    from ._errors import (
        AlreadyExists,
        DeadlineExceeded,
        FailedPrecondition,
        HeadwaterError,
        Internal,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        WriteFailed,
        WriteUnknown,
    )
    from ._sync import Client, Stream
    from ._types import (
        OWN_WRITES,
        Answer,
        CacheOutcome,
        Citation,
        Collection,
        CollectionDetails,
        CollectionSettings,
        Coverage,
        Degradation,
        Document,
        DocumentState,
        DocumentStatus,
        Done,
        Event,
        Evidence,
        Hit,
        Passage,
        Query,
        Refusal,
        Retrieved,
        Sampling,
        SearchResult,
        ServiceStatus,
        Status,
        Token,
        Usage,
        WriteResult,
        WriteToken,
    )

__all__ = [
    "OWN_WRITES",
    "AlreadyExists",
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "CacheOutcome",
    "Citation",
    "Client",
    "Collection",
    "CollectionDetails",
    "CollectionSettings",
    "Coverage",
    "DeadlineExceeded",
    "Degradation",
    "Document",
    "DocumentState",
    "DocumentStatus",
    "Done",
    "Event",
    "Evidence",
    "FailedPrecondition",
    "HeadwaterError",
    "Hit",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "Passage",
    "PermissionDenied",
    "Query",
    "Refusal",
    "ResourceExhausted",
    "Retrieved",
    "Sampling",
    "SearchResult",
    "ServiceStatus",
    "Status",
    "Stream",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "WriteFailed",
    "WriteResult",
    "WriteToken",
    "WriteUnknown",
]


def __getattr__(name: str) -> Any:
    # Lazily, so that the command's help and those who only want the generated protos do not pay for gRPC.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in ("_types", "_errors", "_sync", "_async"):
        found = vars(import_module(f".{module}", __name__)).get(name)
        if found is not None:
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # pragma: no cover


def __dir__() -> list[str]:
    return sorted(__all__)
