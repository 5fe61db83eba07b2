"""What goes wrong here: with a document, with a dependency, with a partition."""

from __future__ import annotations

from serving.errors import ErrorCode, HeadwaterError


class DocumentRejected(HeadwaterError):
    """The document's own fault: no retry makes it searchable. `reason` and `message` are for its writer."""

    code = ErrorCode.INVALID_ARGUMENT

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)


class LogDisagrees(HeadwaterError):
    """The index was made from other documents than the log now holds (rule 5): nothing may be appended to it."""

    code = ErrorCode.FAILED_PRECONDITION
