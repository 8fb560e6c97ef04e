"""Which base models a server serves and where their files lie. Nothing here loads weights into a network."""
