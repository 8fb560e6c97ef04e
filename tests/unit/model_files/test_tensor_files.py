"""Weights that are damaged, incomplete, doubled or of a type that is not read are told in a sentence at start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eztinker.base_models.base_model import read_base_model
from eztinker.errors import UserError
from eztinker.model_files.tensor_files import stored_tensors
from tests.oracles import load_decoder, packed_logits

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NORM, Q, HEAD = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"

Weights = dict[str, Tensor]


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A whole model that a test may spoil."""
    return Path(shutil.copytree(tiny_model("llama", hidden=32), tmp_path / "model"))


def save(weights: Weights, path: Path) -> None:
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path, {"format": "pt"})


def split(folder: Path) -> dict[str, str]:
    """Lay the weights out in two shards with an index; gives the file of every tensor."""
    weights = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    weight_map = {name: SHARDS[number % 2] for number, name in enumerate(sorted(weights))}
    for shard in SHARDS:
        save({name: weight for name, weight in weights.items() if weight_map[name] == shard}, folder / shard)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refused(folder: Path) -> str:
    """The sentence that refuses it."""
    with pytest.raises(UserError) as caught:
        read_base_model("spoilt", folder)
    assert "'spoilt'" in caught.value.message
    assert len(caught.value.message) < 1000
    return caught.value.message


def test_shards_are_read_as_one_model(folder: Path):
    tokens = [1, 2, 3, 4]
    (whole,) = packed_logits(load_decoder(folder), [tokens])
    split(folder)
    read_base_model("spoilt", folder)
    (sharded,) = packed_logits(load_decoder(folder), [tokens])
    torch.testing.assert_close(sharded, whole, rtol=0, atol=0)


def test_one_file_goes_before_an_index_beside_it(folder: Path):
    """As in transformers; the index of an older download is passed over."""
    write_index(folder, {"gone": SHARDS[0]})
    assert {tensor.file.name for tensor in stored_tensors(folder, "x").values()} == {SINGLE}
    read_base_model("spoilt", folder)


CHANGED_WEIGHTS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "a tensor less": (lambda w: w.pop(Q), rf"lack {Q} of shape (64, 32), which its config.json implies"),
    "no embedding": (lambda w: w.pop("model.embed_tokens.weight"), "lack model.embed_tokens.weight of shape (264, 32)"),
    "no head": (lambda w: w.pop(HEAD), "lack lm_head.weight of shape (264, 32), which its config.json implies (tie"),
    "a tensor more": (
        lambda w: w.update({"score.weight": torch.ones(1, 32)}),
        "hold score.weight, which a llama model",
    ),
    "a layer more": (
        lambda w: w.update({"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}),
        "hold model.layers.2.mlp.up_proj.weight, which a llama model of 2 layers",
    ),
    "a bias more": (
        lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}),
        "hold model.layers.0.self_attn.q_proj.bias, which",
    ),
    "names without their prefix": (
        lambda w: w.update({name.removeprefix("model."): w.pop(name) for name in list(w)}),
        "lack model.embed_tokens.weight",
    ),
    "a projection turned over": (lambda w: w.update({Q: w[Q].T}), "q_proj.weight of base model 'spoilt' has the shape"),
    "a norm of two dimensions": (lambda w: w.update({NORM: w[NORM][None]}), "the shape (1, 32), but its config.json"),
    "a norm that is empty": (lambda w: w.update({NORM: torch.ones(0)}), "has the shape (0,), but its config.json"),
    "a head of fewer rows": (lambda w: w.update({HEAD: w[HEAD][:-1]}), "has the shape (263, 32), but its config.json"),
    "int8": (lambda w: w.update({Q: w[Q].to(torch.int8)}), f"{Q} of base model 'spoilt' is of type I8; served are"),
    "fp8": (
        lambda w: w.update({Q: w[Q].to(torch.float8_e4m3fn)}),
        "is of type F8_E4M3; served are F64, F32, F16, BF16",
    ),
    "packed integers of GPTQ": (
        lambda w: w.update({Q.replace("weight", "qweight"): w.pop(Q).to(torch.int32)}),
        f"lack {Q}",
    ),
    "a name of a kilobyte": (lambda w: w.update({"x" * 1000: torch.ones(1)}), "hold xxx"),
}


@pytest.mark.parametrize("case", CHANGED_WEIGHTS)
def test_weights_that_are_not_those_of_the_config_are_refused_by_name(folder: Path, case: str):
    change, sentence = CHANGED_WEIGHTS[case]
    weights = load_file(folder / SINGLE)
    change(weights)
    save(weights, folder / SINGLE)
    assert sentence in refused(folder)


def test_frequencies_that_old_programs_saved_do_no_harm(folder: Path):
    weights = load_file(folder / SINGLE)
    save(weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}, folder / SINGLE)
    read_base_model("spoilt", folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_floating_point_numbers_of_every_width_are_read(folder: Path, dtype: torch.dtype):
    weights = load_file(folder / SINGLE)
    save({name: weight.to(dtype) for name, weight in weights.items()}, folder / SINGLE)
    read_base_model("spoilt", folder)
    assert packed_logits(load_decoder(folder), [[1, 2, 3]])[0].isfinite().all()


def test_a_tensor_in_two_shards_is_refused(folder: Path):
    weight_map = split(folder)
    extra = load_file(folder / SHARDS[1])
    twice = next(name for name, shard in weight_map.items() if shard == SHARDS[0])
    save(extra | {twice: torch.ones(3)}, folder / SHARDS[1])
    assert f"has {twice} twice, in {SHARDS[0]} and in {SHARDS[1]}" in refused(folder)


def test_an_index_that_leaves_a_shard_out_is_refused_with_a_tensor_that_is_missing(folder: Path):
    weight_map = split(folder)
    write_index(folder, {name: shard for name, shard in weight_map.items() if shard == SHARDS[0]})
    assert "lack model." in refused(folder)


def test_an_index_that_is_wrong_about_a_tensor_is_refused(folder: Path):
    weight_map = split(folder)
    write_index(folder, weight_map | {NORM: next(shard for shard in SHARDS if shard != weight_map[NORM])})
    assert f"says that {NORM} is in" in refused(folder)


BAD_INDEXES: dict[str, tuple[Any, str]] = {
    "a shard outside the folder": ({"a": "../model.safetensors"}, "lists '../model.safetensors', but weights must be"),
    "an absolute path": ({"a": "/etc/passwd"}, "lists '/etc/passwd', but"),
    "a shard in a folder below": ({"a": "sub/model.safetensors"}, "in the model's own folder"),
    "a pickle": ({"a": "pytorch_model.bin"}, "lists 'pytorch_model.bin', but"),
    "a number": ({"a": 5}, "lists '5', but"),
    "a list": ({"a": [SHARDS[0]]}, "but weights must be"),
    "a shard that is not there": ({"a": "gone.safetensors"}, "lacks gone.safetensors; fetch the missing files"),
    "a name with a zero in it": ({"a": "x\0.safetensors"}, "but weights must be"),
    "no map": (None, "must have a weight_map"),
    "an empty map": ({}, "must have a weight_map"),
    "a list for a map": ([SHARDS[0]], "must have a weight_map"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_an_index_that_cannot_be_is_refused(folder: Path, case: str):
    weight_map, sentence = BAD_INDEXES[case]
    split(folder)
    write_index(folder, weight_map)
    assert sentence in refused(folder)


def with_header(raw: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with another header before the same numbers."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header = change(header) or header
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + raw[8 + length :]


def entry(**changes: Any) -> Callable[[bytes], bytes]:
    """A spoiler of what the header says of one tensor."""
    return lambda raw: with_header(raw, lambda header: header[NORM].update(changes))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda raw: b"", "its header cannot have 0 bytes"),
    "five bytes": (lambda raw: raw[:5], "its header cannot have"),
    "a header alone, cut off": (lambda raw: raw[:100], "its header cannot have"),
    "numbers that are cut off": (lambda raw: raw[:-1], "bytes and its header tells of"),
    "half of it": (lambda raw: raw[: len(raw) // 2], "bytes and its header tells of"),
    "a byte too many": (lambda raw: raw + b"x", "bytes and its header tells of"),
    "a header beyond any file": (lambda raw: b"\xff" * 8 + raw, "cannot have 18446744073709551615 bytes"),
    "a header of noise": (lambda raw: raw[:8] + b"\xff" + raw[9:], "damaged or not a safetensors file"),
    "a header that is a list": (lambda raw: with_header(raw, lambda header: [1]), "its header is no object"),
    "a page of the web": (lambda raw: b"<!DOCTYPE html><html>" * 100, "its header cannot have"),
    "a pointer of git": (lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "header cannot have"),
    "a header as deep as a well": (
        lambda raw: (200_000).to_bytes(8, "little") + b"[" * 200_000 + raw,
        "damaged or not a safetensors file",
    ),
    "an entry that is a number": (lambda raw: with_header(raw, lambda h: {**h, NORM: 3}), "says nothing of model.norm"),
    "a negative shape": (entry(shape=[-32]), "no shape and place of model.norm.weight"),
    "a shape of floats": (entry(shape=[32.0]), "no shape and place"),
    "a shape of true": (entry(shape=[True]), "no shape and place"),
    "a shape in text": (entry(shape="32"), "no shape and place"),
    "no shape": (entry(shape=None), "no shape and place"),
    "a shape beyond memory": (entry(shape=[2**40, 2**40]), "cannot take 128 bytes"),
    "no type": (entry(dtype=None), "is of type None"),
    "an unknown type": (entry(dtype="F3"), "is of type F3; served are"),
    "no place": (entry(data_offsets=None), "no shape and place"),
    "one end": (entry(data_offsets=[0]), "no shape and place"),
    "ends the wrong way round": (entry(data_offsets=[128, 0]), "cannot take -128 bytes"),
    "a place beyond the file": (entry(data_offsets=[2**40, 2**40 + 128]), "does not begin where"),
    "a place of another tensor": (entry(data_offsets=[0, 128]), "does not begin where"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_file_that_is_damaged_is_refused(folder: Path, case: str):
    damage, sentence = DAMAGES[case]
    path = folder / SINGLE
    path.write_bytes(damage(path.read_bytes()))
    message = refused(folder)
    assert sentence in message
    assert SINGLE in message or NORM in message


def test_a_folder_in_place_of_the_weights_is_refused(folder: Path):
    (folder / SINGLE).unlink()
    (folder / SINGLE).mkdir()
    assert "has no model.safetensors" in refused(folder)
