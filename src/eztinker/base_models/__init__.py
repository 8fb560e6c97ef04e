"""Base models that a server serves, and where their files are. Nothing here loads weights into a network."""
