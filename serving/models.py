"""Where a model's files are: in an installed package, in a folder, or on a model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from serving.errors import FailedPrecondition

_PACKAGE = "package:"
_HUB = "hf:"


def resolve_model(reference: str) -> Path:
    """The file or folder that `reference` names, fetched first if it is on a hub.

    "package:name/path" is a path inside an installed package, "hf:org/name[@revision]" a repository on the Hugging Face
    hub, anything else a local path. May block on the network. Raises FailedPrecondition saying what to do when it is
    not there.
    """
    if reference.startswith(_PACKAGE):
        return _in_package(reference)
    if reference.startswith(_HUB):
        return _on_hub(reference)
    path = Path(reference).expanduser()
    if not path.exists():
        raise FailedPrecondition(f"model {reference!r}: no such file or folder", reason="MODEL_MISSING")
    return path


def _in_package(reference: str) -> Path:
    package, _, inside = reference.removeprefix(_PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise FailedPrecondition(
            f"model {reference!r}: the package {package!r} is not installed; `make setup` installs the default models",
            reason="MODEL_MISSING",
        )
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, inside)
        if path.exists():
            return path
    raise FailedPrecondition(f"model {reference!r}: the package has no {inside!r} inside", reason="MODEL_MISSING")


def _on_hub(reference: str) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise FailedPrecondition(
            f"model {reference!r}: fetching it needs the huggingface-hub package", reason="DEPENDENCY_MISSING"
        ) from error
    repository, _, revision = reference.removeprefix(_HUB).partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision or None))
    except LocalEntryNotFoundError as error:
        raise FailedPrecondition(
            f"model {reference!r}: it is not in the local cache and the hub could not be reached; "
            "fetch it where there is a network and name its folder instead",
            reason="MODEL_MISSING",
        ) from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise FailedPrecondition(
            f"model {reference!r}: the hub did not give it ({type(error).__name__}); check its name and your access",
            reason="MODEL_MISSING",
        ) from error
