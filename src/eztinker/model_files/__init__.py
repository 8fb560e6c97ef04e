"""Readers for a model's folder: its config and its weights' headers, checked against each other."""
