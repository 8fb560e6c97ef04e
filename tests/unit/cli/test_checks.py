"""What the doctor finds, on machines that lack something."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from eztinker.cli import checks
from eztinker.cli.checks import (
    GIGABYTE,
    Finding,
    Verdict,
    check_data_dir,
    check_disk,
    check_embedded_model,
    check_engine,
    check_hub,
    check_key,
    check_memory,
    check_server,
)
from eztinker.keys.server_key import ensure_api_key
from tests.instruction_sets import USABLE


def test_little_memory_is_noted_with_a_smaller_batch():
    assert check_memory(16 * GIGABYTE).verdict is Verdict.GOOD
    finding = check_memory(2 * GIGABYTE)
    assert finding.verdict is Verdict.NOTE
    assert "--max-batch-size" in (finding.fix or "")


def test_disk_space_is_that_of_the_place_a_new_directory_will_be_made_in(tmp_path: Path):
    assert "free for" in check_disk(tmp_path / "not" / "there" / "yet").found


def test_a_directory_that_cannot_be_made_is_bad(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    assert check_data_dir(tmp_path / "new").verdict is Verdict.GOOD
    assert check_data_dir(tmp_path / "file" / "new").verdict is Verdict.BAD


def test_an_open_key_file_is_bad_and_the_finding_says_what_closes_it(tmp_path: Path):
    assert check_key(tmp_path).verdict is Verdict.GOOD
    ensure_api_key(tmp_path)
    assert check_key(tmp_path) == Finding("key", Verdict.GOOD, "readable by you alone")
    (tmp_path / "api_key").chmod(0o644)
    finding = check_key(tmp_path)
    assert finding.verdict is Verdict.BAD
    assert "chmod 600" in finding.found


def test_missing_kernels_are_noted_with_what_is_not_guaranteed_without_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    engine, kernels = check_engine()
    assert engine.found.startswith("torch ")
    assert kernels.verdict is Verdict.NOTE
    assert "last bits of its logprobs" in kernels.found
    assert "compiler" in (kernels.fix or "")


@pytest.mark.skipif(not USABLE, reason="this machine has no kernels of ours")
def test_kernels_are_named_with_what_they_guarantee():
    _, kernels = check_engine()
    assert kernels.verdict is Verdict.GOOD
    assert kernels.found.endswith("; samples have the same bits in any batch")
    assert USABLE[0][1].name in kernels.found


@pytest.mark.skipif(not USABLE, reason="this machine would not compile anyway")
def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CC", "cc -include no_such_header.h")
    _, kernels = check_engine()
    assert kernels.verdict is Verdict.NOTE
    assert "no_such_header.h: No such file or directory" in kernels.found


def test_kernels_in_slower_instructions_than_could_be_are_noted_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    found = {"torch": "2", "device": "cpu", "dtype": "float32", "kernels": "AVX2", "is_batch_invariant": True}
    answer = json.dumps({**found, "missed": ["AVX512: cc ended with 1: no such option"]})
    monkeypatch.setattr(checks.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, answer))
    _, kernels = check_engine()
    assert kernels.verdict is Verdict.NOTE
    assert kernels.found.splitlines() == [
        "AVX2; samples have the same bits in any batch",
        "AVX512: cc ended with 1: no such option",
    ]
    assert "CC=" in (kernels.fix or "")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has the device")
def test_a_device_that_is_set_and_not_there_is_bad(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_DEVICE", "mps")
    (device,) = check_engine()
    assert (device.subject, device.verdict) == ("device", Verdict.BAD)
    assert device.found.startswith("The device 'mps' is not available on this machine; available: ")
    assert "EZTINKER_DEVICE" in (device.fix or "")


def test_a_dtype_that_is_set_is_the_one_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_DTYPE", "float32")
    engine, _ = check_engine()
    assert engine.verdict is Verdict.GOOD
    assert engine.found.endswith("base weights in float32")


def test_settings_that_cannot_work_are_bad_with_their_own_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_DEVICE", "abacus")
    (settings,) = check_engine()
    assert (settings.subject, settings.verdict) == ("settings", Verdict.BAD)
    assert settings.found.startswith("EZTINKER_DEVICE: ")


def test_a_torch_that_does_not_start_is_bad(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "_PROBE_SECONDS", 0.01)
    (engine,) = check_engine()
    assert engine.verdict is Verdict.BAD
    assert "has not started in 0.01 s" in engine.found


def test_a_missing_embedded_model_names_the_command_that_fetches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(tmp_path))
    assert check_embedded_model().fix == "run: eztinker fetch"


def test_a_silent_server_names_the_command_that_starts_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://127.0.0.1:1")
    assert check_server().fix == "run: eztinker server"


def test_without_the_hub_models_on_this_machine_remain(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    finding = check_hub()
    assert finding.verdict is Verdict.NOTE
    assert "NAME=DIRECTORY" in (finding.fix or "")
