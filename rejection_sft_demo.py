"""Train by rejection sampling, measure on held-out problems, write a report.

With `eztinker server` running in another terminal:

    python rejection_sft_demo.py --max-samples 50 --num-candidates 4 --epochs 3 --checkpoint --temperature 0.8

Run it again with the same flags, and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eztinker.errors import EZTinkerError
from eztinker.process_end import end_process
from eztinker.rl import RejectionSFTConfig, run_rejection_sft


def parse_args() -> argparse.Namespace:
    default = RejectionSFTConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base-model", help="a model the server serves (default: the embedded one, else the first)")
    add("--dataset", choices=("auto", "gsm8k", "arithmetic"), default=default.dataset,
        help="auto: arithmetic for the embedded model, GSM8K for any other")  # fmt: skip
    add("--max-samples", type=int, default=default.max_samples, help="problems per epoch (default: %(default)s)")
    add("--num-candidates", type=int, default=default.num_candidates, help="answers per problem (default: %(default)s)")
    add(
        "--epochs",
        "--rounds",
        dest="rounds",
        type=int,
        default=default.rounds,
        help="rounds of sampling and training (default: %(default)s)",
    )
    add("--temperature", type=float, default=default.temperature, help="of the samples (default: %(default)s)")
    add("--learning-rate", type=float, help="of AdamW (default: 1e-3 for arithmetic, 2e-4 for GSM8K)")
    add("--lora-rank", type=int, default=default.lora_rank, help="(default: %(default)s)")
    add("--eval-size", type=int, help="held-out problems (default: 300 for arithmetic, 200 for GSM8K)")
    add("--seed", type=int, default=default.seed, help="(default: %(default)s)")
    add("--checkpoint", action="store_true", help="save after every epoch, and go on from there when run again")
    add("--fresh", "--reset-buffer", dest="reset_buffer", action="store_true",
        help="forget what an earlier run left in the output directory")  # fmt: skip
    add("--no-filter", dest="filter", action="store_false", help="the control: train on random answers, right or wrong")
    add("--output-dir", type=Path, help="(default: a directory under runs/ named after the settings)")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        summary = run_rejection_sft(RejectionSFTConfig(**vars(args)))
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
