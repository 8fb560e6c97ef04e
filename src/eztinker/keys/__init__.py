"""Keys as files of the data directory: the server's own, those issued to other people, and what a key looks like."""
