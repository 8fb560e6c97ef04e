"""The `eztinker` command: one file per subcommand, heavy imports inside the functions that need them."""
