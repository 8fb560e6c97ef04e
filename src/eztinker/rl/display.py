"""Console output of a run: one bar per kind of work, a table of the rounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from eztinker.rl.evaluate import Evaluation
from eztinker.rl.state import RoundReport

if TYPE_CHECKING:
    import tinker


LINE_SECONDS = 30.0
"""Time between two lines about the same work, where no bar can be shown."""


class Bars:
    """Progress bars that move whenever the server answers, whoever is being waited for."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @property
    def line(self) -> str:
        """The bars in words: what is under way and how far it has come."""
        waiting = [task for task in self._progress.tasks if not task.finished]
        return "; ".join(f"{task.description}: {task.completed:.0f} of {task.total:.0f}" for task in waiting)

    def watch(self, description: str, futures: Sequence[tinker.APIFuture[Any]]) -> None:
        """Show a bar of how many of `futures` are done."""
        task = self._progress.add_task(escape(description), total=len(futures))
        for future in futures:
            future.future().add_done_callback(lambda _: self._progress.advance(task))


class Display:
    """Prints to a console; every text from a model or a data set is shown as it is, never as markup."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def note(self, text: str) -> None:
        """Print a plain line."""
        self.console.print(escape(text))

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    @contextmanager
    def bars(self) -> Iterator[Bars]:
        """Show bars with the time that is left, for as long as the block runs."""
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=not self.console.is_terminal) as progress:
            bars = Bars(progress)
            with lines(self.console, lambda: bars.line):
                yield bars

    def rounds(self, rounds: Sequence[RoundReport], evaluations: Sequence[Evaluation]) -> None:
        """Print the per-round table, in 80 columns; `evaluations[i]` is of the adapter after i rounds."""
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in ("Round", "Right", "Solved", "Kept", "Loss", "Seconds", "Held-out, 95 %"):
            table.add_column(name, justify="right", no_wrap=True)
        for number, evaluation in enumerate(evaluations):
            cells = _round_cells(rounds[number - 1]) if number else ["before"] + [""] * 5
            table.add_row(*cells, accuracy_text(evaluation))
        self.console.print(table)


@contextmanager
def lines(console: Console, text: Callable[[], str], every_seconds: float = LINE_SECONDS) -> Iterator[None]:
    """Print `text()` and the time so far every now and then while the block runs, where the console is no terminal."""
    if console.is_terminal:
        yield
        return
    is_over = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not is_over.wait(every_seconds):
            if now := text():
                console.print(f"{now} after {time.monotonic() - started:.0f} s", markup=False, soft_wrap=True)

    thread = threading.Thread(target=tell, name="progress lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def counted(number: int, noun: str) -> str:
    """`1 round`, `3 rounds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def accuracy_text(evaluation: Evaluation) -> str:
    """An accuracy with its 95 % interval: `10.5 % [7.0, 15.5]`."""
    low, high = evaluation.interval
    return f"{100 * evaluation.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def interval_text(evaluation: Evaluation) -> str:
    """The 95 % interval of an accuracy in words: `95 % interval 7.0 to 15.5 %`."""
    low, high = evaluation.interval
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"


def _round_cells(report: RoundReport) -> list[str]:
    return [
        str(report.round),
        f"{100 * report.share_right:.1f} %",
        f"{report.num_solved}/{report.num_problems}",
        str(report.num_kept),
        "-" if report.mean_loss is None else f"{report.mean_loss:.3f}",
        f"{report.seconds:.1f}",
    ]
