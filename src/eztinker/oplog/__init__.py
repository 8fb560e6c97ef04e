"""The operation log: accepted requests and their outcomes, durable in SQLite before a client is told."""
