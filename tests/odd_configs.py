"""Configurations of model folders as people have them: drawn at random within what is served, and spoilt beyond it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

_LAYER_TYPES = ("full_attention", "sliding_attention")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
DEFAULT_THETA = 10000.0

Config = dict[str, Any]


def drawn_config(number: int) -> Config:
    """The `config.json` of the random folder `number`: odd in its sizes and its spelling, but right."""
    rng = random.Random(number)
    family = FAMILIES[number % len(FAMILIES)]
    heads = rng.choice([1, 2, 4, 6, 8])
    head_dim = rng.choice([8, 16, 24, 32, 40])
    hidden = heads * rng.choice([8, 12, 16]) if family == "llama" else rng.choice([24, 32, 48, 64, 72])
    config: Config = {
        "model_type": family,
        "vocab_size": rng.choice([264, 267, 300]),
        "hidden_size": hidden,
        "intermediate_size": rng.choice([33, 40, 64, 96, 130]),
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([each for each in (1, 2, 3, 4, 6, 8) if heads % each == 0]),
        "head_dim": head_dim,
        "max_position_embeddings": rng.choice([64, 100, 512]),
        "tie_word_embeddings": rng.random() < 0.4,
        "hidden_act": rng.choice(["silu", "swish"]),
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-2]),
        "eos_token_id": rng.choice([256, [256, 258], None]),
        **_rope(rng),
        **_windows(rng, family),
    }
    if family in ("llama", "qwen3"):
        config["attention_bias"] = rng.random() < 0.4
    if family == "llama":
        config["mlp_bias"] = rng.random() < 0.4
    config["num_hidden_layers"] = len(config.get("layer_types") or []) or config["num_hidden_layers"]
    return _with_defaults_left_out(config, rng)


def _rope(rng: random.Random) -> Config:
    """One of the spellings of one of the kinds."""
    theta = rng.choice([DEFAULT_THETA, 500.0, 1e6])
    original = rng.choice([16, 32, 48])
    factor = rng.choice([1.0, 2, 4.0, 8.5])
    kind, block = rng.choice(
        [
            ("default", {}),
            ("linear", {"factor": factor}),
            ("proportional", {"factor": factor, "partial_rotary_factor": rng.choice([1.0, 0.5, 0.25])}),
            ("llama3", {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": rng.choice([4.0, 2])}),
            ("yarn", {"factor": factor, **_yarn_extras(rng)}),
        ]
    )
    block = {**block, rng.choice(["rope_type", "type"]): kind}
    beside: Config = {}
    if kind in ("llama3", "yarn"):
        place = rng.choice(["inside", "beside", "both", "nowhere"])
        if place in ("inside", "both") or (kind == "yarn" and place == "nowhere"):
            block["original_max_position_embeddings"] = original
        if place in ("beside", "both"):
            beside["original_max_position_embeddings"] = original if place == "beside" else original + 8
    spelling = rng.choice(["new", "old", "old beside new", "theta beside"])
    if spelling == "new":
        return {"rope_parameters": {**block, "rope_theta": theta}, **beside}
    if spelling == "theta beside":
        return {"rope_parameters": block, "rope_theta": theta, **beside}
    old = {"rope_scaling": block if kind != "default" else None, "rope_theta": theta, **beside}
    if spelling == "old beside new" and old["rope_scaling"]:
        old["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    return old


def _yarn_extras(rng: random.Random) -> Config:
    extras: Config = {}
    if rng.random() < 0.4:
        extras |= {"beta_fast": rng.choice([16.0, 8, None]), "beta_slow": rng.choice([2.0, 1, 0])}
    if rng.random() < 0.3:
        extras["attention_factor"] = rng.choice([1.5, 0.7, None])
    if rng.random() < 0.3:
        extras |= {"mscale": rng.choice([0.7, 0, 1.0]), "mscale_all_dim": rng.choice([1.0, 0.5, None])}
    if rng.random() < 0.3:
        extras["truncate"] = rng.choice([True, False, None])
    return extras


def _windows(rng: random.Random, family: str) -> Config:
    window = rng.choice([1, 3, 7, 1000])
    if family == "llama":
        return rng.choice([{}, {"sliding_window": 4}, {"layer_types": ["full_attention", "full_attention"]}])
    if family == "mistral":
        by_layer = [{"layer_types": ["full_attention", "sliding_attention", kind]} for kind in _LAYER_TYPES]
        return rng.choice(
            [{}, {"sliding_window": None}, *({"sliding_window": window, **each} for each in ({}, *by_layer))]
        )
    mixed = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    used = {"use_sliding_window": True, "sliding_window": window}
    return rng.choice(
        [
            {},
            {"use_sliding_window": False, "sliding_window": window},
            {**used, "max_window_layers": rng.choice([0, 1, -1])},
            {**used},
            {"use_sliding_window": True, "sliding_window": None},
            {**used, **mixed},
            {"layer_types": ["full_attention"]},
        ]
    )


def _with_defaults_left_out(config: Config, rng: random.Random) -> Config:
    """The same configuration, saying less."""
    unsaid = {
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_theta": DEFAULT_THETA,
        "attention_bias": False,
        "mlp_bias": False,
    }
    if config["model_type"] == "llama":
        unsaid["num_key_value_heads"] = config["num_attention_heads"]
    if config["model_type"] == "mistral":
        unsaid["num_key_value_heads"] = 8
    # transformers reads a mistral with layer_types as a ministral, which wants its head_dim.
    says_head_dim = config["model_type"] == "qwen3" or (config["model_type"] == "mistral" and "layer_types" in config)
    if not says_head_dim and config["hidden_size"] == config["head_dim"] * config["num_attention_heads"]:
        unsaid["head_dim"] = config["head_dim"]
    return {
        key: value for key, value in config.items() if key not in unsaid or unsaid[key] != value or rng.random() < 0.5
    }


@dataclass(frozen=True)
class Spoilt:
    """What is changed in the config of a good folder, and a pattern of the sentence that refuses it."""

    sentence: str
    changes: Config = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    families: tuple[str, ...] = FAMILIES


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_HOSTILE: dict[str, Any] = {
    "zero": 0,
    "negative": -4,
    "beyond memory": 2**40,
    "a float": 64.0,
    "text": "64",
    "true": True,
    "a list": [64],
    "an object": {},
    "not a number": float("nan"),
}
_ROPE_NUMBERS = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _rope_of(**block: Any) -> Config:
    return {"rope_parameters": block}


def _spoilt() -> dict[str, Spoilt]:
    """Every way to be wrong, by name."""
    cases: dict[str, Spoilt] = {}
    for key in _SIZES:
        for kind, value in _HOSTILE.items():
            cases[f"{key} is {kind}"] = Spoilt(rf"must give {key} as an integer from 1 to \d+, got", {key: value})
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
        cases[f"{key} is null"] = Spoilt(f"must give {key} as an integer from 1 to .*, got None", {key: None})
    shape = r"has the shape \(.*but its config.json implies \("
    cases |= {
        "more rows than the embedding has": Spoilt(rf"embed_tokens\.weight .*{shape}300, 32\)", {"vocab_size": 300}),
        "fewer rows than the embedding has": Spoilt(rf"embed_tokens\.weight .*{shape}260, 32\)", {"vocab_size": 260}),
        "wider states": Spoilt(shape, {"hidden_size": 64}),
        "narrower states": Spoilt(shape, {"hidden_size": 16}),
        "states a channel wider": Spoilt(shape + "|no multiple of", {"hidden_size": 33}),
        "a wider MLP": Spoilt(rf"mlp\..*_proj\.weight .*{shape}", {"intermediate_size": 65}),
        "a narrower MLP": Spoilt(rf"mlp\..*_proj\.weight .*{shape}", {"intermediate_size": 32}),
        "more heads": Spoilt(rf"q_proj\.weight .*{shape}", {"num_attention_heads": 8}),
        "fewer heads": Spoilt(rf"q_proj\.weight .*{shape}", {"num_attention_heads": 2}),
        "more key-value heads": Spoilt(rf"k_proj\.weight .*{shape}", {"num_key_value_heads": 4}),
        "fewer key-value heads": Spoilt(rf"k_proj\.weight .*{shape}", {"num_key_value_heads": 1}),
        "as many key-value heads as heads": Spoilt(
            rf"k_proj\.weight .*{shape}", {"num_key_value_heads": None}, families=("llama", "qwen2", "qwen3")
        ),
        "key-value heads that do not divide": Spoilt("cannot share 3 key-value heads", {"num_key_value_heads": 3}),
        "key-value heads left out": Spoilt(r"k_proj\.weight|cannot share", dropped=("num_key_value_heads",)),
        "wider heads": Spoilt(rf"q_.*\.weight .*{shape}", {"head_dim": 32}),
        "narrower heads": Spoilt(rf"q_.*\.weight .*{shape}", {"head_dim": 8}),
        "heads of an odd width": Spoilt("even number of channels, got 15", {"head_dim": 15}),
        "a head width left out": Spoilt(shape, dropped=("head_dim",)),
        "a layer more": Spoilt(
            r"lack model\.layers\.2\.input_layernorm\.weight of shape \(32,\)",
            {"num_hidden_layers": 3, "layer_types": None},
        ),
        "a layer less": Spoilt(
            r"hold model\.layers\.1\..*, which a .* of 1 layers", {"num_hidden_layers": 1, "layer_types": None}
        ),
        "layers left out": Spoilt(r"lack model\.layers\.2\.", dropped=("num_hidden_layers", "layer_types")),
        "states left out": Spoilt(shape, dropped=("hidden_size",)),
        "rows left out": Spoilt(shape, dropped=("vocab_size",)),
        "a tied head that is not": Spoilt("must give tie_word_embeddings as true or false", {"tie_word_embeddings": 1}),
        "a tied head by text": Spoilt("must give tie_word_embeddings", {"tie_word_embeddings": "true"}),
        "a tied head of null": Spoilt("must give tie_word_embeddings", {"tie_word_embeddings": None}),
        "gelu": Spoilt("activation 'gelu' .* not supported", {"hidden_act": "gelu"}),
        "relu": Spoilt("activation 'relu' .* not supported", {"hidden_act": "relu"}),
        "an activation of null": Spoilt("must give hidden_act as text", {"hidden_act": None}),
        "attention both ways": Spoilt("not causal", {"is_causal": False}),
        "fields by layer": Spoilt("per_layer_config", {"per_layer_config": {"0": {"intermediate_size": 32}}}),
        "GPTQ": Spoilt("are quantized", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        "AWQ": Spoilt("are quantized", {"quantization_config": {"quant_method": "awq"}}),
        "quantization that says nothing": Spoilt("are quantized", {"quantization_config": {}}),
        "fp8": Spoilt("are quantized", {"quantization_config": {"quant_method": "fp8"}}),
        "another family": Spoilt("is of the family 'gemma3_text'", {"model_type": "gemma3_text"}),
        "a family of a list": Spoilt("is of the family", {"model_type": ["llama"]}),
        "no family": Spoilt("is of the family 'None'", dropped=("model_type",)),
        "epsilon below zero": Spoilt("must give rms_norm_eps as a number of at least 0", {"rms_norm_eps": -1e-6}),
        "epsilon in text": Spoilt("must give rms_norm_eps", {"rms_norm_eps": "1e-6"}),
        "epsilon of null": Spoilt("must give rms_norm_eps", {"rms_norm_eps": None}),
        "epsilon without an end": Spoilt("must give rms_norm_eps", {"rms_norm_eps": float("inf")}),
        "epsilon that is no number": Spoilt("must give rms_norm_eps", {"rms_norm_eps": float("nan")}),
        "an end token beyond the rows": Spoilt("must give eos_token_id as ids from 0 to 263", {"eos_token_id": 264}),
        "an end token below zero": Spoilt("must give eos_token_id", {"eos_token_id": [256, -1]}),
        "an end token in text": Spoilt("must give eos_token_id", {"eos_token_id": "</s>"}),
        "an end token of true": Spoilt("must give eos_token_id", {"eos_token_id": True}),
        "end tokens in lists of lists": Spoilt("must give eos_token_id", {"eos_token_id": [[256]]}),
    }
    return cases | _spoilt_ropes() | _spoilt_windows()


def _spoilt_ropes() -> dict[str, Spoilt]:
    llama3 = {"rope_type": "llama3", **_ROPE_NUMBERS, "original_max_position_embeddings": 32}
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    cases = {
        "dynamic rope": Spoilt("rope type 'dynamic' is not supported", _rope_of(rope_type="dynamic", factor=2.0)),
        "dynamic rope in an old file": Spoilt("'dynamic'", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        "dynamic rope beside a plain one": Spoilt(
            "'dynamic'", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, **_rope_of(rope_type="default")}
        ),
        "long rope": Spoilt(
            "'longrope'", _rope_of(rope_type="longrope", short_factor=[1.0] * 8, long_factor=[2.0] * 8, factor=2.0)
        ),
        "a rope of several axes": Spoilt("'mrope'", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}),
        "an unknown rope": Spoilt("'mystery'", _rope_of(rope_type="mystery")),
        "a rope of null": Spoilt("must give rope_type as text", _rope_of(rope_type=None)),
        "a rope that is a list": Spoilt("must give rope_parameters as an object", {"rope_parameters": ["linear"]}),
        "a rope that is text": Spoilt("must give rope_scaling as an object", {"rope_scaling": "linear"}),
        "a rope by layer type": Spoilt(
            "field 'full_attention' is not known", _rope_of(full_attention={"rope_type": "default"})
        ),
        "half of the channels": Spoilt("partial_rotary_factor of 0.5", _rope_of(partial_rotary_factor=0.5)),
        "half of the channels, beside": Spoilt("partial_rotary_factor of 0.5", {"partial_rotary_factor": 0.5}),
        "half of linear channels": Spoilt(
            "partial_rotary_factor", _rope_of(rope_type="linear", factor=2.0, partial_rotary_factor=0.5)
        ),
        "more than all channels": Spoilt(
            "partial_rotary_factor", _rope_of(rope_type="proportional", partial_rotary_factor=1.5)
        ),
        "an unknown field": Spoilt("field 'finetuned' is not known for .*'yarn'", _rope_of(**yarn, finetuned=True)),
        "a field of another kind": Spoilt("field 'factor' is not known for .*'default'", _rope_of(factor=2.0)),
        "a field of llama3 in linear": Spoilt(
            "field 'low_freq_factor' is not known", _rope_of(rope_type="linear", factor=2.0, low_freq_factor=1.0)
        ),
        "bounds the wrong way round": Spoilt(
            "high_freq_factor as a number above 4", _rope_of(**llama3 | {"low_freq_factor": 4.0})
        ),
        "a yarn base of one": Spoilt("rope_theta as a number above 1", _rope_of(**yarn, rope_theta=1.0)),
        "an original context of null, beside": Spoilt(
            "must give original_max_position_embeddings",
            {**_rope_of(**yarn), "original_max_position_embeddings": None},
        ),
        "a truncate that is no flag": Spoilt("must give truncate as true or false", _rope_of(**yarn, truncate="no")),
        "a base of null, beside": Spoilt("must give rope_theta", {"rope_theta": None, "rope_parameters": None}),
    }
    for kind, block in {"linear": {"rope_type": "linear", "factor": 2.0}, "llama3": llama3, "yarn": yarn}.items():
        for key in sorted(block.keys() - {"rope_type", "original_max_position_embeddings"}):
            without = {name: value for name, value in block.items() if name != key}
            cases[f"{kind} without {key}"] = Spoilt(f"must give {key} as .*, got none", _rope_of(**without))
            for hostile in ("zero", "text", "true", "not a number"):
                cases[f"{key} of {kind} is {hostile}"] = Spoilt(
                    f"must give {key} as a number above", _rope_of(**block | {key: _HOSTILE[hostile]})
                )
    for hostile, value in _HOSTILE.items():
        if hostile not in ("a float", "beyond memory"):
            sentence = "must give rope_theta as a number above 0"
            cases[f"rope_theta is {hostile}"] = Spoilt(sentence, _rope_of(rope_theta=value))
    cases["rope_theta is beyond any float"] = Spoilt("must give rope_theta", _rope_of(rope_theta=10**400))
    return cases


def _spoilt_windows() -> dict[str, Spoilt]:
    qwen = ("qwen2", "qwen3")
    sliding, full = "sliding_attention", "full_attention"
    windows = {
        f"sliding_window is {kind}": Spoilt(
            "must give sliding_window as an integer", {"sliding_window": value}, families=("mistral", *qwen)
        )
        for kind, value in _HOSTILE.items()
    }
    return windows | {
        "layer types too few": Spoilt("must give layer_types as a list of 2 texts", {"layer_types": [full]}),
        "layer types in text": Spoilt("must give layer_types as a list of 2 texts", {"layer_types": full}),
        "layers in chunks": Spoilt(
            "'chunked_attention' .* not supported", {"layer_types": ["chunked_attention", full]}
        ),
        "layers of another kind": Spoilt("'linear_attention'", {"layer_types": [full, "linear_attention"]}),
        "windows in a family without": Spoilt(
            "layer_types names sliding_attention layers, but this family has none",
            {"layer_types": [sliding] * 2, "sliding_window": 4},
            families=("llama",),
        ),
        "windowed layers and no window": Spoilt(
            "there is no window", {"layer_types": [sliding, full], "sliding_window": None}, families=("mistral",)
        ),
        "windowed layers that are switched off": Spoilt(
            "there is no window", {"layer_types": [sliding, full], "use_sliding_window": False}, families=qwen
        ),
        "windowed layers of no width": Spoilt(
            "there is no window",
            {"layer_types": [sliding, full], "use_sliding_window": True, "sliding_window": None},
            families=qwen,
        ),
        "a first windowed layer in text": Spoilt("max_window_layers", {"max_window_layers": "1"}, families=qwen),
        "a flag in text": Spoilt("use_sliding_window", {"use_sliding_window": "false"}, families=qwen),
        "biases in text": Spoilt("attention_bias", {"attention_bias": "yes"}, families=("llama", "qwen3")),
        "biases that are not stored": Spoilt(
            r"lack .*_proj\.bias", {"attention_bias": True}, families=("llama", "qwen3")
        ),
        "MLP biases that are not stored": Spoilt(r"lack .*_proj\.bias", {"mlp_bias": True}, families=("llama",)),
        "a family with biases": Spoilt(r"lack .*_proj\.bias", {"model_type": "qwen2"}, families=("llama", "mistral")),
        "a family without biases": Spoilt(r"hold .*_proj\.bias", {"model_type": "llama"}, families=("qwen2",)),
        "a family without norms of heads": Spoilt(
            r"hold .*_norm\.weight", {"model_type": "llama"}, families=("qwen3",)
        ),
        "a head width of null": Spoilt("head_dim of a qwen3 model", {"head_dim": None}, families=("qwen3",)),
    }


SPOILT = _spoilt()
