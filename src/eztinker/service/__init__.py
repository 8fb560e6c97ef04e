"""Everything a client may ask for, in domain words: sessions, training runs, futures, sampling, checkpoints. No HTTP."""
