"""`sample`, `chat` and the stream behind it, against a real server with a tiny model."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.servers import API_KEY, RunningServer, Serve, wait_until
from tests.tiny_models import make_tiny_model
from tests.wire import new_run, new_sampler, outcome, post, sample_body, save

MODEL, BARE, SLOW = "tiny/llama", "tiny/bare", "tiny/slow"
NEVER_DRAWN = 263
"""A token that the tokenizer does not have. As the end of text it lets every answer come to its full length."""


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> RunningServer:
    bare = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(tiny_model_dir, bare)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    slow = make_tiny_model(tmp_path_factory.mktemp("slow"), "llama", layers=30, eos_token_id=NEVER_DRAWN)
    return serve({MODEL: tiny_model_dir, BARE: bare, SLOW: slow})


def command(server: RunningServer, *arguments: str) -> tuple[list[str], dict[str, str]]:
    return (
        [sys.executable, "-m", "eztinker", *arguments],
        {**os.environ, "EZTINKER_BASE_URL": server.url, "EZTINKER_API_KEY": API_KEY, "PYTHONUNBUFFERED": "1"},
    )


def eztinker(server: RunningServer, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    argv, env = command(server, *arguments)
    return subprocess.run(argv, env=env, input=typed, capture_output=True, text=True, timeout=180, check=False)


def seeded(sampler_id: str, number: int, num_tokens: int, seed: int) -> dict[str, Any]:
    params = {"max_tokens": num_tokens, "temperature": 1.0, "seed": seed}
    return sample_body(sampler_id, number) | {"sampling_params": params}


def test_a_stream_brings_the_tokens_of_the_same_sample_in_pieces(http: httpx.Client):
    sampler_id = new_sampler(http, base_model=MODEL)
    for number, seed in enumerate((3, 7, 11)):
        body = seeded(sampler_id, 10 + number, 400, seed)
        whole = outcome(http, post(http, "/asample", **body)["request_id"]).json()["sequences"][0]
        with http.stream("POST", "/stream_sample", json=body | {"seq_id": 20 + number}) as response:
            assert response.headers["content-type"] == "application/x-ndjson"
            pieces = [json.loads(line) for line in response.iter_lines()]
        assert [token for piece in pieces for token in piece["tokens"]] == whole["tokens"]
        assert [piece.get("stop_reason") for piece in pieces] == [None] * (len(pieces) - 1) + [whole["stop_reason"]]
        if len(whole["tokens"]) > 200:
            assert len(pieces) > 2, "they come while the sample is drawn"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"num_samples": 2}, "A stream carries 1 sample"), ({"sampling_params": {"max_tokens": 10**6}}, "context")],
)
def test_a_stream_that_cannot_be_is_refused_with_a_sentence(http: httpx.Client, fields: dict[str, Any], sentence: str):
    refused = http.post("/stream_sample", json=sample_body(new_sampler(http, base_model=MODEL)) | fields)
    assert refused.status_code in (400, 422)
    assert sentence in refused.text


def test_sample_takes_a_model_a_run_and_every_path(server: RunningServer, http: httpx.Client):
    model_id = new_run(http, base_model=MODEL, user_metadata={"eztinker_name": "mine"})
    training = save(http, "/save_weights", model_id, 1, path="state")["path"]
    sampler = save(http, "/save_weights_for_sampler", model_id, 2, path="final")["path"]
    ask = ("Hello", "--temperature", "0", "--max-tokens", "5")
    answers = {}
    for target in (MODEL, "mine", model_id, training, sampler, "tinker://mine/weights/state"):
        done = eztinker(server, "sample", target, *ask)
        assert done.returncode == 0, done.stderr
        answers[target] = done.stdout
    assert len(set(answers.values())) == 1, "an untrained adapter answers as its base model does"
    runs = http.get("/runs").json()["runs"]
    assert [run["name"] for run in runs].count("mine") == 1
    assert len([run for run in runs if set(run["model_ids"]) & {model_id}]) == 1
    assert {run["num_steps"] for run in runs} == {0}

    unknown = eztinker(server, "sample", "nothing", *ask)
    assert (unknown.returncode, "eztinker models, eztinker runs" in unknown.stderr) == (1, True)


def test_a_sample_that_is_refused_ends_with_one_line(server: RunningServer):
    refused = eztinker(server, "sample", MODEL, "Hello", "--max-tokens", "0")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith("Error: ")
    assert "max_tokens" in refused.stderr


def test_a_name_that_is_a_model_too_is_refused_with_both(server: RunningServer, http: httpx.Client):
    model_id = new_run(http, base_model=MODEL)
    run_id = http.get(f"/runs/{model_id}").json()["run_id"]
    catalog = server.app.state.service.catalog
    catalog._models["twice"] = msgspec.structs.replace(catalog.get(MODEL), name="twice")
    assert http.patch(f"/runs/{run_id}", json={"name": "twice"}).status_code == 200
    try:
        refused = eztinker(server, "sample", "twice", "Hello")
    finally:
        del catalog._models["twice"]
    assert refused.returncode == 1
    assert "'twice' is both a base model of this server and the name of the run " + run_id in refused.stderr


def test_chat_answers_each_line_of_a_pipe_and_forgets_on_reset(server: RunningServer):
    flags = ("--temperature", "0", "--max-tokens", "12")
    first = eztinker(server, "chat", MODEL, *flags, typed="Hello\nAgain\n/reset\nHello\n")
    assert (first.returncode, first.stderr) == (0, "")
    alone = eztinker(server, "chat", MODEL, *flags, typed="Hello\n").stdout
    assert first.stdout.startswith(alone)
    assert first.stdout.endswith(alone)


def test_chat_needs_a_template_and_says_what_to_do_without_one(server: RunningServer):
    refused = eztinker(server, "chat", BARE, typed="Hello\n")
    assert refused.returncode == 1
    assert f"{BARE} has no chat template" in refused.stderr
    assert "eztinker sample" in refused.stderr


def test_chat_in_a_terminal_stops_an_answer_on_ctrl_c_and_leaves_on_ctrl_d(server: RunningServer, http: httpx.Client):
    argv, env = command(server, "chat", SLOW, "--max-tokens", "1500")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        read_until(ours, rb"> $")
        os.write(ours, b"Hello\n")
        wait_until(lambda: http.get("/status").json()["activity"]["samples"] == 1)
        process.send_signal(signal.SIGINT)
        read_until(ours, rb"\(stopped\)\s.*> $")  # with the prompt: a Ctrl-D before it is lost to the line editor
        os.write(ours, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(descriptor: int, end: bytes) -> None:
    """Read until what came ends as the pattern says."""
    seen = b""
    while re.search(end, seen, re.DOTALL) is None:
        assert select.select([descriptor], [], [], 60)[0], f"{end!r} did not come; what came is {seen!r}"
        seen += os.read(descriptor, 4096)


def test_status_tells_what_the_engine_has_done(server: RunningServer, http: httpx.Client):
    sampler_id = new_sampler(http, base_model=MODEL)
    outcome(http, post(http, "/asample", **seeded(sampler_id, 1, 30, 1))["request_id"])
    facts = http.get("/status").json()
    assert (facts["engine"]["state"], facts["engine"]["device"], facts["queue"]) == ("ready", "cpu", 0)
    assert facts["tokens_per_second"]["sampling"] > 0
    assert facts["engine"]["memory_bytes"] > 10**7
    shown = eztinker(server, "status").stdout
    assert "ready: cpu, float32, 1 thread" in shown
    assert "0 waiting" in shown
