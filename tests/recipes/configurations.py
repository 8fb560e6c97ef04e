"""The recipes that are run, each as its user would call it, only smaller."""

from __future__ import annotations

from dataclasses import dataclass

from tests.recipes.stand_ins import MODEL

STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    name: str
    module: str
    """Below `tinker_cookbook.recipes`."""
    shows: str
    """What it asks of a server that the ones before did not."""
    arguments: tuple[str, ...] = ()
    in_ci: bool = False
    in_ci_with_older: bool = False
    """Also with cookbooks before the newest."""
    learns: bool = False
    """Whether rewards differ, so that a step must have a gradient."""


_NAMED = (f"model_name={MODEL}", f"max_steps={STEPS}")
_THINKING_OFF = "renderer_name=qwen3_disable_thinking"
_OVERWRITE = "behavior_if_log_dir_exists=delete"
_CHAT = (*_NAMED, _OVERWRITE, "batch_size=8", "max_length=512", "eval_every=1", "save_every=1", "lora_rank=4")
_GROUPS = ("groups_per_batch=4", "group_size=4", "lora_rank=4", "save_every=1")
_MATH = (*_NAMED, _OVERWRITE, *_GROUPS, "max_tokens=5", "eval_every=1")
_GSM8K = (*_NAMED, _OVERWRITE, "groups_per_batch=4", "group_size=8", "lora_rank=4", "save_every=1", "max_tokens=12")
_GAME = (*_NAMED, _OVERWRITE, _THINKING_OFF, "batch_size=4", "eval_every=0", "save_every=1")

CONFIGURATIONS = [
    Configuration(
        name="SFT loop",
        module="sl_loop",
        shows="cross-entropy, saving, resuming by metadata",
        arguments=(*_NAMED, "batch_size=8", "max_length=512", "lora_rank=4", "save_every=1"),
        in_ci=True,
        in_ci_with_older=True,
    ),
    Configuration(
        name="RL loop",
        module="rl_loop",
        shows="sampling from each step's weights; `stable_reinforce` by default (0.5.8: importance sampling)",
        arguments=(*_NAMED, "batch_size=4", "group_size=8", "max_tokens=12", "lora_rank=4", "save_every=1"),
        in_ci=True,
        in_ci_with_older=True,
        learns=True,
    ),
    Configuration(
        name="SFT, basic",
        module="sl_basic",
        shows="pipelined steps, test loss by forward",
        arguments=(*_NAMED, "lora_rank=4"),
    ),
    Configuration(
        name="RL, basic",
        module="rl_basic",
        shows="2,048 samples in a step",
        arguments=(*_NAMED, "max_tokens=4", "lora_rank=4"),
    ),
    Configuration(
        name="chat SFT, no_robots",
        module="chat_sl.train",
        shows="checkpoints with a lifetime",
        arguments=(*_CHAT, "dataset=no_robots", "rolling_save_every=1"),
    ),
    Configuration(name="chat SFT, tulu3", module="chat_sl.train", shows="-", arguments=(*_CHAT, "dataset=tulu3")),
    Configuration(
        name="chat SFT, own file",
        module="chat_sl.train",
        shows="-",
        arguments=(*_CHAT, "dataset=conversations.jsonl", "renderer_name=role_colon"),
    ),
    Configuration(
        name="prompt distillation",
        module="prompt_distillation.train",
        shows="-",
        arguments=(*_CHAT, "file_path=conversations.jsonl"),
    ),
    Configuration(
        name="DPO",
        module="preference.dpo.train",
        shows="custom losses in two passes, logprobs of a frozen reference",
        arguments=(*_NAMED, _OVERWRITE, "dataset=hhh", "batch_size=8", "max_length=512"),
        in_ci=True,
    ),
    Configuration(
        name="preference: shorter",
        module="preference.shorter.train",
        shows="rewards from comparisons",
        arguments=(*_NAMED, _OVERWRITE, _THINKING_OFF, "batch_size=4", "group_size=4", "max_tokens=8", "eval_every=1"),
        in_ci=True,
    ),
    Configuration(
        name="RLHF pipeline",
        module="preference.rlhf.rlhf_pipeline",
        shows="three trainings, each from the checkpoint of another",
        arguments=(
            f"base_model={MODEL}",
            "short_name=tiny",
            f"max_steps={STEPS}",
            "batch_size=8",
            "lora_rank=4",
            "max_length=512",
            "rl_max_tokens=8",
            "eval_every=1",
        ),
    ),
    Configuration(
        name="on-policy distillation, deepmath",
        module="distillation.on_policy_distillation",
        shows="logprobs of a teacher",
        arguments=(
            *_NAMED,
            _OVERWRITE,
            *_GROUPS,
            "eval_every=1",
            "max_tokens=8",
            f"teacher_model={MODEL}",
            "dataset=deepmath",
        ),
        in_ci=True,
    ),
    Configuration(
        name="on-policy distillation, tulu3",
        module="distillation.on_policy_distillation",
        shows="-",
        arguments=(
            *_NAMED,
            _OVERWRITE,
            *_GROUPS,
            "eval_every=1",
            "max_tokens=8",
            f"teacher_model={MODEL}",
            "dataset=tulu3",
        ),
    ),
    Configuration(
        name="self-distillation (SDFT)",
        module="sdft.train",
        shows="top-k prompt logprobs as targets of shape (N, K)",
        arguments=(*_NAMED, _OVERWRITE, *_GROUPS, "max_tokens=8", "topk=4", "max_context_length=4096", "eval_every=0"),
    ),
    Configuration(
        name="guess the number",
        module="multiplayer_rl.guess_number.train",
        shows="several turns in one episode",
        arguments=(*_GAME, "group_size=2", "max_tokens=4"),
        in_ci=True,
    ),
    Configuration(
        name="twenty questions",
        module="multiplayer_rl.twenty_questions.train",
        shows="an answerer sampled beside the player",
        arguments=(*_GAME, "group_size=2", "max_tokens=4"),
    ),
    Configuration(
        name="tic-tac-toe",
        module="multiplayer_rl.text_arena.train",
        shows="two players of the same weights",
        arguments=(*_GAME, "max_tokens=4", "num_train_datapoints=8", "num_test_datapoints=4"),
    ),
    Configuration(
        name="rubrics",
        module="rubric.train",
        shows="rewards from a grader that is sampled too",
        arguments=(
            *_NAMED,
            _OVERWRITE,
            _THINKING_OFF,
            "groups_per_batch=4",
            "train_group_size=4",
            "lora_rank=4",
            "save_every=1",
            "max_tokens=4",
            "eval_every=0",
            f"grader_llm_name={MODEL}",
            "grader_renderer_name=qwen3_disable_thinking",
            "train_jsonl_path=rubrics.jsonl",
            "test_jsonl_path=rubrics.jsonl",
        ),
    ),
    Configuration(name="math RL, arithmetic", module="math_rl.train", shows="-", arguments=(*_MATH, "env=arithmetic")),
    Configuration(
        name="math RL, PPO in substeps",
        module="math_rl.train",
        shows="ppo, several optimizer steps on one batch",
        arguments=(*_MATH, "env=arithmetic", "loss_fn=ppo", "num_substeps=2"),
    ),
    Configuration(
        name="math RL, CISPO with thresholds",
        module="math_rl.train",
        shows="cispo, loss_fn_config",
        arguments=(*_MATH, "env=arithmetic", "loss_fn=cispo", 'loss_fn_config={"clip_high_threshold": 2.0}'),
    ),
    Configuration(
        name="math RL, DRO",
        module="math_rl.train",
        shows="dro",
        arguments=(*_MATH, "env=arithmetic", "loss_fn=dro"),
    ),
    Configuration(
        name="math RL, off-policy",
        module="math_rl.train",
        shows="sampling while training goes on",
        arguments=(*_MATH, "env=arithmetic", "max_steps_off_policy=2"),
    ),
    Configuration(
        name="math RL, streamed minibatches",
        module="math_rl.train",
        shows="forward_backward before all samples are there",
        arguments=(
            *_MATH,
            "env=arithmetic",
            "stream_minibatch_config.groups_per_batch=4",
            "stream_minibatch_config.num_minibatches=2",
        ),
    ),
    Configuration(
        name="math RL, gsm8k",
        module="math_rl.train",
        shows="its default loss (`stable_reinforce` since 0.6.1), divergence after the step",
        arguments=(*_GSM8K, "env=gsm8k", "eval_every=1", "compute_post_kl=True"),
        in_ci=True,
        learns=True,
    ),
    Configuration(
        name="math RL, gsm8k, importance sampling",
        module="math_rl.train",
        shows="-",
        arguments=(*_GSM8K, "env=gsm8k", "eval_every=0", "loss_fn=importance_sampling"),
        learns=True,
    ),
    Configuration(name="math RL, polaris", module="math_rl.train", shows="-", arguments=(*_MATH, "env=polaris")),
]

NOT_RUN = {
    "code_rl": "needs a sandbox that runs the programs",
    "harbor_rl": "needs containers",
    "search_tool": "needs a vector database and an embedding service",
    "verifiers_rl": "needs a package that pins other versions",
    "vlm_classifier, audio": "need images and sound, which the served families do not read",
}
"""Recipes whose reason lies outside the server, except the last: such inputs are refused by name."""
