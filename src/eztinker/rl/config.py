"""What a rejection-sampling run may be told, and the recipe that comes of it for one model and data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from eztinker.errors import InvalidInput, NotFound
from eztinker.rl.connection import not_served

EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The base model every server has; too small for GSM8K, at home with one-step word problems."""

DatasetName = Literal["gsm8k", "arithmetic"]
PromptStyle = Literal["question_answer", "chat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """How one data set is asked and answered, and what suits it."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionSFTConfig:
    """What the user decides. None takes the default of the server or of the data set."""

    base_model: str | None = None
    """None: the embedded model where the server offers it, else the first it offers."""
    dataset: DatasetName | Literal["auto"] = "auto"
    """auto: one-step arithmetic for the embedded model, GSM8K for any other."""
    rounds: int = 3
    max_samples: int = 160
    """Problems per round; each round takes the next ones."""
    num_candidates: int = 4
    """Completions drawn per problem."""
    temperature: float = 0.8
    max_new_tokens: int | None = None
    keep_per_problem: int = 2
    """Distinct right completions of one problem that are trained on."""
    filter: bool = True
    """False trains on as many completions drawn at random, right or wrong: the control."""
    lora_rank: int = 8
    learning_rate: float | None = None
    batch_size: int = 32
    """Completions behind one optimizer step."""
    eval_size: int | None = None
    """Held-out problems answered greedily before the first round and after each."""
    few_shot_size: int = 100
    """Of these, how many the untrained model also answers with worked examples in the prompt."""
    seed: int = 0
    checkpoint: bool = False
    """Save after every round, and continue from there when run again."""
    reset_buffer: bool = False
    """Forget what an earlier run left in the output directory."""
    output_dir: Path | None = None
    """None: a directory under `runs/` named after the settings."""

    def __post_init__(self) -> None:
        counts = (
            "rounds", "max_samples", "num_candidates", "max_new_tokens", "keep_per_problem", "lora_rank", "batch_size",
            "eval_size",
        )  # fmt: skip
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name} must be at least 1, got {value}", field=name)
        if self.few_shot_size < 0:
            raise InvalidInput(f"few_shot_size must be 0 or more, got {self.few_shot_size}", field="few_shot_size")
        if not 0 < self.temperature <= 5:
            raise InvalidInput(
                f"temperature must be above 0, where all candidates are alike, and at most 5, got {self.temperature}",
                field="temperature",
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise InvalidInput(
                f"learning_rate must be between 0 and 1, got {self.learning_rate}", field="learning_rate"
            )
        if self.dataset not in ("auto", *TASKS):
            raise InvalidInput(f"dataset must be auto, {' or '.join(TASKS)}, got {self.dataset!r}", field="dataset")


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
