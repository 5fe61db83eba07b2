"""What can go wrong in embedding, beyond what every service has."""

from __future__ import annotations

from serving.errors import ErrorCode, HeadwaterError


class ModelUnusable(HeadwaterError):
    """The model's files are missing, or are of a kind that the chosen engine cannot run."""

    code = ErrorCode.FAILED_PRECONDITION

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="MODEL_UNUSABLE")


class DependencyMissing(HeadwaterError):
    """The chosen engine is not installed; the message names the extra."""

    code = ErrorCode.FAILED_PRECONDITION

    def __init__(self, engine: str, extra: str) -> None:
        super().__init__(
            f"the {engine} engine is not installed; pip install 'headwater-services[{extra}]'",
            reason="DEPENDENCY_MISSING",
        )


class FingerprintMismatch(HeadwaterError):
    """The caller's vectors come from another model than the one that is served."""

    code = ErrorCode.FAILED_PRECONDITION

    def __init__(self, expected: str, served: str) -> None:
        super().__init__(
            f"expected_fingerprint is {expected!r} but {served!r} is served: vectors of the two cannot be compared",
            reason="FINGERPRINT_MISMATCH",
            field="expected_fingerprint",
        )


class NotFinite(HeadwaterError):
    """The model gave a vector that is no point: never returned, since nothing could be found by it."""

    code = ErrorCode.INTERNAL

    def __init__(self) -> None:
        super().__init__("the model gave a vector that is zero or not finite", reason="VECTOR_NOT_FINITE")


class InferenceFailed(HeadwaterError):
    """The engine failed; the log has the reason."""

    code = ErrorCode.INTERNAL

    def __init__(self) -> None:
        super().__init__("the embedding model failed; the embedding service's log says why", reason="INFERENCE_FAILED")
