"""Saved checkpoints: found, changed, copied, imported, exported and collected."""
