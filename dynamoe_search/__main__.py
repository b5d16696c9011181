"""`python -m dynamoe_search` is the same as `dynamoe-search`."""

import os


def main() -> None:
    """Runs the program; Ctrl-C while it is still being loaded and put together ends it without a trace."""
    try:
        from dynamoe_search.cli.app import main as run  # noqa: PLC0415 - it takes a moment

        run()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
