"""Replay one simulation and print what happened in it: `python -m tests.simulation SEED`."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.habits import PLAIN
from tests.simulation.world import Failed, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--plain", action="store_true", help="with clients that only train, save, load and sample")
    args = parser.parse_args()
    world = World(args.seed, PLAIN if args.plain else None)
    try:
        world.run()
        verdict = None
    except Failed as failed:
        verdict = str(failed)
    for time, *words in world.trace:
        print(f"{time:10.4f}", *words)
    print(verdict or "everything held")
    return verdict is not None


if __name__ == "__main__":
    sys.exit(main())
