"""Settings of a rejection-sampling run, and the recipe they give for one model and data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from eztinker.errors import NotFound
from eztinker.rl.connection import not_served
from eztinker.settings.schema import Shown, check_dataclass

EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The base model every server has; too small for GSM8K, at home with one-step word problems."""

DatasetName = Literal["arithmetic", "gsm8k"]
PromptStyle = Literal["question_answer", "chat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Prompts, limits and defaults that suit one data set."""

    prompt_style: PromptStyle
    """`chat` falls back to `question_answer` where the tokenizer has no chat template."""
    max_new_tokens: int
    stop: tuple[str, ...]
    """Text that ends a completion; the end-of-sequence token always does."""
    learning_rate: float
    eval_size: int


TASKS: dict[DatasetName, Task] = {
    "arithmetic": Task(
        prompt_style="question_answer", max_new_tokens=24, stop=("\n",), learning_rate=1e-3, eval_size=300
    ),
    "gsm8k": Task(prompt_style="chat", max_new_tokens=320, stop=("\nQuestion:",), learning_rate=2e-4, eval_size=200),
}


def _per_dataset(name: str) -> str:
    """A default that depends on the data set, in words."""
    return ", ".join(f"{getattr(task, name):g} for {dataset}" for dataset, task in TASKS.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionSFTConfig:
    """Settings of a run, as the user decides them. None takes the default of the server or of the data set.

    Raises:
        InvalidInput: a value that cannot work; the message says what would.
    """

    base_model: Annotated[
        str | None,
        Field(description="Base model to train, which the server has to serve."),
        Shown(metavar="NAME", default="the embedded model, else the first that is served"),
    ] = None
    dataset: Annotated[
        Literal["auto", DatasetName],
        Field(
            description="The problems. With auto, one-step arithmetic for the embedded model, and GSM8K for any other."
        ),
    ] = "auto"
    rounds: Annotated[
        int, Field(ge=1, description="Times to sample and train."), Shown(flags=("--rounds", "--epochs"))
    ] = 3
    max_samples: Annotated[int, Field(ge=1, description="Problems per round. Each round takes the next ones.")] = 160
    num_candidates: Annotated[int, Field(ge=1, description="Answers drawn per problem.")] = 4
    temperature: Annotated[
        float,
        Field(gt=0, le=5, description="Temperature of the samples. Evaluation is greedy."),
        Shown(bounds="above 0, where all candidates are alike, and at most 5"),
    ] = 0.8
    max_new_tokens: Annotated[
        int | None,
        Field(ge=1, description="Tokens in one answer at most."),
        Shown(default=_per_dataset("max_new_tokens")),
    ] = None
    keep_per_problem: Annotated[
        int, Field(ge=1, description="Different right answers to one problem that are trained on.")
    ] = 2
    filter: Annotated[
        bool,
        Field(
            description="Train on right answers alone; --no-filter takes random ones, right or wrong, as a control. "
            "There are as many of them as there would have been right ones."
        ),
    ] = True
    lora_rank: Annotated[int, Field(ge=1, description="Rank of the adapter.")] = 8
    learning_rate: Annotated[
        float | None,
        Field(gt=0, lt=1, description="Learning rate of AdamW."),
        Shown(default=_per_dataset("learning_rate")),
    ] = None
    batch_size: Annotated[int, Field(ge=1, description="Answers behind one optimizer step.")] = 32
    eval_size: Annotated[
        int | None,
        Field(ge=1, description="Held-out problems. They are answered before the first round and after each."),
        Shown(default=_per_dataset("eval_size")),
    ] = None
    few_shot_size: Annotated[
        int,
        Field(
            ge=0,
            description="Held-out problems answered with worked examples too. The untrained model does so, and shows "
            "what its prompt alone can do.",
        ),
    ] = 100
    seed: Annotated[int, Field(description="Decides problems, samples and adapter.")] = 0
    checkpoint: Annotated[bool, Field(description="Save after every round, and go on from there when run again.")] = (
        False
    )
    reset_buffer: Annotated[
        bool,
        Field(description="Forget what an earlier run with these settings left."),
        Shown(flags=("--fresh", "--reset-buffer")),
    ] = False
    output_dir: Annotated[
        Path | None,
        Field(description="Where report and adapter go."),
        Shown(default="a directory under runs/ named after the settings"),
    ] = None

    def __post_init__(self) -> None:
        check_dataclass(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A configuration with everything it left open decided."""

    config: RejectionSFTConfig
    base_model: str
    dataset: DatasetName
    max_new_tokens: int
    learning_rate: float
    eval_size: int

    @classmethod
    def of(cls, config: RejectionSFTConfig, served_models: Sequence[str]) -> Recipe:
        """The recipe on a server that offers `served_models`.

        Raises:
            NotFound: the model asked for is not among them.
        """
        base_model = choose_base_model(config.base_model, served_models)
        dataset = config.dataset
        if dataset == "auto":
            dataset = "arithmetic" if base_model == EMBEDDED_MODEL else "gsm8k"
        task = TASKS[dataset]
        return cls(
            config=config,
            base_model=base_model,
            dataset=dataset,
            max_new_tokens=config.max_new_tokens or task.max_new_tokens,
            learning_rate=config.learning_rate or task.learning_rate,
            eval_size=config.eval_size or task.eval_size,
        )

    @property
    def task(self) -> Task:
        return TASKS[self.dataset]

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a continued run must share with the one it continues; `rounds` may grow."""
        own = {name: value for name, value in asdict(self).items() if name != "config"}
        names = ("max_samples", "num_candidates", "temperature", "keep_per_problem", "filter", "lora_rank")
        shared = {name: getattr(self.config, name) for name in (*names, "batch_size", "few_shot_size", "seed")}
        return own | shared

    @property
    def output_dir(self) -> Path:
        """The directory asked for, else one under `runs/` whose name differs wherever the identity does."""
        if self.config.output_dir is not None:
            return self.config.output_dir
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:6]
        model = self.base_model.rstrip("/").rsplit("/", 1)[-1]
        kind = "" if self.config.filter else "-control"
        return Path("runs") / f"{self.dataset}-{model}-seed{self.config.seed}{kind}-{digest}"


def choose_base_model(named: str | None, served_models: Sequence[str]) -> str:
    """The model asked for, else the embedded one, else the first served.

    Raises:
        NotFound: the server does not offer it, or offers none.
    """
    if named is not None and named not in served_models:
        raise not_served(named, served_models)
    if not served_models:
        raise NotFound("The server serves no model; start it with: eztinker server --base-model NAME")
    return named or (EMBEDDED_MODEL if EMBEDDED_MODEL in served_models else served_models[0])
