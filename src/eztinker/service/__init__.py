"""Everything a client may ask for, in domain words: sessions, runs, futures, sampling, checkpoints. No HTTP."""
