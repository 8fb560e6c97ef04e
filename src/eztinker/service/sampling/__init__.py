"""Samples, from the request to the stream of their tokens."""
