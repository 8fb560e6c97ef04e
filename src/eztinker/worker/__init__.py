"""The engine process: takes commands from the API process over a socket, runs them, reports what came of each."""
