"""report.html: one file without anything to load, readable in a light or a dark browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from eztinker.rl.config import Recipe
from eztinker.rl.display import accuracy_text, counted, interval_text
from eztinker.rl.evaluate import Evaluation, GradedAnswer
from eztinker.rl.report.curves import curves
from eztinker.rl.report.summary import summarize
from eztinker.rl.rollouts import Rollout
from eztinker.rl.state import RunState

_SAMPLES_PER_KIND = 8
RELOAD_SECONDS = 10
"""Time between two reloads of an open page, while the run goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One held-out problem, answered before and after training."""

    before: GradedAnswer
    after: GradedAnswer

    @property
    def kind(self) -> str:
        if self.before.is_right:
            return "kept" if self.after.is_right else "lost"
        return "gained" if self.after.is_right else "missed"


KINDS = {
    "gained": "wrong, then right",
    "kept": "right both times",
    "lost": "right, then wrong",
    "missed": "wrong both times",
}


def render_page(recipe: Recipe, state: RunState, buffer: Sequence[Rollout], summary: dict[str, Any]) -> str:
    """The page of a finished run. Every text from a model or a data set is escaped."""
    return _render(recipe, state, buffer, summary, is_finished=True, is_running=False)


def render_progress(recipe: Recipe, state: RunState, buffer: Sequence[Rollout], *, is_running: bool) -> str:
    """The page of a run in which at least one round is done and the untrained model is measured."""
    measured = replace(state, rounds=state.rounds[: len(state.evaluations) - 1])
    rounds = f"{len(state.rounds)} of {counted(recipe.config.rounds, 'round')}"
    sentence = (
        f"{rounds} done; this page reloads itself until the run is over."
        if is_running
        else f"Stopped after {rounds}; the same command goes on from there."
    )
    summary = summarize(recipe, measured, sampler_path="") | {"findings": [sentence]}
    return _render(recipe, state, buffer, summary, is_finished=False, is_running=is_running)


def _render(
    recipe: Recipe,
    state: RunState,
    buffer: Sequence[Rollout],
    summary: dict[str, Any],
    *,
    is_finished: bool,
    is_running: bool,
) -> str:
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("eztinker.rl.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    comparisons = compare(state.evaluations[0], state.evaluations[-1])
    accuracies = [accuracy_text(evaluation) for evaluation in state.evaluations]
    return templates.get_template("page.html").render(
        recipe=recipe,
        config=recipe.config,
        state=state,
        summary=summary,
        is_finished=is_finished,
        reload_seconds=RELOAD_SECONDS if is_running else None,
        num_rounds=counted(len(state.rounds), "round"),
        num_measured=len(state.evaluations) - 1,
        charts=list(curves(state).values()),
        accuracies=accuracies + ["not measured yet"] * (len(state.rounds) + 1 - len(accuracies)),
        intervals=[interval_text(evaluation) for evaluation in state.evaluations],
        few_shot_interval=interval_text(state.few_shot) if state.few_shot else None,
        kinds=KINDS,
        counts={kind: sum(each.kind == kind for each in comparisons) for kind in KINDS},
        comparisons=[each for kind in KINDS for each in _first(each for each in comparisons if each.kind == kind)],
        trained=_first(rollout for rollout in buffer if rollout.is_kept),
        rejected=_first(rollout for rollout in buffer if not rollout.is_right),
    )


def compare(before: Evaluation, after: Evaluation) -> list[Comparison]:
    """The answers of two adapters to the same problems, side by side."""
    return [Comparison(before=first, after=second) for first, second in zip(before.answers, after.answers, strict=True)]


def _first(items: Iterable[Any]) -> list[Any]:
    return list(islice(items, _SAMPLES_PER_KIND))
