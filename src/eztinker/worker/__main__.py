"""`python -m eztinker.worker --fd N`: the engine process, on the inherited socket N. Started by the server only."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import socket

NICENESS = 5
"""The engine yields to the API process, which must answer at once even on two cores."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eztinker.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the connected socket")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine %(levelname)s %(message)s")
    # Ctrl-C in a terminal reaches both processes; the server then tells the engine when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    _die_with_parent()
    connection = socket.socket(fileno=arguments.fd)

    from eztinker.worker.link import Link
    from eztinker.worker.loop import serve

    serve(Link(connection))


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the server dies, so that it never writes beside its successor.

    Only Linux can; elsewhere the engine notices that its socket is closed once the operation in hand is done.
    """
    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(set_parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    main()
