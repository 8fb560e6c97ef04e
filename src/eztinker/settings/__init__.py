"""Settings of the server and of local tools, their schemas, and the data directory."""
