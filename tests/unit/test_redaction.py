"""What looks like a secret is hidden in every message of ours; what only begins like one is not."""

from __future__ import annotations

import pytest

from eztinker.errors import MAX_MESSAGE_CHARS, InvalidInput
from eztinker.redaction import HIDDEN, without_secrets

KEY = "tml-" + "k3Y_-" * 8
TOKEN = "eyJhbGciOiJIUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ0bWw6dXNlcjphbm4ifQ.c2lnbmF0dXJl"
SECRETS = [
    *(KEY, "tml-7-" + "a" * 43, KEY.upper().replace("TML", "tml")),
    *(TOKEN, TOKEN[:40], TOKEN.rpartition(".")[0]),
    *("AGE-SECRET-KEY-1" + "Q" * 58, "AGE-SECRET-KEY-PQ-1" + "Q" * 58, "age-secret-key-1qqqq", "AGE-PLUGIN-YUBIKEY-1Q"),
    *("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END", "-----BEGIN PRIVATE KEY-----\nMIIE"),
    *("hf_" + "a" * 34, "ghp_" + "b" * 36, "sk-proj-" + "c3C" * 14),
]
PLAIN = [
    *("must start with 'tml-'", "html-report-of-rounds", "hf-internal-testing/tiny-random-LlamaForCausalLM"),
    *("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "sk-learn"),
    *("tml-warmup", "tinker://tml-run/weights/final-step-of-all-epochs", "hf_cache_models_qwen3_0_6b_instruct_2507"),
    *("HF_HUB_ENABLE_HF_TRANSFER", "HF_" + "A" * 34, "sk-learn-pipelines-of-the-second-round"),
    *("tinker://7d6332f9-22f5-45bb:train:0/weights/step-40", "eyJ", "risk-adjusted-return-of-a-portfolio"),
]


@pytest.mark.parametrize(
    "around", ["{}", "got '{}'", "tinker://a:train:0/weights/{}", "x={}&y", '{{"a":"{}"}}', "a_{}", "/{}/b"]
)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_hidden_wherever_it_stands(secret: str, around: str):
    text = without_secrets(around.format(secret))
    assert HIDDEN in text
    assert secret not in text
    assert secret[-12:] not in text


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str):
    assert without_secrets(text) == text


def test_no_message_of_ours_shows_one_or_is_long():
    assert InvalidInput(f"The key {KEY!r} is wrong").message == f"The key '{HIDDEN}' is wrong"
    assert len(InvalidInput("x" * 10**6).message) == MAX_MESSAGE_CHARS


def test_hiding_takes_time_by_the_length_of_the_text_alone():
    """Each text would take hours if every beginning were tried against all that follows."""
    for text in ("-----BEGIN " * 20_000, "A" * 200_000, "tml-" * 50_000, "eyJ." * 50_000, "sk-" * 70_000):
        without_secrets(text)
