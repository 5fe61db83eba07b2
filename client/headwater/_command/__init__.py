"""The `headwater` command. What it needs is imported by the command that runs, so that `--help` is quick."""


def main() -> None:
    """Runs the command line."""
    from .app import app

    app()
