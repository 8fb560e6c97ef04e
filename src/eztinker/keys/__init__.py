"""Keys in files of the data directory: the server's own and those issued to other people."""
