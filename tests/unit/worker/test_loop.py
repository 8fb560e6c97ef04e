"""What an engine says when it starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eztinker.protocol.frames import HEADER, Configure, Event, Ready, Refused, Shutdown, decode_event, encode_frame
from tests.instruction_sets import USABLE

INVARIANT = "What is sampled has the same bits whatever is sampled beside it"
VARIANT = "What is sampled beside a sequence may change last bits of its logprobs, and now and then a token"


def start(device: str = "cpu", **environment: str) -> tuple[Event, str]:
    """The first event of an engine process that is told to stop at once, and its log."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        engine = subprocess.Popen(
            [sys.executable, "-m", "eztinker.worker", "--fd", str(theirs.fileno())],
            env=os.environ | environment,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        ours.sendall(encode_frame(Configure(base_models={}, device=device, dtype="float32")) + encode_frame(Shutdown()))
        ours.settimeout(120)
        stream = ours.makefile("rb")
        (length,) = HEADER.unpack(stream.read(HEADER.size))
        event = decode_event(stream.read(length))
        _, log = engine.communicate(timeout=120)
    assert engine.returncode == 0
    return event, log


@pytest.mark.skipif(not USABLE, reason="this machine has no kernels of ours")
def test_a_start_names_the_instructions_of_the_kernels_and_what_they_guarantee():
    ready, log = start()
    assert isinstance(ready, Ready)
    assert ready.kernels == USABLE[0][1].name
    assert ready.is_batch_invariant
    assert f"Own kernels: {ready.kernels}. {INVARIANT}\n" in log
    assert log.count("\n") == 1


@pytest.mark.skipif(not USABLE, reason="this machine would have none anyway")
def test_a_start_without_kernels_says_why_and_what_is_not_guaranteed():
    ready, log = start(CC="no-such-compiler")
    assert isinstance(ready, Ready)
    assert ready.kernels == "none: no C compiler (no-such-compiler)"
    assert not ready.is_batch_invariant
    assert f"Own kernels: {ready.kernels}. {VARIANT}\n" in log
    assert log.count("\n") == 1


@pytest.mark.skipif(not USABLE, reason="this machine would not compile anyway")
def test_a_compiler_that_fails_is_quoted_in_the_log(tmp_path: Path):
    ready, log = start(CC="cc -include no_such_header.h", EZTINKER_CACHE_DIR=str(tmp_path))
    assert isinstance(ready, Ready)
    assert ready.kernels.startswith("none: ")
    assert "no_such_header.h: No such file or directory" in ready.kernels
    assert f"Own kernels: {ready.kernels}. {VARIANT}\n" in log


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused_without_a_traceback():
    refused, log = start(device="mps")
    assert isinstance(refused, Refused)
    assert refused.message.startswith("The device 'mps' is not available on this machine; available: ")
    assert log == ""
