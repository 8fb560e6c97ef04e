"""Requests that a client may make, in domain words: sessions, training runs, futures, samples, checkpoints. No HTTP."""
