"""Checks of `eztinker doctor`, each a function that returns a finding and, if need be, a fix."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from eztinker.cli.output import size
from eztinker.errors import ConfigError
from eztinker.extras import RECIPES, RECIPES_COMMAND, missing_recipes
from eztinker.keys.server_key import read_api_key
from eztinker.settings.client_settings import client_settings, server_is_up
from eztinker.settings.data_dir import local_data_dir
from eztinker.tested_versions import install_command, newest_tested, untested_packages

GIGABYTE = 10**9
_ENOUGH_MEMORY = 4 * GIGABYTE
"""Memory to serve and train the embedded model."""
_ENOUGH_DISK = 2 * GIGABYTE
"""Disk space for the embedded model, its adapters and the operation log of a few runs."""

_PROBE_SECONDS = 600
"""Time limit of the probe, in which two libraries of kernels may be compiled, each within `COMPILE_SECONDS`."""
_ENGINE_PROBE = """
import json, sys, torch
from eztinker.errors import ConfigError
from eztinker.model.device import choose_device, choose_dtype, is_batch_invariant, kernels_missed, kernels_text
try:
    device = choose_device(sys.argv[1])
except ConfigError as error:
    print(json.dumps({"refusal": error.message}))
    sys.exit()
dtype = choose_dtype(sys.argv[2], device)
print(json.dumps({
    "torch": torch.__version__,
    "device": device.type,
    "dtype": str(dtype).removeprefix("torch."),
    "kernels": kernels_text(dtype, device),
    "missed": kernels_missed(dtype, device),
    "is_batch_invariant": is_batch_invariant(dtype, device),
}))
"""


class Verdict(StrEnum):
    GOOD = "good"
    NOTE = "note"
    """The subject works, but more slowly or with less than it could."""
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    verdict: Verdict
    found: str
    fix: str | None = None


def all_checks() -> Iterator[Finding]:
    yield check_python()
    yield check_packages()
    yield check_recipes()
    yield from check_engine()
    yield check_memory(_total_memory())
    yield check_disk(local_data_dir())
    yield check_data_dir(local_data_dir())
    yield check_key(local_data_dir())
    yield check_embedded_model()
    yield check_server()
    yield check_hub()


def check_python() -> Finding:
    return Finding("python", Verdict.GOOD, f"{platform.python_version()} on {platform.platform(terse=True)}")


def check_packages() -> Finding:
    untested = untested_packages()
    if untested:
        found = "\n".join(str(package) for package in untested)
        return Finding("packages", Verdict.NOTE, found, f"if something fails: {install_command(untested)}")
    return Finding("packages", Verdict.GOOD, f"all {len(newest_tested())} within the tested versions")


def check_recipes() -> Finding:
    """Look for what a server does without, but the demo, its plots and the first use of the embedded model need."""
    if missing := missing_recipes(*RECIPES):
        return Finding("recipes", Verdict.NOTE, f"without {', '.join(missing)}", f"run: {RECIPES_COMMAND}")
    return Finding("recipes", Verdict.GOOD, f"{', '.join(RECIPES)} are installed")


def check_engine() -> Iterator[Finding]:
    """Probe torch, with the settings in force, in a process of its own: a broken one cannot crash the doctor."""
    from eztinker.settings.server_config import load_config  # pydantic takes its time to import

    try:
        config = load_config()
    except ConfigError as error:
        yield Finding("settings", Verdict.BAD, error.message)
        return
    command = [sys.executable, "-P", "-c", _ENGINE_PROBE, config.device, config.dtype]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        yield Finding(
            "torch", Verdict.BAD, f"torch has not started in {_PROBE_SECONDS} s", "try again on an idle machine"
        )
        return
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("torch", Verdict.BAD, reason, "install EZTinker again: pip install --force-reinstall torch")
        return
    found = json.loads(probe.stdout.splitlines()[-1])
    if refusal := found.get("refusal"):
        yield Finding("device", Verdict.BAD, refusal, "set EZTINKER_DEVICE, or device in eztinker.toml, to auto")
        return
    text = f"torch {found['torch']} on {found['device']}, base weights in {found['dtype']}"
    if found["dtype"] == "float32" and config.dtype == "auto":
        yield Finding("torch", Verdict.NOTE, text, "this processor is slow in bfloat16; models need twice the memory")
    else:
        yield Finding("torch", Verdict.GOOD, text)
    yield _judge_kernels(found)


def _judge_kernels(found: dict[str, Any]) -> Finding:
    """Judge the kernels, on which depend a CPU's speed and whether batch neighbours change a sample's last bits."""
    if found["is_batch_invariant"]:
        text = f"{found['kernels']}; samples have the same bits in any batch"
        if found["missed"]:
            advice = "name another compiler: CC=gcc eztinker server"
            return Finding("kernels", Verdict.NOTE, "\n".join([text, *found["missed"]]), advice)
        return Finding("kernels", Verdict.GOOD, text)
    text = f"{found['kernels']}; what is sampled beside a sequence may change last bits of its logprobs"
    if found["device"] != "cpu":
        return Finding("kernels", Verdict.GOOD, text)
    advice = "a C compiler (gcc or clang) and a processor with AVX2 or AVX512 also make sampling twice as fast"
    return Finding("kernels", Verdict.NOTE, text, advice)


def check_memory(total_bytes: int) -> Finding:
    found = f"{size(total_bytes)} in all"
    if total_bytes < _ENOUGH_MEMORY:
        return Finding("memory", Verdict.NOTE, found, "start with smaller batches: eztinker server --max-batch-size 16")
    return Finding("memory", Verdict.GOOD, found)


def check_disk(data_dir: Path) -> Finding:
    free_bytes = shutil.disk_usage(_nearest_existing(data_dir)).free
    found = f"{size(free_bytes)} free for {data_dir}"
    if free_bytes < _ENOUGH_DISK:
        return Finding("disk", Verdict.NOTE, found, f"free {size(_ENOUGH_DISK)}, or pass another --data-dir")
    return Finding("disk", Verdict.GOOD, found)


def check_data_dir(data_dir: Path) -> Finding:
    place = _nearest_existing(data_dir)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Finding("data directory", Verdict.GOOD, str(data_dir))
    return Finding("data directory", Verdict.BAD, f"{place} cannot be written", "pass another --data-dir")


def check_key(data_dir: Path) -> Finding:
    try:
        key = read_api_key(data_dir)
    except ConfigError as error:
        return Finding("key", Verdict.BAD, error.message)
    if key is None:
        return Finding("key", Verdict.GOOD, "none yet; the first start makes one")
    return Finding("key", Verdict.GOOD, "readable by you alone")


def check_embedded_model() -> Finding:
    from eztinker.base_models.embedded import EMBEDDED_NAME, cache_directory

    folders = cache_directory().glob(f"{EMBEDDED_NAME.rpartition('/')[2]}-v*/config.json")
    found = next(folders, None)
    if found is None:
        return Finding("embedded model", Verdict.NOTE, f"{EMBEDDED_NAME} is not here yet", "run: eztinker fetch")
    return Finding("embedded model", Verdict.GOOD, str(found.parent))


def check_server() -> Finding:
    try:
        base_url = client_settings().base_url
    except ConfigError as error:
        return Finding("server", Verdict.BAD, error.message)
    if server_is_up(base_url):
        return Finding("server", Verdict.GOOD, f"{base_url} answers")
    return Finding("server", Verdict.NOTE, f"{base_url} does not answer", "run: eztinker server")


def check_hub() -> Finding:
    import httpx
    from huggingface_hub.constants import ENDPOINT

    try:
        httpx.head(ENDPOINT, timeout=5, follow_redirects=True)
    except httpx.HTTPError:
        advice = "only models on this machine can be served; name a directory with --base-model NAME=DIRECTORY"
        return Finding("model hub", Verdict.NOTE, f"{ENDPOINT} does not answer", advice)
    return Finding("model hub", Verdict.GOOD, f"{ENDPOINT} answers")


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _nearest_existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
