from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eztinker.base_models.base_model import read_base_model
from eztinker.errors import DataDamaged, DataNotFound, Unsupported
from eztinker.model_files.tensor_files import has_all_weights


@pytest.fixture
def folder(tiny_model_dir, tmp_path) -> Path:
    """A whole model that a test may spoil."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def split_into_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").touch()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    edit(folder / "model.safetensors.index.json", weight_map=shards)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_family_is_read(tiny_model: Callable[..., Path], family):
    model = read_base_model("tiny", tiny_model(family))
    assert (model.name, model.model_type) == ("tiny", family)
    assert (model.vocab_size, model.context_length, model.eos_token_ids) == (264, 2048, (256,))


@pytest.mark.parametrize(("generation", "config", "expected"), [([3, 4], 5, (3, 4)), (7, 5, (7,)), (None, 5, (5,))])
def test_end_tokens_of_the_generation_config_go_first(folder, generation, config, expected):
    edit(folder / "config.json", eos_token_id=config)
    (folder / "generation_config.json").write_text(
        "{}" if generation is None else json.dumps({"eos_token_id": generation})
    )
    assert read_base_model("tiny", folder).eos_token_ids == expected


def test_a_model_without_end_tokens_has_none(folder):
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=None)
    assert read_base_model("tiny", folder).eos_token_ids == ()


def test_weights_in_shards_are_whole_only_with_every_shard(folder):
    split_into_shards(folder)
    assert has_all_weights(folder, "tiny")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert not has_all_weights(folder, "tiny")
    with pytest.raises(DataNotFound, match=r"'tiny' lacks model-00002-of-00002\.safetensors; fetch"):
        read_base_model("tiny", folder)


def test_an_unknown_family_is_refused_with_the_known_ones(folder):
    edit(folder / "config.json", model_type="gpt2")
    with pytest.raises(Unsupported, match="family 'gpt2'; families served are llama, mistral, qwen2, qwen3"):
        read_base_model("tiny", folder)


@pytest.mark.parametrize("file_name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_code_is_refused(folder, file_name):
    edit(folder / file_name, auto_map={"AutoModel": "modeling.Evil"})
    with pytest.raises(Unsupported, match=f"code of its own \\(auto_map in {file_name}\\)"):
        read_base_model("tiny", folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Unsupported, match=r"only as pickle files \(pytorch_model\.bin\)"):
        read_base_model("tiny", folder)


def test_quantized_weights_are_refused(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(
        Unsupported, match="are quantized, which is not supported; serve the bfloat16 or float32 version"
    ):
        read_base_model("tiny", folder)


@pytest.mark.parametrize("file_name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, file_name):
    (folder / file_name).unlink()
    with pytest.raises(DataNotFound, match=f"has no {file_name}"):
        read_base_model("tiny", folder)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_damaged_config_is_named(folder, text):
    (folder / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(DataDamaged, match=r"config\.json of base model 'tiny'.*fetch it again"):
        read_base_model("tiny", folder)


def tokenizer_with(folder: Path, **changes) -> None:
    edit(folder / "tokenizer.json", **changes)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(folder):
    added = [{"id": 264, "content": "<|more|>", "special": True}]
    tokenizer_with(folder, added_tokens=added)
    with pytest.raises(DataDamaged, match=r"ids up to 264, but model\.embed_tokens\.weight has 264 rows"):
        read_base_model("tiny", folder)


@pytest.mark.parametrize("vocabulary", [{"a": 0, "b": 263}, [["a", -1.0]] * 264], ids=["by token", "by id"])
def test_a_tokenizer_may_have_as_many_ids_as_the_embedding_has_rows(folder, vocabulary):
    tokenizer_with(folder, model={"vocab": vocabulary}, added_tokens=[])
    assert read_base_model("tiny", folder).vocab_size == 264


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {}},
        {"model": {"vocab": {}}, "added_tokens": []},
        {"model": {"vocab": {"a": "0"}}},
        {"model": {"vocab": {"a": -1}}},
        {"model": {"vocab": 5}},
        {"added_tokens": [{"content": "x"}]},
        {"added_tokens": None},
    ],
    ids=str,
)
def test_a_tokenizer_without_tokens_is_refused(folder, changes):
    tokenizer_with(folder, **changes)
    with pytest.raises(DataDamaged, match=r"tokenizer\.json of base model 'tiny' lists no tokens with their ids"):
        read_base_model("tiny", folder)


def test_a_tokenizer_that_was_cut_off_is_refused(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataDamaged, match=r"tokenizer\.json of base model 'tiny' cannot be read"):
        read_base_model("tiny", folder)


def test_a_config_as_deep_as_a_well_is_refused(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(DataDamaged, match=r"config\.json of base model 'tiny' cannot be read"):
        read_base_model("tiny", folder)
