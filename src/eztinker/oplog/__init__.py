"""The operation log: what was accepted and what came of it, durable in SQLite before a client is told."""
