"""`python -m eztinker` is the `eztinker` command."""

from eztinker.cli.app import run_process

run_process()
