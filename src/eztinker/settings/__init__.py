"""What operator and user decide, and where it is found: the server's settings, the client's, the data directory."""
