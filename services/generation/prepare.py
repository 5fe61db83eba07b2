"""`python -m services.generation.prepare`: makes the model ready, ahead of the service's first start."""

import sys
from collections.abc import Callable

from serving.errors import HeadwaterError
from serving.models import resolve_model

from .gguf_files import inspect, rewrite_once
from .settings import Settings


def main() -> int:
    """Prepares the model and says so; the exit code is 0 when the service can load it."""
    generation = Settings().generation
    if generation.engine != "openvino":
        print(f"engine {generation.engine}: nothing to prepare")
        return 0
    settings = generation.openvino
    try:
        source = resolve_model(settings.model)
        if source.is_dir() or inspect(source).loads_exactly:
            print(f"{source.name}: loads as it is")
            return 0
        result = rewrite_once(source, settings.models_folder, _print_progress(source.name))
    except (HeadwaterError, OSError) as error:
        print(f"cannot prepare {settings.model}: {error}", file=sys.stderr)
        return 1
    print(f"{source.name}: ready as {result}")
    return 0


def _print_progress(name: str) -> Callable[[float], None]:
    def show(share: float) -> None:
        if sys.stdout.isatty():
            print(f"{name}: rewriting {share:4.0%}", end="\r", flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
