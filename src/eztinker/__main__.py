"""`python -m eztinker` is the `eztinker` command."""

from eztinker.cli.app import main

main()
