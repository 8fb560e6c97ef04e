"""The four curves of a run, for the page and for the PNG files alike."""

from __future__ import annotations

from eztinker.rl.report.charts import Chart, Series
from eztinker.rl.state import RunState


def curves(state: RunState) -> dict[str, Chart]:
    """Charts by file name: accuracy, loss, share of right samples, length. One without a point is left out."""
    charts = {"accuracy": _accuracy(state), "loss": _loss(state), "right": _right(state), "length": _length(state)}
    return {name: chart for name, chart in charts.items() if chart.series[0].ys}


def _accuracy(state: RunState) -> Chart:
    return Chart(
        title="Held-out accuracy",
        x_labels=["before", *(f"round {report.round}" for report in state.rounds)],
        series=[
            Series(
                name="greedy, no examples",
                ys=[100 * evaluation.accuracy for evaluation in state.evaluations],
                intervals=[(100 * low, 100 * high) for low, high in (each.interval for each in state.evaluations)],
            )
        ],
        unit=" %",
        top=100,
        reference=("untrained, with worked examples", 100 * state.few_shot.accuracy) if state.few_shot else None,
    )


def _loss(state: RunState) -> Chart:
    losses = [loss for report in state.rounds for loss in report.losses]
    return Chart(
        title="Loss per trained token (nats), by optimizer step",
        x_labels=[str(step) for step in range(1, len(losses) + 1)],
        series=[Series(name="loss", ys=losses)],
    )


def _right(state: RunState) -> Chart:
    return Chart(
        title="Samples, right answers",
        x_labels=[f"round {report.round}" for report in state.rounds],
        series=[
            Series(name="of all samples", ys=[100 * report.share_right for report in state.rounds]),
            Series(
                name="problems with one",
                ys=[100 * report.num_solved / report.num_problems for report in state.rounds],
            ),
        ],
        unit=" %",
        top=100,
    )


def _length(state: RunState) -> Chart:
    return Chart(
        title="Length of a sample (tokens)",
        x_labels=[f"round {report.round}" for report in state.rounds],
        series=[Series(name="mean", ys=[report.mean_tokens for report in state.rounds])],
    )
