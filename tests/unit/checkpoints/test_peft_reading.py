"""Adapters that peft wrote, read as our own; and what is refused, by name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load, save
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eztinker.checkpoints.peft import CONFIG, WEIGHTS, peft_parts
from eztinker.checkpoints.peft_archive import FILES, pack, unpack
from eztinker.checkpoints.peft_reading import read_peft
from eztinker.errors import EZTinkerError, InvalidInput, Unsupported
from eztinker.model.lora import Adapter
from eztinker.model_files.folder import read_model_folder
from tests.oracles import CPU, draw_tokens, load_decoder, packed_logits
from tests.unit.engine.engine_helpers import TinyModel, new_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's use of transformers
    pytest.mark.filterwarnings("ignore:.*tie:UserWarning"),  # peft advises against merging adapters of tied weights
    pytest.mark.filterwarnings("ignore:(?i).*\\beva\\b:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),  # those that peft ties itself
]

TOKENS = draw_tokens(20, seed=1)


def parts_in(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in FILES}


def read(parts: dict[str, bytes], base: Path):
    return read_peft(parts, read_model_folder(base, base.name))


def foreign_model(base: Path, **config: Any) -> PeftModel:
    """A model as peft makes it, with factors that are not zero."""
    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", **{"init_lora_weights": False, **config})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    with torch.no_grad():
        for name, factor in model.named_parameters():
            if ".lora_" in name:
                factor.add_(0.05 * torch.randn(factor.shape))
    return cast("PeftModel", model)


def foreign_adapter(base: Path, directory: Path, dtype: torch.dtype = torch.float32, **config: Any) -> None:
    """Write an adapter as peft makes and saves it."""
    foreign_model(base, **config).save_pretrained(str(directory), save_embedding_layers=False)
    factors = {name: factor.to(dtype) for name, factor in load_file(directory / WEIGHTS).items()}
    save_file(factors, directory / WEIGHTS)


FOREIGN = {
    "two modules": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "everything": {"r": 3, "lora_alpha": 6.0, "target_modules": "all-linear"},
    "rank-stabilised": {"r": 9, "lora_alpha": 3, "use_rslora": True, "target_modules": ["down_proj", "lm_head"]},
    "gaussian": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "eva": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "eva"},
    "orthogonal": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "mica": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "mica"},
    "one layer": {"r": 4, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "all layers but one": {
        "r": 4,
        "target_modules": ["q_proj"],
        "exclude_modules": ["model.layers.0.self_attn.q_proj"],
    },
    "a pattern": {"r": 4, "target_modules": r".*\.1\..*(q|v)_proj", "lora_dropout": 0.5},
    "bfloat16": {"r": 2, "lora_alpha": 64, "target_modules": ["o_proj"], "dtype": torch.bfloat16},
}


def assert_computes_as_in_peft(base: Path, directory: Path) -> None:
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(directory)).eval()
    arrays, lora = read(parts_in(directory), base)
    decoder = load_decoder(base)
    adapter = Adapter.new(decoder.config, lora, CPU)
    adapter.fill(arrays)
    with torch.inference_mode():
        expected = theirs(input_ids=torch.tensor([TOKENS])).logits[0]
    (ours,) = packed_logits(decoder, [TOKENS], [(adapter, None)])
    (unadapted,) = packed_logits(decoder, [TOKENS])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert (ours - unadapted).abs().max() > 0.01


@pytest.mark.parametrize("case", FOREIGN)
def test_an_adapter_of_peft_computes_here_what_it_computes_there(tiny_model: TinyModel, tmp_path: Path, case: str):
    base = tiny_model("qwen2")
    foreign_adapter(base, tmp_path, **FOREIGN[case])
    assert_computes_as_in_peft(base, tmp_path)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "lora_ga"])
def test_a_start_that_changed_the_base_weights_is_refused(tiny_model: TinyModel, tmp_path: Path, start: str):
    """The factors alone are off by nats: peft takes something out of the base weights when it loads them."""
    base = tiny_model("qwen2")
    foreign_adapter(base, tmp_path, r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    with pytest.raises(Unsupported, match=f"init_lora_weights '{start}'"):
        read(parts_in(tmp_path), base)


@pytest.mark.filterwarnings("ignore:.*changes the base weights:UserWarning")
@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
def test_what_peft_makes_of_such_an_adapter_on_request_is_read(tiny_model: TinyModel, tmp_path: Path, start: str):
    base = tiny_model("qwen2")
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=start)  # type: ignore[arg-type]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(str(tmp_path / "at first"))
    with torch.no_grad():
        for name, factor in model.named_parameters():
            if ".lora_" in name:
                factor.add_(0.05 * torch.randn(factor.shape))
    trained = model.eval()(input_ids=torch.tensor([TOKENS])).logits[0]
    model.save_pretrained(str(tmp_path / "plain"), path_initial_model_for_weight_conversion=str(tmp_path / "at first"))
    assert_computes_as_in_peft(base, tmp_path / "plain")
    arrays, lora = read(parts_in(tmp_path / "plain"), base)
    adapter = Adapter.new((decoder := load_decoder(base)).config, lora, CPU)
    adapter.fill(arrays)
    (ours,) = packed_logits(decoder, [TOKENS], [(adapter, None)])
    torch.testing.assert_close(ours, trained, rtol=1e-4, atol=1e-4)


SAVED: dict[str, tuple[bool, dict[str, Any], bool | str]] = {
    "an untied head": (False, {"target_modules": ["lm_head"]}, "auto"),
    "an untied head among others": (False, {"target_modules": ["q_proj", "lm_head"]}, "auto"),
    "embeddings that nobody asked for": (False, {"target_modules": ["q_proj"]}, True),
    "a tied head by the embedding's name": (
        True,
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        "auto",
    ),
    "a tied head by its own name": (True, {"target_modules": ["lm_head"], "ensure_weight_tying": True}, "auto"),
    "a tied head by both": (
        True,
        {"target_modules": ["embed_tokens", "lm_head", "o_proj"], "ensure_weight_tying": True},
        "auto",
    ),
}


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SAVED)
def test_copies_of_embedding_and_head_that_peft_saves_are_no_obstacle(
    tiny_model: TinyModel, tmp_path: Path, case: str, dtype: torch.dtype
):
    tie, config, save_embedding_layers = SAVED[case]
    base = tiny_model("qwen2", tie=tie)
    model = foreign_model(base, r=4, lora_alpha=2, **config).to(dtype)
    model.save_pretrained(str(tmp_path), save_embedding_layers=save_embedding_layers)
    names = load_file(tmp_path / WEIGHTS).keys()
    if "its own name" not in case:
        assert any(name.endswith(("base_layer.weight", "embed_tokens.weight")) for name in names)
    if dtype == torch.float32:
        assert_computes_as_in_peft(base, tmp_path)
    else:
        read(parts_in(tmp_path), base)


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
@pytest.mark.parametrize(
    "change",
    [lambda w: w + 1e-6, lambda w: w[:-1], lambda w: torch.cat((w, w[:1])), lambda w: w * 0],
    ids=["moved a little", "cut", "resized", "zero"],
)
def test_an_embedding_that_was_trained_beside_the_factors_is_refused(
    tiny_model: TinyModel, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
):
    base = tiny_model("qwen2")
    foreign_model(base, r=4, target_modules=["lm_head"]).save_pretrained(str(tmp_path))
    weights = load_file(tmp_path / WEIGHTS)
    name = "base_model.model.lm_head.base_layer.weight"
    save_file(weights | {name: change(weights[name]).contiguous()}, tmp_path / WEIGHTS)
    with pytest.raises(Unsupported, match=r"lm_head\.base_layer\.weight .* is not the weight of this base model"):
        read(parts_in(tmp_path), base)


def test_a_scalar_in_place_of_an_embedding_is_refused(plain: dict[str, bytes], tiny_model: TinyModel):
    bad = load(plain[WEIGHTS]) | {f"{PREFIX}lm_head.weight": np.ones(1, np.float32)}
    with pytest.raises(Unsupported, match="is not the weight of this base model"):
        read(plain | {WEIGHTS: save(bad)}, tiny_model("qwen2"))


PASSED_OVER: dict[str, dict[str, Any]] = {
    "another target": {"target_modules": ["k_proj"]},
    "an exclusion": {"exclude_modules": ["q_proj"]},
    "another layer": {"layers_to_transform": [1]},
}


@pytest.mark.parametrize("case", PASSED_OVER)
def test_factors_that_peft_would_pass_over_are_refused(plain: dict[str, bytes], tiny_model: TinyModel, case: str):
    changed = json.dumps(json.loads(plain[CONFIG]) | PASSED_OVER[case]).encode()
    with pytest.raises(InvalidInput, match=r"q_proj\.lora_[AB]\.weight', but by adapter_config\.json"):
        read(plain | {CONFIG: changed}, tiny_model("qwen2"))


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_an_export_of_ours_comes_back_as_it_was(tiny_model: TinyModel, tie: bool):
    base = tiny_model("qwen2", tie=tie)
    run = new_run(load_decoder(base), rank=4)
    arrays = run.adapter.named_arrays()
    parts = peft_parts(arrays, run.adapter.lora, "tiny", head_is_tied=tie)
    again, lora = read(unpack(pack(parts)), base)
    assert lora.rank == 4
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_modules_an_adapter_leaves_alone_stay_as_they_are_in_training(tiny_model: TinyModel, tmp_path: Path):
    base = tiny_model("qwen2")
    foreign_adapter(base, tmp_path, r=2, lora_alpha=4, target_modules=["q_proj"])
    arrays, lora = read(parts_in(tmp_path), base)
    assert (lora.train_attn, lora.train_mlp, lora.train_unembed) == (True, False, False)
    untouched = [array for name, array in arrays.items() if "q_proj" not in name]
    assert untouched
    assert not any(array.any() for array in untouched)  # A and B both, so that neither has a gradient


PREFIX = "base_model.model."
Q_A, Q_B = (f"{PREFIX}model.layers.0.self_attn.q_proj.lora_{factor}.weight" for factor in "AB")


def renamed(arrays: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {new if name == old else name: array for name, array in arrays.items()}


def safetensors_of(**offsets: tuple[int, int]) -> bytes:
    """A file of tensors of two numbers each, with these places in its 20 bytes of data."""
    tensors = {name: {"dtype": "F32", "shape": [2], "data_offsets": list(place)} for name, place in offsets.items()}
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header + bytes(max(end for _, end in offsets.values()))


BAD_WEIGHTS: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = {
    "a name without the prefix": (lambda a: renamed(a, Q_A, "q.lora_A.weight"), "every name in it must begin"),
    "a module that does not exist": (lambda a: renamed(a, Q_A, Q_A.replace(".0.", ".9.")), "no LoRA factor of this"),
    "a whole weight": (lambda a: {**a, f"{PREFIX}model.norm.weight": np.ones(64, np.float32)}, "no LoRA factor"),
    "another shape": (lambda a: {**a, Q_A: np.ones((2, 63), np.float32)}, "must have shape (2, 64), got (2, 63)"),
    "half of a pair": (lambda a: {k: v for k, v in a.items() if k != Q_B}, "only one of the two LoRA factors"),
    "a number that is not finite": (lambda a: {**a, Q_A: np.full((2, 64), np.inf, np.float32)}, "not finite"),
    "integers": (lambda a: {**a, Q_A: np.ones((2, 64), np.int64)}, "not of floating-point numbers"),
    "nothing": (lambda a: {}, "holds no LoRA factor"),
}
BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another method": ({"peft_type": "LOHA"}, "does not describe a LoRA adapter"),
    "DoRA": ({"use_dora": True}, "uses use_dora"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
    "ranks of its own": ({"rank_pattern": {"q_proj": 1}}, "uses rank_pattern"),
    "biases": ({"bias": "all"}, "trains biases"),
    "no rank": ({"r": 0}, "r in adapter_config.json must be an integer from 1 to 512, got 0"),
    "a rank beyond memory": ({"r": 10**12}, "must be an integer from 1 to 512"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha in adapter_config.json must be a number of at most 1,000,000, got"),
    "an alpha beyond any float": ({"lora_alpha": 10**400}, "must be a number of at most 1,000,000, got 1000"),
    "an alpha that is no number": ({"lora_alpha": float("nan")}, "must be a number of at most 1,000,000, got nan"),
}


@pytest.fixture(scope="module")
def plain(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("plain")
    foreign_adapter(tiny_model("qwen2"), directory, r=2, lora_alpha=4, target_modules=["q_proj"])
    return parts_in(directory)


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused_by_name(plain: dict[str, bytes], tiny_model: TinyModel, case: str):
    change, sentence = BAD_WEIGHTS[case]
    bad = plain | {WEIGHTS: save(change(load(plain[WEIGHTS])))}
    with pytest.raises(InvalidInput) as caught:
        read(bad, tiny_model("qwen2"))
    assert sentence in caught.value.message


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_beyond_plain_lora_is_refused_by_name(plain: dict[str, bytes], tiny_model: TinyModel, case: str):
    change, sentence = BAD_CONFIGS[case]
    bad = plain | {CONFIG: json.dumps(json.loads(plain[CONFIG]) | change).encode()}
    with pytest.raises(EZTinkerError) as caught:
        read(bad, tiny_model("qwen2"))
    assert sentence in caught.value.message


BAD_FILES = {
    "a config of 2 MB": (CONFIG, b" " * (2 << 20), "adapter_config.json may have 1048576 bytes, got 2097152"),
    "a config as deep as a well": (CONFIG, b"[" * 100_000, "adapter_config.json cannot be read"),
    "a config that is a list": (CONFIG, b"[]", "does not describe a LoRA adapter"),
    "a header of 2 MB": (WEIGHTS, (2 << 20).to_bytes(8, "little") + b" " * (2 << 20), "may have 1048576 bytes, got"),
    "a header beyond the file": (WEIGHTS, (1 << 20).to_bytes(8, "little") + b"{}", "cannot be read"),
    "a header beyond any file": (WEIGHTS, b"\xff" * 8, "may have 1048576 bytes, got 18446744073709551615"),
    "a pickle": (WEIGHTS, pickle.dumps({"a": 1}), "adapter_model.safetensors"),
    "overlapping tensors": (WEIGHTS, safetensors_of(a=(0, 8), b=(4, 12)), "cannot be read"),
    "a gap between tensors": (WEIGHTS, safetensors_of(a=(0, 8), b=(12, 20)), "cannot be read"),
    "a tensor of the wrong size": (WEIGHTS, safetensors_of(a=(0, 4)), "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_not_what_it_should_be_is_refused(plain: dict[str, bytes], tiny_model: TinyModel, case: str):
    name, content, sentence = BAD_FILES[case]
    with pytest.raises(EZTinkerError) as caught:
        read(plain | {name: content}, tiny_model("qwen2"))
    assert sentence in caught.value.message


def test_a_factor_that_its_scale_makes_infinite_is_refused(plain: dict[str, bytes], tiny_model: TinyModel):
    arrays = load(plain[WEIGHTS])
    large = {name: np.full_like(array, 1e38) if name == Q_B else array for name, array in arrays.items()}
    config = json.loads(plain[CONFIG]) | {"lora_alpha": 1e6}
    with pytest.raises(InvalidInput, match="not finite any more once it is scaled"):
        read({CONFIG: json.dumps(config).encode(), WEIGHTS: save(large)}, tiny_model("qwen2"))


def test_what_a_config_says_of_code_and_places_is_not_looked_at(plain: dict[str, bytes], tiny_model: TinyModel):
    elsewhere = {
        "auto_mapping": {"base_model_class": "system", "parent_library": "os"},
        "base_model_name_or_path": "https://x.example/model",
        "revision": "../..",
        "runtime_config": {"ephemeral_gpu_offload": True},
    }
    with_code = plain | {CONFIG: json.dumps(json.loads(plain[CONFIG]) | elsewhere).encode()}
    (arrays, lora), (again, lora_again) = (read(parts, tiny_model("qwen2")) for parts in (plain, with_code))
    assert lora == lora_again
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_an_adapter_of_the_head_alone_is_refused_where_head_and_embedding_are_one(
    tiny_model: TinyModel, tmp_path: Path
):
    base = tiny_model("qwen2", tie=True)
    foreign_adapter(base, tmp_path, r=2, lora_alpha=4, target_modules=["lm_head"])
    with pytest.raises(Unsupported, match="head and embedding are one weight"):
        read(parts_in(tmp_path), base)


def test_an_adapter_that_peft_ties_itself_is_read(tiny_model: TinyModel):
    base = tiny_model("qwen2", tie=True)
    run = new_run(load_decoder(base), rank=4)
    arrays = run.adapter.named_arrays()
    parts = peft_parts(arrays, run.adapter.lora, "tiny", head_is_tied=True)
    without_our_names = {name: array for name, array in load(parts[WEIGHTS]).items() if "unembed_tokens" not in name}
    again, _ = read(parts | {WEIGHTS: save(without_our_names)}, base)
    np.testing.assert_array_equal(again["lm_head.lora_A.weight"], arrays["lm_head.lora_A.weight"])
