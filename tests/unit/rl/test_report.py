import html.parser
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eztinker.rl import RejectionSFTConfig
from eztinker.rl.config import EMBEDDED_MODEL, Recipe
from eztinker.rl.evaluate import Evaluation, GradedAnswer
from eztinker.rl.report import write_progress, write_report
from eztinker.rl.report.charts import Chart, Series, nice_ceiling
from eztinker.rl.report.summary import findings
from eztinker.rl.rollouts import Rollout
from eztinker.rl.state import RunState, round_report

HOSTILE = '<script>alert(1)</script> & "quotes" </td>'
SAMPLER_PATH = "tinker://s:train:0/sampler_weights/final"


def recipe(tmp_path: Path, **settings: Any) -> Recipe:
    return Recipe.of(RejectionSFTConfig(output_dir=tmp_path, **settings), [EMBEDDED_MODEL])


def evaluation(num_right: int, num_wrong: int) -> Evaluation:
    right = GradedAnswer(question=HOSTILE, ground_truth="1", completion=HOSTILE, is_right=True)
    wrong = GradedAnswer(question=HOSTILE, ground_truth="1", completion=HOSTILE, is_right=False)
    return Evaluation(answers=[right] * num_right + [wrong] * num_wrong)


def rollouts(reward: float) -> list[Rollout]:
    rollout = Rollout(
        round=1,
        question_id=0,
        question=HOSTILE,
        ground_truth="1",
        prompt=HOSTILE,
        completion=HOSTILE,
        tokens=[1, 2],
        logprobs=[-1.0, -1.0],
        is_finished=True,
        reward=reward,
        is_kept=reward == 1.0,
    )
    return [rollout]


def state(before: int, after: int, of: int, few_shot: int | None = None, reward: float = 1.0) -> RunState:
    return RunState(
        identity={},
        run_id="run_s:train:0",
        rounds=[round_report(rollouts(reward), [1.5] if reward else [], seconds=3.0)],
        evaluations=[evaluation(before, of - before), evaluation(after, of - after)],
        few_shot=None if few_shot is None else evaluation(few_shot, of - few_shot),
        seconds=3.25,
    )


class Tags(html.parser.HTMLParser):
    """Collects what a browser would see as tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_summary_has_the_keys_that_programs_read(tmp_path: Path):
    write_report(recipe(tmp_path, seed=5), state(21, 150, 200, few_shot=100), rollouts(1.0), SAMPLER_PATH)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    expected = {
        "accuracy_before": 0.105,
        "accuracy_few_shot_before": 0.5,
        "accuracy_after": 0.75,
        "n_eval": 200,
        "rounds": 1,
        "seconds": 3.2,
        "seed": 5,
        "base_model": EMBEDDED_MODEL,
        "dataset": "arithmetic",
    }
    assert {name: summary[name] for name in expected} == expected
    assert SAMPLER_PATH in summary["reuse_command"]


def test_the_page_shows_hostile_text_as_text_and_loads_nothing(tmp_path: Path):
    write_report(recipe(tmp_path), state(1, 3, 4, few_shot=2), rollouts(1.0) + rollouts(0.0), SAMPLER_PATH)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert tags.links == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_every_curve_is_also_a_png(tmp_path: Path):
    write_report(recipe(tmp_path), state(1, 3, 4), rollouts(1.0), SAMPLER_PATH)
    plots = {path.name: path.read_bytes()[:4] for path in (tmp_path / "plots").iterdir()}
    assert plots == dict.fromkeys(["accuracy.png", "length.png", "loss.png", "right.png"], b"\x89PNG")


def test_a_run_without_a_right_answer_has_a_report_that_says_so(tmp_path: Path):
    summary = write_report(
        recipe(tmp_path, dataset="gsm8k"), state(0, 0, 50, 1, reward=0.0), rollouts(0.0), SAMPLER_PATH
    )
    said = " ".join(summary["findings"])
    assert "nothing was trained" in said
    assert "near zero" in said
    assert not (tmp_path / "plots" / "loss.png").exists()


@pytest.mark.parametrize(
    ("before", "after", "few_shot", "words"),
    [
        (21, 150, 100, ["more than chance", "its arithmetic improved too"]),
        (21, 100, 100, ["more than chance", "form may be all it learned"]),
        (21, 25, 100, ["may be chance"]),
        (150, 21, 100, ["got worse"]),
    ],
)
def test_the_findings_claim_no_more_than_the_numbers_do(
    tmp_path: Path, before: int, after: int, few_shot: int, words: list[str]
):
    said = " ".join(findings(recipe(tmp_path), state(before, after, 200, few_shot)))
    assert all(word in said for word in words), said


def test_worked_examples_on_fewer_problems_say_on_how_many(tmp_path: Path):
    on_all = state(21, 150, 200, few_shot=100)
    assert "already reaches 50.0 %. The" in " ".join(findings(recipe(tmp_path), on_all))
    on_few = replace(on_all, few_shot=evaluation(13, 7))
    assert "already reaches 65.0 % (on 20 of the problems). The" in " ".join(findings(recipe(tmp_path), on_few))


def test_the_control_is_called_a_control(tmp_path: Path):
    said = " ".join(findings(recipe(tmp_path, filter=False), state(21, 10, 200, 100)))
    assert "control" in said
    assert "improved" not in said


@pytest.mark.parametrize(("value", "ceiling"), [(0, 1), (0.3, 0.4), (1, 1), (1.01, 2), (7.2, 10), (240, 250)])
def test_axes_end_at_round_numbers(value: float, ceiling: float):
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_a_chart_with_one_point_and_a_zero_is_drawn():
    svg = Chart(title="T", x_labels=["<1>"], series=[Series(name="s", ys=[0.0])]).svg
    assert "&lt;1&gt;" in svg
    assert "nan" not in svg


def test_a_run_that_goes_on_has_a_page_that_reloads_itself_and_one_that_is_over_has_not(tmp_path: Path):
    finished = state(1, 3, 4, few_shot=2)
    unmeasured = replace(finished, evaluations=finished.evaluations[:1])
    pages = []
    for is_running in (True, False):
        write_progress(recipe(tmp_path), unmeasured, rollouts(1.0), is_running=is_running)
        pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    write_report(recipe(tmp_path), finished, rollouts(1.0), SAMPLER_PATH)
    pages.append((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert ['http-equiv="refresh"' in page for page in pages] == [True, False, False]
    assert ["Use the adapter" in page for page in pages] == [False, False, True]
    assert ["not measured yet" in page for page in pages] == [True, True, False]
    assert "1 of 3 rounds done" in pages[0]
    assert "Stopped after 1 of 3 rounds; the same command goes on" in pages[1]
    assert "EZTinker: 1 round of 160 problems" in " ".join(pages[2].split())


def test_rounding_noise_is_drawn_and_told_as_0():
    svg = Chart(title="Loss", x_labels=["1"], series=[Series(name="loss", ys=[2.77e-17])]).svg
    assert "e-" not in svg
    assert "loss: 0" in svg
