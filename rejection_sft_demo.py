"""Train by rejection sampling, measure on held-out problems, write a report.

With `eztinker server` running in another terminal:

    python rejection_sft_demo.py --max-samples 50 --num-candidates 4 --epochs 3 --checkpoint --temperature 0.8

Run it again with the same flags, and it goes on where it stopped.
"""

from __future__ import annotations

import sys

from eztinker.errors import EZTinkerError
from eztinker.process_end import end_process
from eztinker.rl import RejectionSFTConfig, run_rejection_sft
from eztinker.settings.arguments import given_settings


def main() -> int:
    settings = given_settings(RejectionSFTConfig, __doc__)
    try:
        summary = run_rejection_sft(RejectionSFTConfig(**settings))
    except EZTinkerError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Stopped before the first round; nothing is trained yet.", file=sys.stderr)
        return 130
    print(f"\nTest-set accuracy: {100 * summary['accuracy_before']:.1f} % -> {100 * summary['accuracy_after']:.1f} %")
    for sentence in summary["findings"]:
        print(f"- {sentence}")
    print(f"\nReport:  {summary['report']}\nAdapter: {summary['adapter']}\nAsk it:  {summary['reuse_command']}")
    return 0


if __name__ == "__main__":
    end_process(main())
