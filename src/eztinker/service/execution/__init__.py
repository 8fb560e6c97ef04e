"""Takes an accepted operation to an engine and its outcome to the log, through any number of engines."""
