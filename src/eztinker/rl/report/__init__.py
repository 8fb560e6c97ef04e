"""Reports of a run: report.html after each round; summary.json and PNG plots at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eztinker.rl.buffer import write_atomically
from eztinker.rl.config import Recipe
from eztinker.rl.report.page import render_page, render_progress
from eztinker.rl.report.plots import save_plots
from eztinker.rl.report.summary import ADAPTER_DIR, REPORT_FILE, summarize
from eztinker.rl.rollouts import Rollout
from eztinker.rl.state import RunState

SUMMARY_FILE = "summary.json"
PLOTS_DIR = "plots"
REPORT_FILES = (REPORT_FILE, SUMMARY_FILE)
REPORT_DIRS = (PLOTS_DIR, ADAPTER_DIR)


def write_progress(recipe: Recipe, state: RunState, buffer: Sequence[Rollout], *, is_running: bool) -> None:
    """Write the page of a run that is not over: it reloads itself as long as the run goes on."""
    write_atomically(recipe.output_dir / REPORT_FILE, render_progress(recipe, state, buffer, is_running=is_running))


def write_report(recipe: Recipe, state: RunState, buffer: Sequence[Rollout], sampler_path: str) -> dict[str, Any]:
    """Write the report of a finished run into its output directory; returns what `summary.json` holds.

    Args:
        buffer: every rollout of the run, for the samples on the page.
        sampler_path: the tinker:// path of the trained adapter.
    """
    directory = recipe.output_dir
    summary = summarize(recipe, state, sampler_path)
    save_plots(directory / PLOTS_DIR, state)
    write_atomically(directory / REPORT_FILE, render_page(recipe, state, buffer, summary))
    write_atomically(directory / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def load_summary(directory: Path) -> dict[str, Any]:
    """Load `summary.json` of a run; empty where there is none that can be read."""
    try:
        summary = json.loads((directory / SUMMARY_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
