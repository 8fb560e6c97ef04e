"""The `eztinker` command, also as `python -m eztinker`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback even while it is still being imported."""
    try:
        from eztinker.cli.app import run_process
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        sys.exit(130)
    run_process()


if __name__ == "__main__":
    main()
