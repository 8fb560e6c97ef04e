"""Rejection-sampling SFT: draw answers, keep the verified ones, train on them, measure, repeat.

Source: the rejection-sampling step of Cobbe et al. 2021 (arXiv:2110.14168) and the loop of Zelikman et al. 2022, "STaR"
(arXiv:2203.14465). It departs from STaR in two ways: every round goes on from the last adapter, not from the base
model, and each round asks new problems.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from eztinker.dataset.start_tokens import encode_prompt
from eztinker.errors import ConfigError, NotFound, UserError
from eztinker.extras import require_recipes
from eztinker.rl.adapter import download_adapter
from eztinker.rl.buffer import load_buffer, save_buffer
from eztinker.rl.config import Recipe, RejectionSFTConfig
from eztinker.rl.connection import sdk_errors, served_models
from eztinker.rl.display import Bars, Display, accuracy_text, counted
from eztinker.rl.evaluate import PendingEvaluation, submit_evaluation
from eztinker.rl.interrupts import RunInterrupted
from eztinker.rl.problems import Problem, ProblemSet
from eztinker.rl.report import REPORT_DIRS, REPORT_FILES, load_summary, write_progress, write_report
from eztinker.rl.report.summary import ADAPTER_DIR
from eztinker.rl.rollouts import Rollout, graded, keep_random, keep_right
from eztinker.rl.runs import OpenRun, has_checkpoint, new_run, resume_run
from eztinker.rl.sampling import AdapterSampler, SamplingSpec, stop_token_id
from eztinker.rl.state import STATE_FILE, RunState, load_state, round_report, save_state
from eztinker.rl.training import Example, submit_step
from eztinker.settings.home import require_directory

BUFFER_FILE = "buffer.jsonl"


def run_rejection_sft(config: RejectionSFTConfig, display: Display | None = None) -> dict[str, Any]:
    """Train, measure and report as `config` says; returns what `summary.json` holds.

    Raises:
        ServerUnreachable: no server answers; the message says how to start one.
        NotFound: the server does not serve the base model.
        DataNotFound: the data set must be fetched first.
        AlreadyExists: the output directory holds a run with other settings.
        ConfigError: a file is where the output directory or a directory in it goes, or the reverse.
        NotInstalled: a package that grades answers or draws plots is missing.
        RunInterrupted: Ctrl-C.
    """
    display = display or Display()
    recipe, state = _prepared(config)
    if state is not None and (sampler_path := _saved_adapter(recipe, state)):
        return _repeat_report(recipe, state, sampler_path, display)
    return RejectionSFT.start(recipe, state, display).run()


def require_packages() -> None:
    """Make sure of what is needed at the end of a run too, before anything is started.

    Raises:
        NotInstalled: with the command that installs it.
    """
    require_recipes("math-verify", "matplotlib", feature="Rejection-sampling fine-tuning")


def check_output_dir(directory: Path) -> None:
    """Make sure that nothing is in the way of the files and directories that a run writes.

    Raises:
        ConfigError: a file is where a directory goes, or the reverse.
    """
    require_directory(directory, "the output directory")
    for name in REPORT_DIRS:
        require_directory(directory / name, f"the directory {name} of a run")
    for name in (BUFFER_FILE, STATE_FILE, *REPORT_FILES):
        if (directory / name).is_dir():
            raise ConfigError(f"{directory / name} is a directory, and a run writes a file there; remove it")


class RejectionSFT:
    """A run of all rounds, on the server that the environment names.

    Each round draws from the adapter as the round before left it. What needs the same adapter is asked at once: a
    round's samples and the held-out measurement of the adapter they come from share the server's running batch.
    """

    def __init__(self, recipe: Recipe, run: OpenRun, problems: ProblemSet, state: RunState, display: Display) -> None:
        self._recipe = recipe
        self._config = recipe.config
        self._run = run
        self._problems = problems
        self._state = state
        self._display = display
        self._directory = recipe.output_dir

    @classmethod
    def open(cls, config: RejectionSFTConfig, display: Display) -> RejectionSFT:
        """Start a run, or with `checkpoint` resume the one that an earlier process left unfinished."""
        return cls.start(*_prepared(config), display)

    @classmethod
    def start(cls, recipe: Recipe, state: RunState | None, display: Display) -> RejectionSFT:
        """Start the run of `recipe`, or resume the one that left `state`."""
        if state is not None and state.checkpoint_path is not None:
            run = _resumed(state.run_id, state.checkpoint_path)
            display.note(
                f"Going on after round {len(state.rounds)} of the run in {recipe.output_dir}; --fresh starts over"
            )
        else:
            run = new_run(recipe.base_model, recipe.config.lora_rank, seed=recipe.config.seed)
            state = replace(state or RunState(identity=recipe.identity), run_id=run.run_id)
        return cls(recipe, run, ProblemSet.of(recipe, run.tokenizer), state, display)

    def run(self) -> dict[str, Any]:
        """Do all rounds that are left and write the report; returns what `summary.json` holds."""
        self._announce()
        try:
            while len(self._state.rounds) < self._config.rounds:
                self._do_round(len(self._state.rounds) + 1)
                self._show_progress(is_running=True)
            self._measure_final_adapter()
            return self._finish()
        except KeyboardInterrupt as interrupt:
            self._show_progress(is_running=False)
            raise RunInterrupted(self._kept()) from interrupt

    def _kept(self) -> str:
        """Say what an interrupted run leaves, and how it goes on."""
        number = len(self._state.rounds)
        kept = [counted(number, "finished round")] if number and self._config.checkpoint else []
        if self._rollouts_of_earlier_try(number + 1):
            kept.append(f"the samples of round {number + 1}")
        if not kept:
            return "Stopped in round 1; nothing is kept yet. The same command begins again."
        if not self._config.checkpoint:
            return f"Stopped. Kept in {self._directory}: {kept[0]}; a run with --checkpoint can go on after a stop."
        return (
            f"Stopped. Kept in {self._directory}: {' and '.join(kept)}. The same command goes on from there; "
            "--fresh starts over."
        )

    def _show_progress(self, *, is_running: bool) -> None:
        """Write the page of an unfinished run, as soon as there is anything to see on it."""
        if self._state.rounds and self._state.evaluations:
            write_progress(self._recipe, self._state, _buffer(self._directory), is_running=is_running)

    def _do_round(self, number: int) -> None:
        started = time.monotonic()
        self._display.heading(f"Round {number} of {self._config.rounds}")
        rollouts = self._rollouts_of_earlier_try(number) or self._sample(number)
        sampled = time.monotonic()
        losses = self._train(rollouts, number)
        path = self._checkpoint(number) if self._config.checkpoint else None
        report = round_report(rollouts, losses, time.monotonic() - started)
        self._state = replace(
            self._state,
            rounds=[*self._state.rounds, report],
            checkpoint_path=path,
            seconds=self._state.seconds + report.seconds,
        )
        self._save_state()
        self._display.note(
            f"{report.num_right} of {report.num_sampled} right, {report.num_kept} kept; "
            f"sampled for {sampled - started:.0f} s, trained for {time.monotonic() - sampled:.0f} s"
        )

    def _sample(self, number: int) -> list[Rollout]:
        """Draw and grade one round's answers; measure the adapter they come from along the way."""
        asked = self._problems.of_round(number)
        sampler = self._run.sampler()
        with self._display.bars() as bars:
            samples = [
                sampler.submit(problem.prompt, self._config.num_candidates, self._sampling_spec(number, place))
                for place, problem in enumerate(asked)
            ]
            bars.watch(f"Sampling with the round-{number - 1} adapter", [each.response for each in samples])
            self._measure(sampler, bars)
            rollouts = graded(self._problems.train, number, asked, [each.result() for each in samples])
        rollouts = self._marked(rollouts, number)
        self._save_state()  # before the buffer: whoever finds the samples must find the measurement too
        self._save_buffer(number, rollouts)
        return rollouts

    def _marked(self, rollouts: list[Rollout], number: int) -> list[Rollout]:
        """Mark what is trained on. The control takes as many as the filter would, and at least one batch."""
        filtered = keep_right(rollouts, self._config.keep_per_problem)
        if self._config.filter:
            return filtered
        num_kept = max(sum(rollout.is_kept for rollout in filtered), self._config.batch_size)
        return keep_random(rollouts, num_kept, random.Random(f"control/{self._config.seed}/{number}"))

    def _train(self, rollouts: list[Rollout], number: int) -> list[float]:
        """Train on the kept rollouts once; returns the loss of each optimizer step."""
        tokenizer = self._run.tokenizer
        examples = [
            Example(prompt_tokens=encode_prompt(tokenizer, rollout.prompt), completion_tokens=rollout.tokens)
            for rollout in rollouts
            if rollout.is_kept
        ]
        if not examples:
            self._display.note(
                "No right answer in this round, so there is nothing to train on; the adapter stays as it is"
            )
            return []
        random.Random(f"order/{self._config.seed}/{number}").shuffle(examples)
        size = self._config.batch_size
        with self._display.bars() as bars:
            steps = [
                submit_step(
                    self._run.client,
                    examples[start : start + size],
                    stop_token_id(tokenizer),
                    self._recipe.learning_rate,
                )
                for start in range(0, len(examples), size)
            ]
            bars.watch(f"Training on {counted(len(examples), 'answer')}", [step.optim_step for step in steps])
            return [step.mean_loss() for step in steps]

    def _checkpoint(self, number: int) -> str:
        with sdk_errors():
            return self._run.save(f"round-{number}").result().path

    def _measure(self, sampler: AdapterSampler, bars: Bars) -> None:
        """Measure held-out accuracy, unless an earlier try has it; before any training, few-shot too."""
        num_trained = len(self._state.rounds)
        if len(self._state.evaluations) > num_trained:
            return
        few_shot: PendingEvaluation | None = None
        held_out = self._submit_evaluation(sampler, self._problems.held_out_problems())
        bars.watch("Held-out problems, greedy", [each.response for each in held_out.completions])
        if num_trained == 0 and (problems := self._problems.few_shot_problems()):
            few_shot = self._submit_evaluation(sampler, problems)
            bars.watch("The same with worked examples", [each.response for each in few_shot.completions])
        evaluation = held_out.result()
        self._state = replace(
            self._state,
            evaluations=[*self._state.evaluations, evaluation],
            few_shot=few_shot.result() if few_shot else self._state.few_shot,
        )
        self._display.note(f"Held-out accuracy after {counted(num_trained, 'round')}: {accuracy_text(evaluation)}")

    def _submit_evaluation(self, sampler: AdapterSampler, problems: list[Problem]) -> PendingEvaluation:
        recipe = self._recipe
        return submit_evaluation(sampler, self._problems.held_out, problems, recipe.max_new_tokens, recipe.task.stop)

    def _measure_final_adapter(self) -> None:
        started = time.monotonic()
        with self._display.bars() as bars:
            self._measure(self._run.sampler(), bars)
        self._state = replace(self._state, seconds=self._state.seconds + time.monotonic() - started)
        self._save_state()

    def _finish(self) -> dict[str, Any]:
        """Save and fetch the adapter, and write the report."""
        sampler_path = self._run.save_for_sampling("final")
        download_adapter(self._run.client, "final", self._directory / ADAPTER_DIR)
        summary = write_report(self._recipe, self._state, _buffer(self._directory), sampler_path)
        self._display.rounds(self._state.rounds, self._state.evaluations)
        return summary

    def _sampling_spec(self, number: int, place: int) -> SamplingSpec:
        """The sampling of one problem; its own seed makes a run repeatable whatever else the server does."""
        return SamplingSpec(
            max_tokens=self._recipe.max_new_tokens,
            temperature=self._config.temperature,
            stop=self._recipe.task.stop,
            seed=random.Random(f"sample/{self._config.seed}/{number}/{place}").getrandbits(31),
        )

    def _rollouts_of_earlier_try(self, number: int) -> list[Rollout]:
        """Rollouts that a run which stopped in the middle of this round had already drawn."""
        entries = load_buffer(self._directory / BUFFER_FILE)
        return [msgspec.convert(entry, Rollout) for entry in entries if entry.get("round") == number]

    def _save_buffer(self, number: int, rollouts: list[Rollout]) -> None:
        path = self._directory / BUFFER_FILE
        earlier = [entry for entry in load_buffer(path) if entry.get("round", 0) < number]
        save_buffer(path, [*earlier, *map(asdict, rollouts)])

    def _save_state(self) -> None:
        if self._config.checkpoint:
            save_state(self._directory, self._state)

    def _announce(self) -> None:
        recipe, config = self._recipe, self._config
        kind = "verified answers" if config.filter else "random answers, right or wrong (control)"
        self._display.note(
            f"{recipe.base_model} on {recipe.dataset}: {counted(config.rounds, 'round')} of "
            f"{counted(config.max_samples, 'problem')} x {counted(config.num_candidates, 'answer')}, "
            f"trained on {kind}; LoRA rank {config.lora_rank}, "
            f"learning rate {recipe.learning_rate:g}, results in {self._directory}"
        )


def _prepared(config: RejectionSFTConfig) -> tuple[Recipe, RunState | None]:
    """Check what can be checked before a start; returns the recipe, and the state of an earlier run to go on from."""
    require_packages()
    recipe = Recipe.of(config, served_models())
    check_output_dir(recipe.output_dir)
    return recipe, _earlier_state(recipe)


def _saved_adapter(recipe: Recipe, state: RunState) -> str | None:
    """The tinker:// path of the final adapter, if all rounds are done and it is saved on the server and here."""
    summary = load_summary(recipe.output_dir)
    path = summary.get("sampler_path")
    is_finished = (
        recipe.config.rounds <= len(state.rounds) < len(state.evaluations)
        and (summary.get("run_id"), summary.get("rounds")) == (state.run_id, len(state.rounds))
        and (recipe.output_dir / ADAPTER_DIR / "adapter_model.safetensors").is_file()
    )
    return path if path and is_finished and has_checkpoint(state.run_id, path) else None


def _repeat_report(recipe: Recipe, state: RunState, sampler_path: str, display: Display) -> dict[str, Any]:
    """Say that the run is finished, and write its report again; returns what `summary.json` holds."""
    number = counted(len(state.rounds), "round")
    display.note(f"The run in {recipe.output_dir} is finished after {number}; more --rounds go on, --fresh starts over")
    summary = write_report(recipe, state, _buffer(recipe.output_dir), sampler_path)
    display.rounds(state.rounds, state.evaluations)
    return summary


def _buffer(directory: Path) -> list[Rollout]:
    return [msgspec.convert(entry, Rollout) for entry in load_buffer(directory / BUFFER_FILE)]


def _resumed(run_id: str, checkpoint_path: str) -> OpenRun:
    """Resume a run of an earlier process.

    Raises:
        NotFound: the checkpoint is on another server, or was deleted.
    """
    try:
        return resume_run(run_id, checkpoint_path)
    except UserError as error:  # the server finds out in an operation, whose failure has no kind but its category
        raise NotFound(
            f"The run cannot go on: {error.message}. Use the server that has it, or start over with --fresh"
        ) from error


def _earlier_state(recipe: Recipe) -> RunState | None:
    """The state of an earlier run, if this one is to go on from it; otherwise its files are removed.

    A run without checkpoints leaves samples without a state, so nothing tells which settings they were drawn with.
    """
    if recipe.config.checkpoint and not recipe.config.reset_buffer:
        state = load_state(recipe.output_dir, recipe)
        if state is not None:
            return state
    for name in (BUFFER_FILE, STATE_FILE):
        (recipe.output_dir / name).unlink(missing_ok=True)
    return None
