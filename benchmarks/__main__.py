"""Command line of the benchmarks: measure, print the table, keep CSV and plot."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks import control_plane, decode, fair_share, main_job, prefill, training
from benchmarks.engine import EngineInference
from benchmarks.measurement import Measurement
from benchmarks.peer_transformers import TransformersInference
from benchmarks.process import Side
from benchmarks.report import print_table, write_csv, write_plot
from benchmarks.roofline import Limits, Machine, MachineProbe
from eztinker.base_models.catalog import EMBEDDED_NAME, BaseModel, load_catalog
from eztinker.model.device import choose_device, choose_dtype


def main() -> None:
    arguments = _arguments()
    if arguments.fair_share:
        print_table(list(fair_share.measure(arguments.rounds)), "tiny model, float32, 1 CPU thread")
        return
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the peers' own bars would break ours
    console = Console(stderr=True)
    (model,) = load_catalog([arguments.base_model], console)
    dtype = arguments.dtype
    if dtype == "auto":
        dtype = str(choose_dtype("auto", choose_device("cpu"))).removeprefix("torch.")
    title = f"{model.name}, {dtype}, {arguments.threads} CPU threads"
    measurements = []
    with console.status(f"Measuring {title}") as status:
        for each in _measure(model, dtype, arguments):
            measurements.append(each)
            status.update(f"Measuring {title}: {each.work}, {each.setting} done")
    print_table(measurements, title)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_csv(measurements, arguments.output / "benchmarks.csv")
    write_plot(measurements, arguments.output / "benchmarks.png", title)
    console.print(f"Written: {arguments.output}/benchmarks.csv and benchmarks.png")


def _arguments() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory beside the peers.")
    parser.add_argument("--base-model", default=EMBEDDED_NAME, help="NAME or NAME=DIRECTORY (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=cores, help="for both sides (default: all cores)")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of each side (default: %(default)s)")
    parser.add_argument("--main-job", action="store_true", help="also time `eztinker demo`, about two minutes")
    parser.add_argument("--fair-share", action="store_true", help="only what owners keep of their rate beside floods")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the files")
    return parser.parse_args()


def _measure(model: BaseModel, dtype: str, arguments: argparse.Namespace) -> Iterator[Measurement]:
    """Rows of the report in their order."""
    shared = (model.directory, dtype, arguments.threads)
    machine = _probe(arguments.threads)
    limits = Limits.of(model.directory, dtype, machine)
    with Side(EngineInference, *shared) as ours, Side(TransformersInference, *shared) as peer:
        yield from decode.measure(ours, peer, limits, model.vocab_size, arguments.rounds)
        yield from prefill.measure(ours, peer, limits, model.vocab_size, 3 * arguments.rounds)
    yield from training.measure(*shared, limits, model.vocab_size, arguments.rounds)
    yield control_plane.measure(arguments.rounds)
    yield from fair_share.measure(arguments.rounds)
    if arguments.main_job:
        yield main_job.measure()
    yield from _machine_rows(machine)


def _probe(num_threads: int) -> Machine:
    with Side(MachineProbe, num_threads) as probe:
        return probe.call("measure").value


def _machine_rows(machine: Machine) -> Iterator[Measurement]:
    """Rates of the machine, from which the limits are computed, as rows of the report."""
    yield Measurement(work="machine", setting="memory read", unit="GB/s", ours=machine.read_bytes_per_second / 1e9)
    for dtype, flops in machine.flops.items():
        yield Measurement(work="machine", setting=f"{dtype} products", unit="GFLOP/s", ours=flops / 1e9)


if __name__ == "__main__":
    main()
